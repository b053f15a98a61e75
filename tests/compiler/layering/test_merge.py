"""The laws of merging, and that no definition is lost on the way."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.diagnostics import Span
from compiler.layering.layers import Layer
from compiler.layering.merge import Rules, merge
from compiler.source import tags
from compiler.source.tree import Entry, Mapping, Node, Scalar, Sequence, definitions, plain
from compiler.source.tree import leaves as tree_leaves
from tests.compiler.support import tree

ROUNDS = 100
"""Cases a seed: hypothesis takes milliseconds to make one of its own, and a law wants ten thousand."""

laws = settings(max_examples=100)


@dataclass(frozen=True)
class Tagged:
    """A value with a tag."""

    tag: str
    value: object = None


class Maker(Random):
    """Makes layers: few keys, so that they meet; `null` and tags where asked for."""

    def layer(self, *, null: bool = True, tagged: bool = False, depth: int = 3) -> dict:
        return {key: self.value(null, tagged, depth) for key in self.sample("abcd", self.randint(0, 3))}

    def value(self, null: bool, tagged: bool, depth: int) -> object:
        if depth and self.random() < 0.4:
            return self.layer(null=null, tagged=tagged, depth=depth - 1)
        return self.tagged() if tagged and self.random() < 0.4 else self.leaf(null)

    def leaf(self, null: bool) -> object:
        return self.choice([True, False, 0, 1, -7, 1.0, "", "x", [], [1], [True, 2], *([None] if null else [])])

    def tagged(self) -> Tagged:
        tag = self.choice(list(tags.TAGS))
        if tag in tags.EDITS:
            return Tagged(tag, [self.randint(0, 2)])
        if tag == tags.REPLACE:
            return Tagged(tag, {self.choice("abcd"): self.randint(0, 3)})
        return (
            Tagged(tag) if tag == tags.UNSET else Tagged(tags.FINAL if tag == tags.TEMPLATE else tag, self.leaf(True))
        )


def cases(seed: int) -> Iterator[Maker]:
    """A maker for each case of a seed."""
    return (Maker(seed + number) for number in range(ROUNDS))


def node(value: object, file: str) -> Node:
    """`value` as if `file` said it."""
    if isinstance(value, Tagged):
        return replace(node(value.value, file), tag=value.tag)
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


@laws
@given(st.integers(0))
def test_mappings_merge_and_everything_else_replaces(seed: int) -> None:
    for make in cases(seed):
        lower, upper = make.layer(), make.layer()
        assert merged(lower, upper) in (None, by_hand(lower, upper))


@laws
@given(st.integers(0))
def test_nothing_changes_a_layer_that_stands_alone_or_on_itself(seed: int) -> None:
    for make in cases(seed):
        content = make.layer()
        assert merged(content) == merged({}, content) == merged(content, {}) == merged(content, content) == content


@laws
@given(st.integers(0))
def test_layers_can_be_merged_in_any_grouping(seed: int) -> None:
    # With null it matters: what it empties from below, a layer above may fill again.
    for make in cases(seed):
        a, b, c = (make.layer(null=False) for _ in range(3))
        below, above = merged(a, b), merged(b, c)
        if below is not None and above is not None and merged(a, b, c) is not None:
            assert merged(below, c) == merged(a, above) == merged(a, b, c)


def every(node: Node) -> Iterator[Node]:
    yield node
    for child in node.entries.values() if isinstance(node, Mapping) else ():
        yield from every(child.value)


@laws
@given(st.integers(0))
def test_each_value_knows_who_set_it_and_over_whom_it_won(seed: int) -> None:
    for make in cases(seed):
        contents = [make.layer() for _ in range(make.randint(1, 4))]
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


GONE = object()


def by_hand_with_tags(lower: object, upper: object) -> object:
    """What a layer makes of the value below it, GONE for none, where its tags have something to act on."""
    match upper:
        case Tagged(tag=tags.UNSET):
            return GONE
        case Tagged(tag=tags.APPEND, value=items) if isinstance(lower, list):
            return [*lower, *items]
        case Tagged(tag=tags.PREPEND, value=items) if isinstance(lower, list):
            return [*items, *lower]
        case Tagged(tag=tags.REMOVE, value=items) if isinstance(lower, list):
            return [each for each in lower if not any(equal(each, item) for item in items)]
        case Tagged(value=value):
            return value
        case dict():
            below = lower if isinstance(lower, dict) else {}
            merged = {**below, **{key: by_hand_with_tags(below.get(key, GONE), value) for key, value in upper.items()}}
            return {key: value for key, value in merged.items() if value is not GONE}
    return upper


def equal(one: object, other: object) -> bool:
    """1 is not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


