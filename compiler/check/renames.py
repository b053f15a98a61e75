"""Fields that have moved, in one table: old files compile, with a warning that says what to write.

Sources: Ray Serve 2.60 `AutoscalingConfig` and `DeploymentSchema`; llm-inference, which called `model_config`
`model_conf` for a while.
"""

from dataclasses import dataclass, replace

from compiler.diagnostics import ConfigErrors, Diagnostic, Label
from compiler.source.tree import Entry, Mapping, Scalar, inline

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rename:
    """`old` in the mapping at `parent` is called `new` today; several names if its meaning was split."""

    parent: Path
    old: str
    new: tuple[str, ...]


_DEPLOYMENT: Path = ("deployment_config",)
_AUTOSCALING: Path = ("deployment_config", "autoscaling_config")

RENAMES = (
    Rename((), "model_conf", ("model_config",)),
    Rename(_DEPLOYMENT, "max_concurrent_queries", ("max_ongoing_requests",)),
    Rename(_AUTOSCALING, "target_num_ongoing_requests_per_replica", ("target_ongoing_requests",)),
    Rename(_AUTOSCALING, "smoothing_factor", ("upscaling_factor", "downscaling_factor")),
    Rename(_AUTOSCALING, "upscale_smoothing_factor", ("upscaling_factor",)),
    Rename(_AUTOSCALING, "downscale_smoothing_factor", ("downscaling_factor",)),
)
"""Outer names come first: a later row finds its parent under the parent's new name."""


def modernize(tree: Mapping) -> tuple[Mapping, list[Diagnostic]]:
    """One layer with today's names, and a warning for each old one.

    Raises ConfigErrors where a layer sets a field under both names.
    """
    found: list[Diagnostic] = []
    for rename in RENAMES:
        tree = _apply(rename, tree, rename.parent, found)
    if any(diagnostic.code == "E305" for diagnostic in found):
        raise ConfigErrors(found)
    return tree, found


def _apply(rename: Rename, tree: Mapping, path: Path, found: list[Diagnostic]) -> Mapping:
    if path:
        entry = tree.entries.get(path[0])
        if entry is None or not isinstance(entry.value, Mapping):
            return tree
        below = _apply(rename, entry.value, path[1:], found)
        return replace(tree, entries={**tree.entries, path[0]: replace(entry, value=below)})
    if rename.old not in tree.entries:
        return tree
    old = tree.entries[rename.old]
    today = " and ".join(f"`{name}`" for name in rename.new)
    for name in rename.new:
        if name in tree.entries:
            there = Label(tree.entries[name].key_span, "today's name")
            message = f"`{rename.old}` and `{name}` are the same field"
            found.append(Diagnostic("E305", message, Label(old.key_span, "old name"), (there,), "remove the old one"))
            return tree
    found.append(
        Diagnostic("W301", f"`{rename.old}` is called {today} now", Label(old.key_span), help=_advice(rename, old))
    )
    entries: dict[str, Entry] = {}
    for key, entry in tree.entries.items():
        if key == rename.old:
            entries |= {name: Entry(name, old.key_span, old.value) for name in rename.new}
        else:
            entries[key] = entry
    return replace(tree, entries=entries)


def _advice(rename: Rename, old: Entry) -> str:
    value = f" {inline(old.value.value)}" if isinstance(old.value, Scalar) else ""
    return "write " + " and ".join(f"`{name}:{value}`" for name in rename.new)
