"""A cluster, from its file to the models that it serves."""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Sequence as List
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

from compiler.build.files import DEFAULT_CLUSTER
from compiler.check.cluster import ClusterSpec
from compiler.check.layers import Layers
from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, did_you_mean
from compiler.facts import Facts
from compiler.layering.layers import EXTENDS, Layer
from compiler.layering.merge import ENABLED, WAIVE
from compiler.lint.deadline import never_comes
from compiler.lint.hardware import offered, unoffered
from compiler.models import (
    CompiledModel,
    check_name,
    collect,
    compile_layers,
    compile_model,
    facts_of,
    found_through,
    through,
)
from compiler.source.project import BASE, CLUSTERS, REGISTRY, Project
from compiler.source.tree import Mapping as Tree
from compiler.source.tree import Sequence, find, plain

HARDWARE = "hardware/"
"""Where under base/ the profiles lie that say what nodes there are."""
OVERLAY = "overlay"
"""The key of a cluster file that is a layer."""

_OF_A_FILE = (EXTENDS, ENABLED, WAIVE)
"""Keys that speak of a model's or profile's own file."""

_LIMIT = ("http", "request_timeout_s")

_Chosen = list[tuple[Facts, Span]]


class Cluster(NamedTuple):
    """A cluster and the models that it serves, by name.

    `laid`: those on which its overlay lies. `file` is None for a default cluster that nobody has written.
    """

    spec: ClusterSpec
    members: list[Facts]
    laid: dict[str, CompiledModel]
    file: str | None


def cluster_names(project: Project) -> list[str]:
    """The clusters, the default one always among them."""
    return sorted({DEFAULT_CLUSTER, *project.clusters})


def offered_hardware(layers: Layers, found: list[Diagnostic]) -> dict[str, frozenset[str]]:
    """The custom resources of each hardware profile."""
    profiles = [name for name in layers.project.profiles if name.startswith(HARDWARE)]
    stacks = {name: collect(found, partial(layers.under, f"{BASE}/{name}.yaml")) for name in profiles}
    return {name: offered(layers.merged(stack).tree) for name, stack in stacks.items() if stack}


def compile_cluster(layers: Layers, name: str, enabled: Mapping[str, Facts], found: list[Diagnostic]) -> Cluster:
    """One cluster. Raises ConfigErrors."""
    file, project = f"{CLUSTERS}/{name}.yaml", layers.project
    if name == DEFAULT_CLUSTER and name not in project.clusters:
        members = list(enabled.values())
        _check_ids([(each, Span(each.file, 1, 1, 1, 1)) for each in members], found)
        return Cluster(ClusterSpec(models=["*"]), members, {}, None)
    check_name(name, file)
    tree = project.tree(file)
    overlay = tree.get(OVERLAY)
    layer = layers.check(file, overlay) if isinstance(overlay, Tree) else None
    if layer is not None:
        _check_overlay(layer)
    own = tree.with_entries({key: each for key, each in tree.entries.items() if key != OVERLAY or layer is None})
    layers.check_secrets(file, own)
    spec = validate(own, ClusterSpec)
    chosen = _select(project, tree, enabled, found)
    laid = _lay_over(layer, [each for each, _ in chosen], layers, found) if layer is not None else {}
    if layer is not None:
        chosen = [(facts_of(laid[each.name]), span) for each, span in chosen if each.name in laid]
    _check_ids(chosen, found)
    if spec.require_locks:
        locked = set(project.locks)
        found += (_unlocked(each, span) for each, span in chosen if each.name not in locked)
    return Cluster(spec, [each for each, _ in chosen], laid, file)


def _check_overlay(layer: Layer) -> None:
    """Raise ConfigErrors for keys that an overlay, which is no file of its own, cannot have."""
    stray = [layer.tree.entries[key] for key in _OF_A_FILE if key in layer.tree.entries]
    if stray:
        problem = "speaks of a model's own file: an overlay has none"
        raise ConfigErrors(Diagnostic("E301", f"`{each.key}` {problem}", Label(each.key_span)) for each in stray)


def _select(project: Project, tree: Tree, enabled: Mapping[str, Facts], found: list[Diagnostic]) -> _Chosen:
    """The cluster's models by name, each with the pattern that chose it; each pattern must select something."""
    patterns = tree.get("models")
    assert isinstance(patterns, Sequence)
    chosen: dict[str, tuple[Facts, Span]] = {}
    for item in patterns.items:
        pattern = str(plain(item))
        names = matching(pattern, project.models)
        if not names:
            guess = did_you_mean(pattern, project.models)
            hint = f"did you mean `{guess}`?" if guess else "a model is named like its file in registry/, without .yaml"
            found.append(Diagnostic("E401", f"no model is called `{pattern}`", Label(item.span), help=hint))
        for name in names:
            if name in enabled and name not in chosen:
                chosen[name] = (enabled[name], item.span)
    return [chosen[name] for name in sorted(chosen)]


