"""`explain`: what a value is, every layer that set it, what won and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from compiler.check.fields import DISCRIMINATOR, every_field, fields_at, models_in, rules
from compiler.diagnostics import Span, did_you_mean
from compiler.source import tags
from compiler.source.tree import Mapping, Node, Plain, Scalar, definitions, find, leaves, plain
from runtime.application import ModelSpec
from runtime.engines import engine_named

Path = tuple[str, ...]

_EDITED = dict(zip(tags.EDITS, ("appended", "prepended", "removed"), strict=True))


@dataclass(frozen=True, slots=True)
class Definition:
    """What one layer, or the schema, says of a value, and what became of it."""

    span: Span | None
    value: Plain
    tag: str | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A value and its definitions, the deciding one first. `is_set` is False where nothing gives it one."""

    path: str
    value: Plain
    is_set: bool
    definitions: tuple[Definition, ...]


def explain(tree: Mapping, dotted: str) -> list[Explanation]:
    """The value at a path, or all values below it; the empty path is the whole config."""
    path = tuple(dotted.split(".")) if dotted else ()
    node, _, reached = find(tree, path)
    if reached == path and isinstance(node, Mapping) and (node.entries or not path):
        return [found for below, leaf in leaves(node, path) for found in [_explained(tree, below, leaf)]]
    if reached == path:
        return [_explained(tree, path, node)]
    return [found for found in (_dropped(tree, path), _default(tree, path)) if found][:1]


def known_paths(tree: Mapping) -> list[str]:
    """Every path that `explain` can say something about."""
    declared = {".".join(path) for path, _ in every_field(ModelSpec)}
    return sorted({*declared, *(".".join(path) for path, _ in leaves(tree, ()))})


def whole_path(tree: Mapping, dotted: str) -> str:
    """The path that a shorter one means: its own if there is one, or the only one that ends so."""
    paths = known_paths(tree)
    ends = [path for path in paths if path.endswith(f".{dotted}")]
    return ends[0] if dotted not in paths and len(ends) == 1 else dotted


def guess(tree: Mapping, dotted: str) -> str | None:
    """The path that was probably meant."""
    paths = known_paths(tree)
    ends = [path for path in paths if path.endswith(f".{dotted}")]
    if ends or (meant := did_you_mean(dotted, paths)):
        return ends[0] if ends else meant
    by_end = {path.rpartition(".")[2]: path for path in reversed(paths)}
    end = did_you_mean(dotted.rpartition(".")[2], by_end)
    return by_end[end] if end else None


def _explained(tree: Mapping, path: Path, node: Node) -> Explanation:
    below = tuple(_outcomes(definitions(node), path))
    return Explanation(".".join(path), plain(node), True, (*below, *_schema(tree, path, "overridden")))


def _outcomes(layers: tuple[Node, ...], path: Path) -> Iterator[Definition]:
    decided = False
    for index, node in enumerate(layers):
        outcome = "overridden" if decided else _EDITED.get(node.tag or "") or _winner(node, path, layers[index + 1 :])
        decided = decided or outcome not in (*_EDITED.values(), "merged")
        value = None if node.tag == tags.UNSET else plain(node)
        yield Definition(node.span, value, node.tag, outcome)


def _winner(node: Node, path: Path, below: tuple[Node, ...]) -> str:
    if node.tag == tags.UNSET:
        return "unset"
    if path in rules(ModelSpec).identities and not isinstance(node, Scalar) and below and node.tag != tags.REPLACE:
        return "merged"
    reasons = {tags.FINAL: "wins, final", tags.FORCE: "wins, forced", tags.TEMPLATE: "wins, evaluated"}
    return reasons.get(node.tag or "", "wins")


def _dropped(tree: Mapping, path: Path) -> Explanation | None:
    """What has ended a value that a lower layer had set: an `!unset`, or another engine."""
    for length in range(len(path)):
        parent, _, reached = find(tree, path[:length])
        if reached != path[:length] or not isinstance(parent, Mapping) or path[length] not in parent.dropped:
            continue
        ender, *rest = definitions(parent.dropped[path[length]])
        found = [(node, reached) for below in rest for node, _, reached in [find(below, path[length + 1 :])]]
        said = [node for node, reached in found if reached == path[length + 1 :]]
        if not said:
            return None
        outcome = "unset" if ender.tag == tags.UNSET else "another engine: drops what was set for the old one"
        first = Definition(ender.span, None if ender.tag == tags.UNSET else plain(ender), ender.tag, outcome)
        rows = (Definition(node.span, plain(node), node.tag, "dropped") for node in said)
        default = _schema(tree, path, "wins")
        value = default[0].value if default else None
        return Explanation(".".join(path), value, bool(default), (first, *rows, *default))
    return None


def _default(tree: Mapping, path: Path) -> Explanation | None:
    """A field that no layer sets."""
    if not fields_at(ModelSpec, path):
        return None
    default = _schema(tree, path, "wins")
    return Explanation(".".join(path), default[0].value if default else None, bool(default), tuple(default))


def _schema(tree: Mapping, path: Path, outcome: str) -> list[Definition]:
    """What holds where no layer says anything."""
    found = [field for field in fields_at(ModelSpec, _of_engine(tree, path)) if not models_in(field.annotation)]
    default: Any = found[0].get_default(call_default_factory=True) if found else PydanticUndefined
    if default is PydanticUndefined or path[-1] == DISCRIMINATOR:
        return []
    return [Definition(None, default, None, outcome)]


def _of_engine(tree: Mapping, path: Path) -> Path:
    """The path by way of the chosen engine: another engine's fields have no default here."""
    for at in rules(ModelSpec).discriminators:
        chosen, _, reached = find(tree, (*at, DISCRIMINATOR))
        engine = engine_named(str(plain(chosen))) if len(reached) > len(at) else None
        if path[: len(at)] == at and engine:
            return (*at, engine.name, *path[len(at) :])
    return path