@laws
@given(st.integers(0))
def test_tags_do_what_they_say_or_are_reported(seed: int) -> None:
    for make in cases(seed):
        lower, upper = make.layer(), make.layer(tagged=True)
        result = merge(layers(lower, upper))
        assert {each.code for each in result.found} <= {"E206", "E208"}
        if not result.found:
            assert plain(result.tree) == by_hand_with_tags(lower, upper)


@laws
@given(st.integers(0))
def test_what_lies_below_counts_as_one_layer(seed: int) -> None:
    for make in cases(seed):
        a, b, c = make.layer(), make.layer(tagged=True), make.layer(tagged=True)
        whole, lower = merge(layers(a, b, c)), merge(layers(a, b))
        assert whole.below == lower.tree
        if not whole.found and not any(each.tag == tags.FINAL for each in every(node(b, "b"))):
            assert merged(plain(lower.tree), c) == plain(whole.tree)


@laws
@given(st.integers(0))
def test_every_leaf_says_where_it_is_from(seed: int) -> None:
    for make in cases(seed):
        contents = [make.layer(tagged=True) for _ in range(make.randint(1, 4))]
        for path, leaf in tree_leaves(merge(layers(*contents)).tree):
            if path:
                files = [each.span.file for each in definitions(leaf)]
                assert files and set(files) <= {str(number) for number in range(len(contents))}


def test_a_final_value_holds_until_it_is_forced() -> None:
    final, same_, other = {"a": Tagged(tags.FINAL, 1)}, {"a": 1}, {"a": 2}
    forced = {"a": Tagged(tags.FORCE, 2)}
    assert merged(final, same_) == {"a": 1}
    assert [each.code for each in merge(layers(final, other)).found] == ["E207"]
    assert merged(final, forced) == {"a": 2}
    assert merged(final, forced, {"a": 3}) == {"a": 3}, "what was forced once is open again"
    assert [each.code for each in merge(layers(other, forced)).found] == ["E208"]
    assert [each.code for each in merge(layers(final, {"a": Tagged(tags.UNSET)})).found] == ["E207"]


def test_a_final_mapping_holds_whole() -> None:
    final = {"a": Tagged(tags.FINAL, {"x": 1})}
    assert merged(final, {"a": {"x": 1}}) == {"a": {"x": 1}}
    assert [each.code for each in merge(layers(final, {"a": {"y": 1}})).found] == ["E207"]
    assert merged(final, {"a": Tagged(tags.FORCE, {"y": 1})}) == {"a": {"x": 1, "y": 1}}


def test_another_engine_may_leave_final_settings_behind() -> None:
    lower, upper = tree("i: {type: A, x: !final 1}\n", "0"), tree("i: {type: B}\n", "1")
    result = merge([Layer("0", lower), Layer("1", upper)], Rules({("i",): "type"}))
    assert not result.found


def test_lists_with_identities_merge_by_them() -> None:
    rules = Rules(identities={("a",): lambda item: str(item)[0]})
    lower, upper = {"a": ["x1", "y1"]}, {"a": ["y2", "z2"]}
    assert plain(merge(layers(lower, upper), rules).tree) == {"a": ["x1", "y2", "z2"]}
    assert plain(merge(layers(lower, {"a": Tagged(tags.REPLACE, ["z"])}), rules).tree) == {"a": ["z"]}
