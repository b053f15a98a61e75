"""Merging layers, and what became of each value.

Mappings merge; scalars and lists replace. A replaced definition is kept on the winner, so that every value of
the result knows where it was set, and over what it won.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span
from compiler.layering.layers import EXTENDS, Layer
from compiler.source.tree import Entry, Mapping, Node, Scalar, kind

Path = tuple[str, ...]

ENABLED = "enabled"
"""Says something of its file alone, as `extends` does: what lies on a disabled model is not disabled."""


@dataclass(frozen=True, slots=True)
class Discriminator:
    """A key whose value chooses the meaning of its siblings: a new value drops those that were inherited."""

    path: Path
    key: str


def merge(layers: list[Layer], discriminators: Iterable[Discriminator] = ()) -> Mapping:
    """All layers in one tree, without what each says of its own file; the last layer wins.

    Raises ConfigErrors with every place where a mapping meets a value.
    """
    by_path = {discriminator.path: discriminator.key for discriminator in discriminators}
    found: list[Diagnostic] = []
    *lower, top = layers
    trees = [*(_without(layer.tree, EXTENDS, ENABLED) for layer in lower), _without(top.tree, EXTENDS)]
    merged = trees[0]
    for tree in trees[1:]:
        merged = _merge_mappings(merged, tree, (), by_path, found)
    if found:
        raise ConfigErrors(found)
    return merged


def _without(tree: Mapping, *keys: str) -> Mapping:
    return replace(tree, entries={key: entry for key, entry in tree.entries.items() if key not in keys})


def _merge_mappings(
    lower: Mapping, upper: Mapping, path: Path, discriminators: dict[Path, str], found: list[Diagnostic]
) -> Mapping:
    if path in discriminators and _changes(lower, upper, discriminators[path]):
        kept = lower.get(discriminators[path])
        entries = {} if kept is None else {discriminators[path]: lower.entries[discriminators[path]]}
    else:
        entries = dict(lower.entries)
    for key, entry in upper.entries.items():
        below = entries.get(key)
        value = entry.value if below is None else _merge(below.value, entry, (*path, key), discriminators, found)
        entries[key] = Entry(key, entry.key_span, value)
    return Mapping(entries, upper.span, _history(lower, upper))


def _merge(lower: Node, entry: Entry, path: Path, discriminators: dict[Path, str], found: list[Diagnostic]) -> Node:
    upper = entry.value
    if isinstance(lower, Mapping) and isinstance(upper, Mapping):
        return _merge_mappings(lower, upper, path, discriminators, found)
    if isinstance(lower, Mapping) != isinstance(upper, Mapping) and not _either_is_null(lower, upper):
        found.append(_clash(lower, upper, path))
    return replace(upper, overridden=_history(lower, upper))


def _either_is_null(lower: Node, upper: Node) -> bool:
    """`null` says "none of it", so it goes with every kind."""
    return any(isinstance(node, Scalar) and node.value is None for node in (lower, upper))


def _history(lower: Node, upper: Node) -> tuple[Node, ...]:
    return (*upper.overridden, replace(lower, overridden=()), *lower.overridden)


def _changes(lower: Mapping, upper: Mapping, key: str) -> bool:
    """Whether `upper` sets another value at `key`, letter case aside."""
    before, after = lower.get(key), upper.get(key)
    if not isinstance(before, Scalar) or not isinstance(after, Scalar):
        return False
    return str(before.value).casefold() != str(after.value).casefold()


def _clash(lower: Node, upper: Node, path: Path) -> Diagnostic:
    message = f"`{'.'.join(path)}` is {kind(upper)} here and {kind(lower)} below: they cannot be merged"
    return Diagnostic(
        "E206",
        message,
        Label(_first_line(upper.span), kind(upper)),
        (Label(_first_line(lower.span), kind(lower)),),
    )


def _first_line(span: Span) -> Span:
    """A mapping may be long; its first line is enough to show."""
    return span if span.line == span.end_line else replace(span, end_line=span.line, end_column=span.column + 1)
