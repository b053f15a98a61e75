"""Whatever is wrong in a file is found, named, and shown where it stands."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors, Diagnostic
from compiler.source.tree import plain
from runtime.application import ModelSpec
from tests.compiler.support import tree

COMPLETE = """\
enabled: true
deployment_config:
  autoscaling_config:
    min_replicas: 1
    max_replicas: 2
    target_ongoing_requests: 4.0
    aggregation_function: mean
  ray_actor_options:
    num_cpus: 1
    accelerator_type: A10G
  max_ongoing_requests: 16
  health_check_period_s: 5.0
model_config:
  model_id: acme/model
  warmup: true
  max_input_words: 100
  initialization:
    revision: main
    s3_mirror_config:
      bucket_uri: s3://mirror/model/
    initializer:
      type: llamaCpp
      model_filename: model.gguf
      model_init_kwargs:
        n_ctx: 2048
        use_mmap: true
  generation:
    max_batch_size: 4
    generate_kwargs:
      do_sample: true
      max_new_tokens: 64
      temperature: 0.5
    prompt_format: "{instruction}"
scaling_config:
  num_workers: 1
  num_gpus_per_worker: 0
  placement_strategy: PACK
"""
LINES = COMPLETE.splitlines()
LEAVES = [number for number, line in enumerate(LINES) if not line.endswith(":")]
MAPPINGS = [number for number, line in enumerate(LINES) if line.endswith(":")]


def found_in(text: str) -> list[Diagnostic]:
    try:
        validate(tree(text, "registry/acme--model.yaml"), ModelSpec)
    except ConfigErrors as errors:
        return errors.diagnostics
    return []


def key_of(line: str) -> str:
    return line.partition(":")[0].strip()


def with_line(number: int, line: str) -> str:
    return "\n".join([*LINES[:number], line, *LINES[number + 1 :], ""])


def test_the_example_is_right() -> None:
    assert found_in(COMPLETE) == []
    assert plain(tree(COMPLETE))["enabled"] is True


@pytest.mark.parametrize("number", LEAVES, ids=lambda number: key_of(LINES[number]))
def test_a_value_of_the_wrong_kind_is_shown_at_its_line(number: int) -> None:
    indent, key = LINES[number].partition(key_of(LINES[number]))[0], key_of(LINES[number])
    found = found_in(with_line(number, f"{indent}{key}: [[1], x]"))
    assert found, key
    assert all(f"{key}`" in each.message for each in found), key
    assert {each.primary.span.line for each in found} == {number + 1}


@pytest.mark.parametrize("number", range(len(LINES)), ids=lambda number: key_of(LINES[number]))
def test_a_key_with_a_letter_too_many_is_shown_with_the_right_one(number: int) -> None:
    key = key_of(LINES[number])
    if key in ("env_vars", "type"):  # any key may be there; without `type` nothing else can be judged
        return
    found = found_in(with_line(number, LINES[number].replace(key, f"{key}x", 1)))
    unknown = [each for each in found if each.code == "E301"]
    assert [each.primary.span.line for each in unknown] == [number + 1]
    assert unknown[0].help == f"did you mean `{key}`?"


@given(st.lists(st.sampled_from(LEAVES), unique=True, min_size=2, max_size=5))
def test_all_findings_come_at_once(numbers: list[int]) -> None:
    assume(not any(key_of(LINES[number]) == "type" for number in numbers))
    lines = [f"{line.partition(':')[0]}: [[1], x]" if n in numbers else line for n, line in enumerate(LINES)]
    found = found_in("\n".join([*lines, ""]))
    assert {each.primary.span.line for each in found} == {number + 1 for number in numbers}


@given(st.sampled_from(MAPPINGS), st.sampled_from(["7", "text", "[]", "true"]))
def test_a_section_that_is_no_mapping_is_shown_at_its_line(number: int, value: str) -> None:
    indent = len(LINES[number]) - len(LINES[number].lstrip())
    rest = LINES[number + 1 :]
    inside = next((n for n, line in enumerate(rest) if len(line) - len(line.lstrip()) <= indent), len(rest))
    found = found_in("\n".join([*LINES[:number], f"{LINES[number]} {value}", *rest[inside:], ""]))
    assert [each.primary.span.line for each in found] == [number + 1]
    assert "must be" in found[0].message and "a mapping" in found[0].message


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('  warmup: "true"', "true or false, not a string"),
        ("  warmup: 1", "true or false, not an integer"),
        ("  max_input_words: 1.0", "an integer, not a float"),
        ('  max_input_words: "100"', "an integer, not a string"),
        ("  max_input_words: true", "an integer, not a boolean"),
        ("  model_id: null", "a string, not null"),
    ],
)
def test_nothing_is_coerced(line: str, value: str) -> None:
    number = next(n for n, each in enumerate(LINES) if key_of(each) == key_of(line))
    assert [value in each.message for each in found_in(with_line(number, line))] == [True]


def stops(value: str) -> Any:
    number = next(n for n, each in enumerate(LINES) if key_of(each) == "prompt_format")
    text = with_line(number, f"    stopping_sequences: {value}")
    return validate(tree(text), ModelSpec).model.generation.stopping_sequences


def test_stops_are_strings_ids_or_lists_of_ids() -> None:
    assert stops('"###"') == ["###"]
    assert stops("2") == [2]
    assert stops('["###", 2, [3, 4]]') == ["###", 2, [3, 4]]
    for wrong in ("true", "[1.5]", "[-1]", "[[a]]", '[""]', "[[]]", "{}"):
        with pytest.raises(ConfigErrors, match="stopping_sequences"):
            stops(wrong)
