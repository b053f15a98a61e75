"""A fix takes out or renames one entry; every other byte stays."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.diagnostics import Fix
from compiler.edit.fix import apply
from compiler.source.tree import leaves, plain
from tests.compiler.edit.test_layout import block
from tests.compiler.support import tree


def without(content: dict, path: tuple[str, ...]) -> dict:
    """`content` without an entry, and without what is empty then."""
    below = without(content[path[0]], path[1:]) if len(path) > 1 else {}
    return {key: below if key == path[0] else value for key, value in content.items() if key != path[0] or below}


@given(st.integers(0))
def test_what_is_taken_out_is_gone_and_nothing_else(seed: int) -> None:
    random = Random(seed)
    source = block(random)
    found = list(leaves(tree(source)))
    path, _ = random.choice(found)
    wanted = without(plain(tree(source)), path)
    if not wanted:
        return
    result = apply(source, "a.yaml", Fix(path))
    if result is None:
        return
    assert plain(tree(result)) == wanted
    kept = [line for line in result.splitlines() if line in source.splitlines()]
    assert len(kept) >= len(result.splitlines()) - 1, "a line of its own, or one piece of a line"


@pytest.mark.parametrize(
    ("source", "fix", "result"),
    [
        ("a: 1 # one\nb: 2\n", Fix(("a",), ((("c",), 1),)), "c: 1 # one\nb: 2\n"),
        ("a: 0x10\n", Fix(("a",), ((("c",), 16),)), "c: 0x10\n"),
        ("a: !force 2\n", Fix(("a",), ((("c",), None),)), "c: !force 2\n"),
        ("a:\n  b: 1\n", Fix(("a",), ((("c",), None),)), "c:\n  b: 1\n"),
        ("{a: 1, b: 2}\n", Fix(("a",), ((("c",), 1), (("d",), 1))), "{c: 1, d: 1, b: 2}\n"),
        ("x:\n  a: 1\n", Fix(("x", "a"), ((("x", "c"), 1), (("x", "d"), 1))), "x:\n  c: 1\n  d: 1\n"),
        ("x: {a: true}\ny: 1\n", Fix(("x", "a"), ((("z",), "on"),)), 'z: "on"\ny: 1\n'),
        ("x:\n  k: {a: 8, b: 1}\n", Fix(("x", "k", "a"), ((("x", "z"), 8),)), "x:\n  z: 8\n  k: {b: 1}\n"),
        ("k: {a: 1}\n", Fix(("k", "a"), ((("k", "q", "a"), 1),)), None),
        ("k: {a: 1, b: 2}\n", Fix(("k", "a"), ((("k", "q", "a"), 1),)), "k: {q: {a: 1}, b: 2}\n"),
        ("a: |\n  x\n  y\n\nb: 1\n", Fix(("a",)), "b: 1\n"),
        ("b: 1\na: 'x\n  y'\n", Fix(("a",)), "b: 1\n"),
        ("a: 1\n", Fix(("b",)), None),
    ],
)
def test_cases(source: str, fix: Fix, result: str | None) -> None:
    assert apply(source, "a.yaml", fix) == result
