"""The laws of merging, and that no definition is lost on the way."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.diagnostics import Span
from compiler.layering.layers import Layer
from compiler.layering.merge import Rules, merge
from compiler.source.tree import Entry, Mapping, Node, Scalar, Sequence, definitions, plain
from tests.compiler.support import keys, leaves, tree


def mappings_of(leaf: st.SearchStrategy) -> st.SearchStrategy[dict]:
    values = st.recursive(leaf, lambda inner: st.dictionaries(keys, inner, max_size=4), max_leaves=8)
    return st.dictionaries(keys, values, max_size=4)


mappings = mappings_of(leaves | st.none())
without_null = mappings_of(leaves)


def node(value: object, file: str) -> Node:
    """`value` as if `file` said it."""
    here = Span(file, 1, 1, 1, 2)
    if isinstance(value, dict):
        return Mapping({key: Entry(key, here, node(item, file)) for key, item in value.items()}, here)
    if isinstance(value, list):
        return Sequence(tuple(node(item, file) for item in value), here)
    return Scalar(value, here)


def layers(*contents: dict[str, object]) -> list[Layer]:
    return [Layer(str(number), node(content, str(number))) for number, content in enumerate(contents)]


def by_hand(lower: object, upper: object) -> object:
    """The rule in one line: mappings merge, everything else replaces."""
    if isinstance(lower, dict) and isinstance(upper, dict):
        return lower | {key: by_hand(lower.get(key), value) for key, value in upper.items()}
    return upper


def merged(*contents: dict[str, object]) -> object:
    """None where kinds clash."""
    result = merge(layers(*contents))
    return None if result.found else plain(result.tree)


@given(mappings, mappings)
def test_mappings_merge_and_everything_else_replaces(lower: dict, upper: dict) -> None:
    assert merged(lower, upper) in (None, by_hand(lower, upper))


@given(mappings)
def test_nothing_changes_a_layer_that_stands_alone_or_on_itself(content: dict) -> None:
    assert merged(content) == merged({}, content) == merged(content, {}) == merged(content, content) == content


@given(without_null, without_null, without_null)
def test_layers_can_be_merged_in_any_grouping(a: dict, b: dict, c: dict) -> None:
    # With null it matters: what it empties from below, a layer above may fill again.
    below, above = merged(a, b), merged(b, c)
    if below is not None and above is not None and merged(a, b, c) is not None:
        assert merged(below, c) == merged(a, above) == merged(a, b, c)


def every(node: Node) -> Iterator[Node]:
    yield node
    for child in node.entries.values() if isinstance(node, Mapping) else ():
        yield from every(child.value)


@given(st.lists(mappings, min_size=1, max_size=4))
def test_each_value_knows_who_set_it_and_over_whom_it_won(contents: list[dict]) -> None:
    result = merge(layers(*contents)).tree
    for found in every(result):
        setters = [int(each.span.file) for each in definitions(found)]
        assert setters == sorted(setters, reverse=True), "the winner is the uppermost, then come the nearest below"
        assert len(set(setters)) == len(setters)
    for key, entry in result.entries.items():
        assert [int(each.span.file) for each in definitions(entry.value)] == [
            number for number, content in reversed(list(enumerate(contents))) if key in content
        ]


def test_null_is_a_value_and_goes_with_every_kind() -> None:
    assert merged({"a": {"b": 1}}, {"a": None}) == {"a": None}
    assert merged({"a": None}, {"a": {"b": 1}}) == {"a": {"b": 1}}
    assert merged({"a": {"b": 1}}, {"a": None}, {"a": {"c": 2}}) == {"a": {"c": 2}}


def test_all_clashes_are_told_at_once() -> None:
    found = merge(layers({"a": {"b": 1}, "c": [1], "d": 1}, {"a": 1, "c": {"x": 1}, "d": 2})).found
    assert [diagnostic.message.split("`")[1] for diagnostic in found] == ["a", "c"]


def test_a_new_discriminator_drops_its_siblings_and_keeps_the_story() -> None:
    lower, upper = tree("i: {type: A, x: 1}\n", "low.yaml"), tree("i: {type: B, y: 2}\n", "up.yaml")
    result = merge([Layer("low.yaml", lower), Layer("up.yaml", upper)], Rules({("i",): "type"})).tree
    assert plain(result) == {"i": {"type": "B", "y": 2}}
    inner = result.get("i")
    assert isinstance(inner, Mapping)
    assert definitions(inner.get("type"))[1:] == (lower.get("i").get("type"),)
    assert definitions(inner)[1:] == (lower.get("i"),)
    assert definitions(inner.dropped["x"]) == (upper.get("i").get("type"), lower.get("i").get("x"))


def test_the_same_discriminator_in_another_spelling_keeps_them() -> None:
    lower, upper = tree("i: {type: vLLM, x: 1}\n"), tree("i: {type: VLLM}\n")
    result = merge([Layer("a", lower), Layer("b", upper)], Rules({("i",): "type"})).tree
    assert plain(result) == {"i": {"type": "VLLM", "x": 1}}
