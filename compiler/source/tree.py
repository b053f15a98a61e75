"""The located tree: immutable YAML nodes that know where they were written, and what lies under them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

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
    return {key: plain(entry.value) for key, entry in node.entries.items()}


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


def keys(node: Node) -> Iterator[str]:
    """Every key of every mapping in it."""
    for entry in node.entries.values() if isinstance(node, Mapping) else ():
        yield entry.key
        yield from keys(entry.value)


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
