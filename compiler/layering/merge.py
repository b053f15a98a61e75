"""Merging layers, and what became of each value.

Mappings merge; scalars and lists replace; tags say the rest. What a layer said is kept on the result, so that every
value knows where it was set, and over what it won.
"""

from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from compiler.diagnostics import Diagnostic, Label, Span
from compiler.layering.layers import EXTENDS, Layer
from compiler.source import tags
from compiler.source.tree import (
    Entry,
    Mapping,
    Node,
    Plain,
    Scalar,
    Sequence,
    definitions,
    find,
    has_tags,
    inline,
    kind,
    plain,
    same,
)

Path = tuple[str, ...]

ENABLED, WAIVE = "enabled", "waive"
"""Say something of their file alone, as `extends` does: what lies on a disabled model is not disabled."""

_ACTING = frozenset({tags.UNSET, tags.REPLACE, *tags.EDITS})
"""Tags that say how a value and the one below become one."""
_NOTHING = Mapping({}, Span("", 1, 1, 1, 1))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the schema says of merging.

    `discriminators`: mappings by their path, and the key whose value chooses the meaning of its siblings: a new value
    drops those that were inherited. `identities`: lists whose items merge by what this function says they are about.
    """

    discriminators: Dict[Path, str] = field(default_factory=dict)
    identities: Dict[Path, Callable[[Plain], str]] = field(default_factory=dict)


class Merged(NamedTuple):
    """All layers in one tree. `below`: all but the last. `found`: every place where layers do not fit together."""

    tree: Mapping
    below: Mapping
    found: tuple[Diagnostic, ...]


def merge(layers: list[Layer], rules: Rules | None = None) -> Merged:
    """All layers in one tree, without what each says of its own file; the last layer wins."""
    rules = rules or Rules()
    below = Below()
    for layer in layers[:-1]:
        below = cover(below, layer, rules)
    return finish(below, layers[-1], rules)


@dataclass(frozen=True, slots=True)
class Below:
    """Some layers in one tree, and what the next one has to know. `finals`: the final values, as tag and as value."""

    tree: Mapping | None = None
    finals: Dict[Path, tuple[Node, Node]] = field(default_factory=dict)
    found: tuple[Diagnostic, ...] = ()


def cover(below: Below, layer: Layer, rules: Rules) -> Below:
    """`layer` laid on others, as something to lie under another one."""
    return _lay(below, without(layer.tree, EXTENDS, WAIVE, ENABLED), rules, keeps=True)


def finish(below: Below, top: Layer, rules: Rules) -> Merged:
    """`top` laid on all others."""
    done = _lay(below, without(top.tree, EXTENDS, WAIVE), rules, keeps=False)
    assert done.tree is not None
    return Merged(done.tree, below.tree or _NOTHING, done.found)


def _lay(below: Below, upper: Mapping, rules: Rules, *, keeps: bool) -> Below:
    merger = _Merger(rules, keeps, list(below.found), dict(below.finals))
    tree = merger.lay(below.tree, upper)
    return Below(tree, merger.finals, tuple(merger.found))


def without(tree: Mapping, *keys: str) -> Mapping:
    """`tree` less some of its keys."""
    if not any(key in tree.entries for key in keys):
        return tree
    return tree.with_entries({key: entry for key, entry in tree.entries.items() if key not in keys})


@dataclass(slots=True)
class _Merger:
    """Lays one layer on another. `keeps`: what comes of it lies under many others."""

    rules: Rules
    keeps: bool
    found: list[Diagnostic]
    finals: dict[Path, tuple[Node, Node]]

    def lay(self, lower: Mapping | None, upper: Mapping) -> Mapping:
        merged = self._mapping(lower or _NOTHING, upper, ())
        if not self.finals and not has_tags(upper):
            return merged
        tagged = dict(_tagged(upper, (tags.FINAL, tags.FORCE)))
        self._hold_finals(merged, {path: node for path, node in tagged.items() if node.tag == tags.FORCE}, upper)
        for path, node in tagged.items():
            value = _at(merged, path)
            if node.tag == tags.FINAL and value is not None:
                self.finals[path] = (node, value)
        return merged

    def _mapping(self, lower: Mapping, upper: Mapping, path: Path) -> Mapping:
        entries, dropped = self._inherited(lower, upper, path)
        has_lost = len(entries) < len(lower.entries)
        for key, (_, key_span, node) in upper.entries.items():
            below = entries[key].value if key in entries else None
            value = self._value(below, node, (*path, key))
            if value is None:
                if below is not None:
                    del entries[key]
                    dropped[key] = replace(node, layers=_layers(below, node))
                continue
            if below is None and key in dropped:
                value = replace(value, layers=_layers(dropped.pop(key), value))
            entries[key] = Entry(key, key_span, value)
        if has_lost:  # what has come back stands where it stood
            entries = {key: entries[key] for key in (*lower.entries, *upper.entries) if key in entries}
        layers = upper.layers if lower is _NOTHING else _layers(lower, upper)
        return Mapping(entries, upper.span, upper.tag, layers, dropped, {} if self.keeps else None)

    def _inherited(self, lower: Mapping, upper: Mapping, path: Path) -> tuple[dict[str, Entry], dict[str, Node]]:
        """The entries that stay when `upper` chooses the meaning of the mapping, and what is dropped."""
        key = self.rules.discriminators.get(path)
        chosen = upper.get(key) if key else None
        if key is None or chosen is None or not _changes(lower.get(key), chosen):
            return dict(lower.entries), dict(lower.dropped)
        gone = {
            name: replace(chosen, layers=_layers(entry.value, chosen))
            for name, entry in lower.entries.items()
            if name != key
        }
        return {key: lower.entries[key]}, {**lower.dropped, **gone}

    def _value(self, lower: Node | None, upper: Node, path: Path) -> Node | None:
        """What `upper` makes of `lower`; None where it unsets it."""
        if upper.tag in _ACTING:
            return self._acted(lower, upper, path)
        if isinstance(upper, Mapping) and isinstance(lower, Mapping):
            return self._mapping(lower, upper, path)
        if isinstance(upper, Sequence) and isinstance(lower, Sequence) and path in self.rules.identities:
            items = _by_identity(lower, upper, self.rules.identities[path])
            return Sequence(items, upper.span, upper.tag, _layers(lower, upper))
        if lower is not None and isinstance(lower, Mapping) != isinstance(upper, Mapping):
            self._clash(lower, upper, path)
        return self._over(lower, upper, path)

    def _acted(self, lower: Node | None, upper: Node, path: Path) -> Node | None:
        """What a tag of `upper` makes of `lower`."""
        can_act = self._has_something_to_do(lower, upper, path)
        if upper.tag == tags.UNSET:
            return None
        if not can_act:
            return self._alone(upper, path)
        if isinstance(upper, Sequence) and isinstance(lower, Sequence) and upper.tag != tags.REPLACE:
            return Sequence(self._edited(lower, upper, path), upper.span, upper.tag, _layers(lower, upper))
        return self._over(lower, upper, path)

    def _over(self, lower: Node | None, upper: Node, path: Path) -> Node:
        if isinstance(upper, Scalar) and lower is not None:
            return Scalar(upper.value, upper.span, upper.tag, _layers(lower, upper))
        alone = self._alone(upper, path)
        return alone if lower is None else replace(alone, layers=_layers(lower, upper))

    def _alone(self, node: Node, path: Path) -> Node:
        """`node` with nothing under it."""
        return self._mapping(_NOTHING, node, path) if isinstance(node, Mapping) else node

    def _has_something_to_do(self, lower: Node | None, upper: Node, path: Path) -> bool:
        match upper.tag:
            case tags.UNSET:
                fits, needed = lower is not None, "a value"
            case tags.REPLACE if isinstance(upper, Mapping):
                fits, needed = isinstance(lower, Mapping), "a mapping"
            case tags.REPLACE:
                fits, needed = isinstance(lower, Sequence), "a list"
                if path not in self.rules.identities:
                    self._idle(upper, f"`{_dotted(path)}` is a list, which replaces the one below anyway")
                    return True
            case _:
                fits, needed = isinstance(lower, Sequence), "a list"
        if not fits:
            below = f"{kind(lower)} below" if lower is not None else "nothing below"
            self._idle(upper, f"`{_dotted(path)}` has {below}; {upper.tag} needs {needed}", lower)
        return fits

    def _edited(self, lower: Sequence, upper: Sequence, path: Path) -> tuple[Node, ...]:
        if upper.tag == tags.APPEND:
            return (*lower.items, *upper.items)
        if upper.tag == tags.PREPEND:
            return (*upper.items, *lower.items)
        for item in upper.items:
            if not any(same(item, each) for each in lower.items):
                self._idle(
                    replace(item, tag=tags.REMOVE), f"`{_dotted(path)}` has no item `{inline(plain(item))}`", lower
                )
        return tuple(item for item in lower.items if not any(same(item, gone) for gone in upper.items))

    def _hold_finals(self, merged: Mapping, forced: dict[Path, Node], upper: Mapping) -> None:
        """Every final value is as it was, or a `!force` says why not; every `!force` has a final value to override."""
        idle = dict(forced)
        for path, (tag, value) in list(self.finals.items()):
            related = [at for at in forced if at[: len(path)] == path or path[: len(at)] == at]
            for at in related:
                idle.pop(at, None)
            now = _at(merged, path)
            if now is not None and same(now, value):
                continue
            if related or _is_dropped(merged, path):
                del self.finals[path]
                continue
            self.found.append(_changes_final(path, tag, find(upper, path)[0]))
        for path, node in idle.items():
            self._idle(node, f"nothing below says that `{_dotted(path)}` is final")

    def _idle(self, node: Node, reason: str, lower: Node | None = None) -> None:
        others = (Label(_first_line(lower.span), kind(lower)),) if lower is not None else ()
        message = f"{node.tag} has nothing to act on: {reason}"
        self.found.append(Diagnostic("E208", message, Label(_first_line(node.span)), others))

    def _clash(self, lower: Node, upper: Node, path: Path) -> None:
        """A mapping meets a value. `null` says "none of it", so it goes with every kind."""
        if any(isinstance(node, Scalar) and node.value is None for node in (lower, upper)):
            return
        message = f"`{_dotted(path)}` is {kind(upper)} here and {kind(lower)} below: they cannot be merged"
        here, below = (Label(_first_line(node.span), kind(node)) for node in (upper, lower))
        self.found.append(Diagnostic("E206", message, here, (below,)))


def _changes_final(path: Path, final: Node, culprit: Node) -> Diagnostic:
    problem = f"`{_dotted(path)}` is final, and this layer changes it"
    place = Label(_first_line(final.span), "final here")
    advice = f"put `{tags.FORCE}` before the value if it has to be another one here"
    return Diagnostic("E207", problem, Label(_first_line(culprit.span)), (place,), advice)


def _layers(lower: Node, upper: Node) -> tuple[Node, ...]:
    return (*definitions(upper), *definitions(lower))


def _by_identity(lower: Sequence, upper: Sequence, identity: Callable[[Plain], str]) -> tuple[Node, ...]:
    """`lower` with each item that `upper` says something else about in its place, and the new ones behind."""
    own = {identity(plain(item)): item for item in upper.items}
    kept = [own.pop(identity(plain(item)), item) for item in lower.items]
    return (*kept, *own.values())


def _changes(before: Node | None, after: Node) -> bool:
    """Whether a discriminator gets another value, letter case aside."""
    if not isinstance(before, Scalar) or not isinstance(after, Scalar):
        return False
    return str(before.value).casefold() != str(after.value).casefold()


def _tagged(node: Node, wanted: tuple[str, ...], path: Path = ()) -> Iterator[tuple[Path, Node]]:
    if node.tag in wanted:
        yield path, node
    if isinstance(node, Mapping):
        for key, entry in node.entries.items():
            yield from _tagged(entry.value, wanted, (*path, key))


def _at(tree: Node, path: Path) -> Node | None:
    node, _, reached = find(tree, path)
    return node if reached == path else None


def _is_dropped(tree: Node, path: Path) -> bool:
    """Whether a new discriminator has taken the meaning of `path` away."""
    node, _, reached = find(tree, path)
    ender = node.dropped.get(path[len(reached)]) if isinstance(node, Mapping) and len(reached) < len(path) else None
    return ender is not None and ender.tag != tags.UNSET


def _dotted(path: Path) -> str:
    return ".".join(path)


def _first_line(span: Span) -> Span:
    """A mapping may be long; its first line is enough to show."""
    return span if span.line == span.end_line else span._replace(end_line=span.line, end_column=span.column + 1)