def matching(pattern: str, names: List[str]) -> List[str]:
    """The names, which are sorted, that a pattern means. What stands before its first wildcard is looked up."""
    literal = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    first = bisect_left(names, literal)
    if literal == pattern:
        return [pattern] if names[first : first + 1] == [pattern] else []
    last = bisect_left(names, f"{literal}\U0010ffff", lo=first)
    return [name for name in names[first:last] if fnmatchcase(name, pattern)]


def _lay_over(layer: Layer, chosen: list[Facts], layers: Layers, found: list[Diagnostic]) -> dict[str, CompiledModel]:
    """The models with the overlay on them. A tag of it must find something to act on in one model at least."""
    laid: dict[str, CompiledModel] = {}
    idle: list[set[Diagnostic]] = []
    for each in chosen:
        compiled = collect(found, partial(_laid, layer, each, layers))
        if compiled is not None:
            laid[each.name] = compiled
            idle.append({diagnostic for diagnostic in compiled.merged.found if diagnostic.code == "E208"})
    found += set.intersection(*idle) if idle else ()
    return laid


def _laid(layer: Layer, below: Facts, layers: Layers) -> CompiledModel | None:
    with found_through(below.file):
        stack = layers.under(below.file)
        assert stack is not None  # the model compiled without the overlay
        return compile_layers(below.name, below.file, [*stack, layer], layers, idle=(layer.file,))


def compile_in_cluster(layers: Layers, cluster: str, name: str) -> CompiledModel | None:
    """A model as a cluster serves it, with its overlay; as `compile_model`. Raises ConfigErrors."""
    tree = layers.project.tree(f"{CLUSTERS}/{cluster}.yaml")
    overlay = tree.get(OVERLAY)
    if not isinstance(overlay, Tree):
        return compile_model(layers, name)
    layer = layers.check(tree.span.file, overlay)
    stack = layers.under(f"{REGISTRY}/{name}.yaml")
    if stack is None:
        return None
    return compile_layers(name, stack[-1].file, [*stack, layer], layers, idle=(layer.file,))


def _check_ids(chosen: _Chosen, found: list[Diagnostic]) -> None:
    by_id: dict[str, tuple[Facts, Span]] = {}
    for each, chosen_at in chosen:
        for name, span in {**each.adapters, each.model_id: each.id_span}.items():
            first, first_span = by_id.setdefault(name, (each, span))
            if first is not each:
                labels = tuple(Label(one, f"`{name}`") for one in (first_span, span))
                message = f"`{first.name}` and `{each.name}` are both called `{name}`, and this cluster serves both"
                found.append(Diagnostic("E402", message, Label(chosen_at), labels))


def _unlocked(model: Facts, span: Span) -> Diagnostic:
    message = f"`{model.name}` has no lock, and this cluster requires one"
    return Diagnostic("E405", message, Label(span), help=f"make it: `llm-serve lock {model.name}`")


def check_hardware(cluster: Cluster, profiles: Mapping[str, Collection[str]], project: Project) -> Iterator[Diagnostic]:
    """What the cluster's models ask for and its hardware has not."""
    listed = cluster.spec.hardware or list(profiles)
    for index, name in enumerate(listed):
        if name not in profiles:
            assert cluster.file is not None
            place = Label(find(project.tree(cluster.file), ("hardware", index))[1])
            guess = did_you_mean(name, profiles)
            hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(profiles) or 'none'}"
            yield Diagnostic("E404", f"there is no hardware profile `{name}`", place, help=hint)
    hardware = {name: profiles[name] for name in listed if name in profiles}
    for each in cluster.members:
        for diagnostic in unoffered(each.asks, hardware):
            yield through(each.file, diagnostic)


def check_deadlines(cluster: Cluster, project: Project) -> Iterator[Diagnostic]:
    """What the cluster's models promise and its proxies do not wait for."""
    limit, span = cluster.spec.http.request_timeout_s, None
    if cluster.file:
        node, _, reached = find(project.tree(cluster.file), _LIMIT)
        span = node.span if reached == _LIMIT else None
    for each in cluster.members:
        for diagnostic in never_comes(each.deadline, limit, span):
            yield through(each.file, diagnostic)
