"""W209: resources that no hardware profile offers, so that a model would wait for a node for ever."""

from collections.abc import Collection, Iterator, Mapping

from compiler.diagnostics import Diagnostic, Label, did_you_mean
from compiler.facts import Ask
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


def asks(tree: Tree, spec: ModelSpec) -> Iterator[Ask]:
    """The custom resources that a model asks nodes for."""
    asked = {
        _WORKER: spec.scaling_config.resources_per_worker,
        _REPLICA: spec.deployment_config.ray_actor_options.resources,
    }
    for path, resources in asked.items():
        yield from (Ask(path == _WORKER, name, find(tree, (*path, name))[1]) for name in resources)


def unoffered(asked: Collection[Ask], hardware: Mapping[str, Collection[str]]) -> Iterator[Diagnostic]:
    """A finding for each resource, or set of them on one node, that no profile offers."""
    known = {name for names in hardware.values() for name in names}
    for ask in asked if hardware else ():
        if ask.name not in known:
            guess = did_you_mean(ask.name, known)
            hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(sorted(known)) or 'none'}"
            message = f"no hardware profile of the cluster has `{ask.name}`: the model would wait for ever"
            yield Diagnostic("W209", message, Label(ask.span), help=hint)
    for of_worker in (True, False):
        node = {ask.name: ask.span for ask in asked if ask.of_worker == of_worker and ask.name in known}
        if len(node) > 1 and not any(node.keys() <= set(names) for names in hardware.values()):
            first, *others = (Label(node[name], "asked for") for name in sorted(node))
            message = f"no hardware profile has {' and '.join(f'`{name}`' for name in sorted(node))} on one node"
            yield Diagnostic("W209", message, first, tuple(others), "`null` takes one away that was inherited")
