"""`fmt` changes the order of keys and nothing that a file says."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.edit.layout import layout
from compiler.source.tree import plain
from runtime.application import ModelSpec
from tests.compiler.support import tree

KEYS = {
    "": ["scaling_config", "model_config", "deployment_config", "enabled", "extends", "waive", "strange"],
    "model_config": ["generation", "model_id", "initialization", "warmup", "other"],
    "generation": ["stopping_sequences", "prompt_format", "max_batch_size"],
    "scaling_config": ["num_workers", "resources_per_worker"],
}
VALUES = [
    "1",
    "'a  b'",
    "[a,  b]",
    "{x: 1,  y: !unset }",
    "!final 3",
    "null",
    "|\n{0}  two  \n\n{0}  lines",
    '"a\n{0}  b"',
]


def block(random: Random, name: str = "", indent: int = 0) -> str:
    """A mapping in block style, with comments, gaps and trailing spaces."""
    text, margin = "", " " * indent
    for key in random.sample(KEYS.get(name, ["b", "a"]), random.randint(1, len(KEYS.get(name, "ab")))):
        text += "".join(
            f"{random.choice([margin, margin + '  ', ''])}# {random.random()}\n"
            for _ in range(random.choice([0, 0, 1]))
        )
        text += "\n" * random.choice([0, 0, 1, 2])
        if indent < 4 and random.random() < 0.5:
            text += f"{margin}{key}:  \n" + block(random, key, indent + 2)
        else:
            text += f"{margin}{key}: {random.choice(VALUES).replace('{0}', margin)}{random.choice(['', '  # why'])}\n"
    return text


@given(st.integers(0))
def test_it_says_the_same_keeps_every_comment_and_is_done_at_once(seed: int) -> None:
    source = block(Random(seed))
    result = layout(source, "a.yaml", ModelSpec)
    assert plain(tree(result)) == plain(tree(source))
    comments = [line.partition("#")[2].strip() for line in source.splitlines() if "#" in line]
    assert sorted(comments) == sorted(line.partition("#")[2].strip() for line in result.splitlines() if "#" in line)
    assert layout(result, "a.yaml", ModelSpec) == result


@pytest.mark.parametrize("source", ["{b: 1, a: 2}", "a: 1", "a: 1\r\nb: 2\r\n", "# c\na: 1\n# d"])
def test_small_files(source: str) -> None:
    assert layout(source, "a.yaml", ModelSpec) == source.replace("\r\n", "\n").strip() + "\n"


def test_the_schemas_order() -> None:
    source = "scaling_config: {}\nmodel_config:\n  warmup: true\n  model_id: a\nwaive: {}\nextends: a\n"
    wanted = "extends: a\nwaive: {}\nmodel_config:\n  model_id: a\n  warmup: true\nscaling_config: {}\n"
    assert layout(source, "a.yaml", ModelSpec) == wanted
