"""Templates say what Jinja2 says, as far as they may; and whatever somebody types is a finding, not a crash."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, StrictUndefined

from compiler.layering.template import MAX_RESULT, evaluate
from compiler.source.expression import MAX_LENGTH, mistakes
from compiler.source.tags import TEMPLATE
from compiler.source.tree import Entry, Mapping, Scalar, plain
from tests.compiler.support import tree

CONFIG = """
model_config: {model_id: acme/Chat-7b, warmup: true, model_task: "", generation: {max_batch_size: 4}}
scaling_config: {num_workers: 2, num_gpus_per_worker: 0.5}
"""
NAMES = ("model_id", "model_config.model_task", "scaling_config.num_workers", "scaling_config.num_gpus_per_worker",
         "model_config.generation.max_batch_size")  # fmt: skip


def with_template(text: str) -> Mapping:
    """The config, and `text` as a template in `x`."""
    config = tree(CONFIG)
    return Mapping({**config.entries, "x": Entry("x", config.span, Scalar(text, config.span, TEMPLATE))}, config.span)


def evaluated(text: str) -> object:
    """What a template becomes; its finding's message where it has no value."""
    result, found = evaluate(with_template(text))
    return found[0].message if found else plain(result)["x"]


def expression(random: Random, depth: int = 3) -> str:
    """An expression of those allowed, with values that have one text in Jinja2 too."""
    if not depth or random.random() < 0.3:
        return random.choice([*NAMES, "'a'", "'b/c'", "7"])
    parts = [expression(random, depth - 1) for _ in range(3)]
    return random.choice(
        [
            f"({parts[0]} ~ {parts[1]})",
            f"({parts[0]} if {parts[1]} == {parts[2]} else {parts[2]})",
            f"({parts[0]} if not ({parts[1]} != 7 and {parts[2]}) else {parts[1]})",
            f"({parts[0]} or {parts[1]})",
            f"({parts[0]} | upper)",
            f"({parts[0]} | lower | replace('a', 'xy'))",
            f"({parts[0]} | default('none'))",
        ]
    )


@given(st.integers(0))
def test_what_is_allowed_means_what_jinja2_means(seed: int) -> None:
    random = Random(seed)
    text = f"<{{{{ {expression(random)} }}}}{{{{ {expression(random)} }}}}>"
    if mistakes(text):
        return
    values = {**plain(tree(CONFIG)), "model_id": "acme/Chat-7b"}
    assert evaluated(text) == Environment(undefined=StrictUndefined).from_string(text).render(values)


@given(st.text() | st.text("{}%# |~'\"().=!<>+-*/_abcmodelidfr0123456789\n", max_size=60))
def test_whatever_is_typed_is_told_or_evaluated(text: str) -> None:
    for candidate in (text, "{{" + text + "}}"):
        if not mistakes(candidate):
            evaluated(candidate)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ scaling_config.num_workers }}", 2),
        ("{{ scaling_config.num_gpus_per_worker }}", 0.5),
        ("{{ model_config.warmup }}", True),
        (" {{ scaling_config.num_workers }}", " 2"),
        ("{{ model_id | slug }}", "acme--Chat-7b"),
        ("{{ model_id | basename | lower }}", "chat-7b"),
        ("{{ model_config.absent | default(8) }}", 8),
        ("{{ 'a' if model_config.absent | default('') else 'b' }}", "b"),
        ("{{ model_config.absent }}", "template has no value: no layer sets `model_config.absent`"),
        ("{{ 'a' if model_id == 'x' }}", "template has no value: a condition needs an `else`"),
        ("{{ model_config.warmup }}!", "template has no value: `true` cannot be part of a text"),
    ],
)
def test_values(text: str, value: object) -> None:
    assert mistakes(text) == []
    assert evaluated(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "{{ self }}", "{{ loop }}", "{{ model_id.__class__ }}x{{ ''.join }}", "{{ model_id['a'] }}", "{{ [1] }}",
        "{{ {} }}", "{{ f() }}", "{% set a = 1 %}{{ a }}", "{% include 'x' %}", "{{ 1 + 1 }}", "{{ -1 + 2 }}",
        "{{ model_id * 99999 }}", "{{ model_id ** 2 }}", "{{ model_id | attr('x') }}", "{{ model_id is string }}",
        "{{ model_id | replace('a') }}", "{{ model_id | replace('a', 'b', 1) }}", "{{ model_id in 'a' }}",
        "{{ model_id | default('a', boolean=true) }}", "{{ 1 < 2 < 3 }}", "{{ " + "(" * 400 + "1" + ")" * 400 + " }}",
        "{{ 'x' }}" * MAX_LENGTH, "no expression", "", "{{ }}", "{{ model_id }", "{{ a.b", "{{ '' | upper.lower }}",
        "{{ ('a' ~ 'b').x }}", "{# {{ model_id }} #}{{", "{{ model_id[0:2] }}", "{{ caller }}", "{{ varargs }}",
    ],
)  # fmt: skip
def test_refused_when_it_is_read(text: str) -> None:
    assert mistakes(text)


def test_no_template_grows_without_end() -> None:
    text = "{{ model_id" + " | replace('', 'abcdefgh')" * 30 + " }}"
    assert mistakes(text) == []
    assert evaluated(text) == f"template has no value: it would be longer than {MAX_RESULT} characters"


def test_a_dunder_is_only_a_key_that_nobody_has_set() -> None:
    assert evaluated("{{ model_config.__class__ }}") == "template has no value: no layer sets `model_config.__class__`"
