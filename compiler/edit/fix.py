"""`lint --fix`: takes entries out of a file and puts others in, and leaves every other byte as it is."""

from dataclasses import dataclass

from compiler.diagnostics import ConfigErrors, Fix
from compiler.edit.text import Text
from compiler.emit import scalar
from compiler.source.syntax import parse
from compiler.source.tree import Entry, Mapping, Scalar, ScalarValue, find, leaves, plain

Path = tuple[str, ...]


def apply(source: str, file: str, fix: Fix) -> str | None:
    """The text with one fix made; None where that takes a person (a mapping that would have to move, say)."""
    tree = parse(source.encode(), file)
    try:
        result = _applied(source, tree, file, fix)
        changed = None if result is None else parse(result.encode(), file)
    except ConfigErrors:  # nothing would be left, or a comment would become a part of a text
        return None
    return result if changed is not None and _rest(tree, fix.remove) == _rest(changed, *_new(fix)) else None


def _new(fix: Fix) -> list[Path]:
    return [path for path, _ in fix.put]


def _rest(tree: Mapping, *paths: Path) -> dict[Path, object]:
    """All values that are not at one of the paths, or below it; empty mappings aside."""
    found = {path: (node.tag, plain(node)) for path, node in leaves(tree) if plain(node) != {}}
    return {path: value for path, value in found.items() if not any(path[: len(each)] == each for each in paths)}


def _applied(source: str, tree: Mapping, file: str, fix: Fix) -> str | None:
    spot = _find(source, tree, fix.remove)
    if spot is None:
        return None
    inside = [(path, value) for path, value in fix.put if path[:-1] == fix.remove[:-1]]
    if fix.put and len(inside) == len(fix.put):
        return _renamed(spot, [path[-1] for path, _ in inside], fix.put[0][1])
    removed = _removed(source, tree, fix.remove)
    for path, value in fix.put:
        removed = _put(removed, file, path, value) if removed is not None else None
    return removed


@dataclass(frozen=True, slots=True)
class _Spot:
    """An entry in its mapping."""

    text: Text
    parent: Mapping
    entry: Entry

    @property
    def is_flow(self) -> bool:
        return self.text.text[self.text.start(self.parent.span)] in "{!"


def _find(source: str, tree: Mapping, path: Path) -> _Spot | None:
    parent, _, reached = find(tree, path[:-1])
    if reached != path[:-1] or not isinstance(parent, Mapping) or path[-1] not in parent.entries:
        return None
    return _Spot(Text(source), parent, parent.entries[path[-1]])


def _renamed(spot: _Spot, names: list[str], value: ScalarValue) -> str:
    """The entry under its new names, where it stands."""
    text, entry = spot.text, spot.entry
    if not isinstance(entry.value, Scalar) or entry.value.tag:
        return text.replaced(text.start(entry.key_span), text.end(entry.key_span), names[0])
    same = entry.value.value == value and isinstance(entry.value.value, bool) == isinstance(value, bool)
    written = text.slice(entry.value.span) if same else scalar(value)
    between = ", " if spot.is_flow else "\n" + " " * (entry.key_span.column - 1)
    new = between.join(f"{name}: {written}" for name in names)
    return text.replaced(text.start(entry.key_span), text.end(entry.value.span), new)


def _removed(source: str, tree: Mapping, path: Path) -> str | None:
    """The text without an entry, and without what would be empty then."""
    while True:
        spot = _find(source, tree, path)
        if spot is None:
            return None
        if len(spot.parent.entries) > 1 or len(path) == 1:
            break
        path = path[:-1]
    text, entry = spot.text, spot.entry
    if spot.is_flow:
        return _cut_from_flow(spot)
    last = max(entry.value.span.end_line, entry.key_span.line)
    if (
        entry.value.span.end_column == 1 and last > entry.key_span.line
    ):  # a block scalar ends where the next line begins
        last -= 1
    return text.replaced(text.line_start(entry.key_span.line), text.line_start(last + 1), "")


def _cut_from_flow(spot: _Spot) -> str:
    text, keys = spot.text, list(spot.parent.entries)
    index = keys.index(spot.entry.key)
    if index + 1 < len(keys):
        following = spot.parent.entries[keys[index + 1]]
        return text.replaced(text.start(spot.entry.key_span), text.start(following.key_span), "")
    before = spot.parent.entries[keys[index - 1]]
    return text.replaced(text.end(before.value.span), text.end(spot.entry.value.span), "")


def _put(source: str, file: str, path: Path, value: ScalarValue) -> str | None:
    """The text with a new entry, as the first of the lowest mapping on its path that there is."""
    tree = parse(source.encode(), file)
    parent, _, reached = find(tree, path)
    if not isinstance(parent, Mapping) or not parent.entries:
        return None
    *above, key = path[len(reached) :]
    written = f"{key}: {scalar(value)}"
    for name in reversed(above):
        written = f"{name}: {{{written.partition(': ')[0]}: {written.partition(': ')[2]}}}"
    first = next(iter(parent.entries.values()))
    spot = _Spot(Text(source), parent, first)
    between = ", " if spot.is_flow else "\n" + " " * (first.key_span.column - 1)
    at = spot.text.start(first.key_span)
    return spot.text.replaced(at, at, written + between)
