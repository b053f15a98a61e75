"""The located tree: immutable YAML nodes that know where they were written, and what lies under them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, NamedTuple, TypeAlias

from compiler.diagnostics import Span
from compiler.kept import Room, once
from compiler.source.tags import TEMPLATE

ScalarValue: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, number, boolean or null; with the tag `!template`, the text of one."""

    value: ScalarValue
    span: Span
    tag: str | None = None
    layers: tuple["Node", ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple["Node", ...]
    span: Span
    tag: str | None = None
    layers: tuple["Node", ...] = field(default=(), compare=False)


class Entry(NamedTuple):
    """A key and its value; `key_span` is where the winning definition of the value has its key."""

    key: str
    key_span: Span
    value: "Node"


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping. After a merge the span is the uppermost layer's and the entries come from all of them.

    `dropped` keeps what no longer counts: the node that ended it (an `!unset`, or the new value of a discriminator),
    with what it ended in its `layers`. `kept`: what
    was made of it, for a mapping that lies under many models.
    """

    entries: dict[str, Entry]
    span: Span
    tag: str | None = None
    layers: tuple["Node", ...] = field(default=(), compare=False)
    dropped: dict[str, "Node"] = field(default_factory=dict, compare=False)
    kept: Room | None = field(default=None, repr=False, compare=False)

    def with_entries(self, entries: dict[str, Entry]) -> "Mapping":
        """The mapping with other entries, of which nothing has been made."""
        return Mapping(entries, self.span, self.tag, self.layers, self.dropped)

    def get(self, key: str) -> "Node | None":
        """The value at `key`, if there is one."""
        entry = self.entries.get(key)
        return entry.value if entry else None


Node: TypeAlias = Scalar | Sequence | Mapping
Plain: TypeAlias = ScalarValue | list["Plain"] | dict[str, "Plain"]


def definitions(node: Node) -> tuple[Node, ...]:
    """All that layers said in a node's place, each as it was written, the uppermost first."""
    return node.layers or (node,)


def kind(node: Node) -> str:
    """What a person calls this node."""
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar(value=bool()):
            return "a boolean"
        case Scalar(value=str()):
            return "a string"
        case Scalar(value=None):
            return "null"
        case Scalar(value=int()):
            return "an integer"
        case _:
            return "a float"


def plain(node: Node) -> Plain:
    """The node as dicts, lists and scalars, which nobody changes."""
    if isinstance(node, Scalar):
        return node.value
    return _plain_mapping(node) if isinstance(node, Mapping) else [plain(item) for item in node.items]


@once
def _plain_mapping(node: Mapping) -> Plain:
    return {key: node.value if isinstance(node, Scalar) else plain(node) for key, _, node in node.entries.values()}


def in_order(value: Any) -> Any:
    """Plain data with the keys of every mapping sorted; whatever else stands in it stays as it is."""
    if isinstance(value, dict):
        return {key: in_order(item) for key, item in sorted(value.items())}
    return [in_order(item) for item in value] if isinstance(value, list) else value


def same(one: Node, other: Node) -> bool:
    """Whether two nodes say the same. Templates do if their texts do; 1 and 1.0 are one number, 1 and true are not."""
    match one, other:
        case Mapping(), Mapping():
            ours, theirs = one.entries, other.entries
            return ours.keys() == theirs.keys() and all(same(ours[key].value, theirs[key].value) for key in ours)
        case Sequence(), Sequence():
            pairs = zip(one.items, other.items, strict=False)
            return len(one.items) == len(other.items) and all(same(mine, yours) for mine, yours in pairs)
        case Scalar(), Scalar():
            kinds = isinstance(one.value, bool) == isinstance(other.value, bool)
            return kinds and one.value == other.value and (one.tag == TEMPLATE) == (other.tag == TEMPLATE)
        case _:
            return False


def leaves(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Every value below with its path: scalars, lists and empty mappings."""
    if isinstance(node, Mapping) and (node.entries or not path):
        for key, entry in node.entries.items():
            yield from leaves(entry.value, (*path, key))
    else:
        yield path, node


def keys(node: Mapping) -> set[str]:
    """Every key of every mapping in it, but for those in lists."""
    found = set(node.entries)
    for _, _, value in node.entries.values():
        if isinstance(value, Mapping):
            found |= keys(value)
    return found


def has_tags(node: Node) -> bool:
    """Whether there is a tag in it."""
    if isinstance(node, Mapping):
        for _, _, value in node.entries.values():
            if value.tag is not None or (not isinstance(value, Scalar) and has_tags(value)):
                return True
    elif isinstance(node, Sequence):
        return any(item.tag is not None or has_tags(item) for item in node.items)
    return node.tag is not None


def has_templates(node: Node) -> bool:
    """Whether there is a `!template` in it."""
    if isinstance(node, Scalar):
        return node.tag == TEMPLATE
    if isinstance(node, Mapping):
        return _mapping_has_templates(node)
    return any(has_templates(item) for item in node.items)


@once
def _mapping_has_templates(node: Mapping) -> bool:
    return any(has_templates(entry.value) for entry in node.entries.values())


def inline(value: Plain) -> str:
    """A value in a message, as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def canonical(node: Node) -> str:
    """The node as JSON: the same text for the same value, whatever the order of its keys."""
    if isinstance(node, Scalar):
        return _JSON[type(node.value)](node.value)
    return _canonical_mapping(node) if isinstance(node, Mapping) else f"[{','.join(map(canonical, node.items))}]"


@once
def _canonical_mapping(node: Mapping) -> str:
    values = ((key, node.entries[key].value) for key in sorted(node.entries))
    return "{" + ",".join([f"{encode_basestring(key)}:{canonical(value)}" for key, value in values]) + "}"


_JSON: dict[type, Callable[[Any], str]] = {
    str: encode_basestring,
    int: int.__repr__,
    float: float.__repr__,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
}
"""How JSON has values of each type."""


def find(node: Node, path: tuple[str | int, ...]) -> tuple[Node, Span, tuple[str | int, ...]]:
    """Follow `path` as far as the tree goes.

    Returns the node that was reached, the span of the key that led to it, and the part of the path that is there.
    """
    span, reached = node.span, 0
    for step in path:
        if isinstance(node, Mapping) and isinstance(step, str) and step in node.entries:
            span, node = node.entries[step].key_span, node.entries[step].value
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            span = node.span
        else:
            break
        reached += 1
    return node, span, path[:reached]
