"""W209: resources that no hardware profile offers, so that a model would wait for a node for ever."""

from collections.abc import Iterator, Mapping

from compiler.diagnostics import Diagnostic, Label, did_you_mean
from compiler.source.tree import Mapping as Tree
from compiler.source.tree import find, plain
from runtime.application import ModelSpec

_WORKER = ("scaling_config", "resources_per_worker")
_REPLICA = ("deployment_config", "ray_actor_options", "resources")


def offered(profile: Tree) -> frozenset[str]:
    """The custom resources of the nodes that a hardware profile asks for."""
    names: set[str] = set()
    for path in (_WORKER, _REPLICA):
        resources = plain(find(profile, path)[0]) if find(profile, path)[2] == path else None
        names |= {name for name, amount in resources.items() if amount} if isinstance(resources, dict) else set()
    return frozenset(names)


def unoffered(tree: Tree, spec: ModelSpec, hardware: Mapping[str, frozenset[str]]) -> Iterator[Diagnostic]:
    """A finding for each place that asks one node for more than any profile offers."""
    known = {name for names in hardware.values() for name in names}
    asked = {
        _WORKER: spec.scaling_config.resources_per_worker,
        _REPLICA: spec.deployment_config.ray_actor_options.resources,
    }
    for path, resources in asked.items() if hardware else ():
        for name in resources:
            if name not in known:
                guess = did_you_mean(name, known)
                hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(sorted(known)) or 'none'}"
                message = f"no hardware profile of the cluster has `{name}`: the model would wait for ever"
                yield Diagnostic("W209", message, Label(find(tree, (*path, name))[1]), help=hint)
        together = resources.keys() & known
        if len(together) > 1 and not any(together <= names for names in hardware.values()):
            first, *others = (Label(find(tree, (*path, name))[1], "asked for") for name in sorted(together))
            message = f"no hardware profile has {' and '.join(f'`{name}`' for name in sorted(together))} on one node"
            yield Diagnostic("W209", message, first, tuple(others), "`null` takes one away that was inherited")
