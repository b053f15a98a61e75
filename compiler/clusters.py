"""A cluster, from its file to the models that it serves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial

from compiler.check.cluster import ClusterSpec
from compiler.check.layers import Layers, merge_models
from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, did_you_mean
from compiler.layering.layers import EXTENDS, Layer
from compiler.layering.merge import ENABLED, WAIVE
from compiler.lint.hardware import offered, unoffered
from compiler.models import CompiledModel, check_name, collect, compile_layers, found_through, through
from compiler.source.project import BASE, CLUSTERS, Project
from compiler.source.tree import Mapping as Tree
from compiler.source.tree import Sequence, find, plain

DEFAULT_CLUSTER = "default"
"""The cluster that becomes `generated/serve.yaml`. Without such a file it serves every model."""

HARDWARE = "hardware/"
"""Where under base/ the profiles lie that say what nodes there are."""
OVERLAY = "overlay"
"""The key of a cluster file that is a layer."""

_OF_A_FILE = (EXTENDS, ENABLED, WAIVE)
"""Keys that speak of a model's or profile's own file."""

_Chosen = list[tuple[CompiledModel, Span]]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster and the models that it serves. `file` is None for a default cluster that nobody has written."""

    spec: ClusterSpec
    models: list[CompiledModel]
    file: str | None


def compile_clusters(layers: Layers, enabled: list[CompiledModel], found: list[Diagnostic]) -> dict[str, Cluster]:
    """Every cluster by its name; what is wrong goes to `found`."""
    profiles = [name for name in layers.project.profiles if name.startswith(HARDWARE)]
    stacks = {name: collect(found, partial(layers.under, f"{BASE}/{name}.yaml")) for name in profiles}
    hardware = {name: offered(merge_models(stack).tree) for name, stack in stacks.items() if stack}
    clusters = {}
    for name in sorted({DEFAULT_CLUSTER, *layers.project.clusters}):
        cluster = collect(found, partial(_compile_cluster, layers, name, enabled, found))
        if cluster is not None:
            clusters[name] = cluster
            found += _unoffered(cluster, hardware, layers.project)
    return clusters


def _compile_cluster(layers: Layers, name: str, enabled: list[CompiledModel], found: list[Diagnostic]) -> Cluster:
    file, project = f"{CLUSTERS}/{name}.yaml", layers.project
    if name == DEFAULT_CLUSTER and name not in project.clusters:
        _check_ids([(each, Span(each.model.file, 1, 1, 1, 1)) for each in enabled], project, found)
        return Cluster(ClusterSpec(models=["*"]), enabled, None)
    check_name(name, file)
    tree = project.tree(file)
    overlay = tree.get(OVERLAY)
    layer = layers.check(file, overlay) if isinstance(overlay, Tree) else None
    if layer is not None:
        _check_overlay(layer)
    own = replace(tree, entries={key: each for key, each in tree.entries.items() if key != OVERLAY or layer is None})
    layers.check_secrets(file, own)
    spec = validate(own, ClusterSpec)
    chosen = _select(project, tree, enabled, found)
    if layer is not None:
        chosen = _lay_over(layer, chosen, layers, found)
    _check_ids(chosen, project, found)
    return Cluster(spec, [each for each, _ in chosen], file)


def _check_overlay(layer: Layer) -> None:
    """Raise ConfigErrors for keys that an overlay, which is no file of its own, cannot have."""
    stray = [layer.tree.entries[key] for key in _OF_A_FILE if key in layer.tree.entries]
    if stray:
        problem = "speaks of a model's own file: an overlay has none"
        raise ConfigErrors(Diagnostic("E301", f"`{each.key}` {problem}", Label(each.key_span)) for each in stray)


def _select(project: Project, tree: Tree, enabled: list[CompiledModel], found: list[Diagnostic]) -> _Chosen:
    """The cluster's models by name, each with the pattern that chose it; each pattern must select something."""
    patterns = tree.get("models")
    assert isinstance(patterns, Sequence)
    chosen: dict[str, tuple[CompiledModel, Span]] = {}
    for item in patterns.items:
        pattern = str(plain(item))
        if not any(fnmatchcase(name, pattern) for name in project.models):
            guess = did_you_mean(pattern, project.models)
            hint = f"did you mean `{guess}`?" if guess else "a model is named like its file in registry/, without .yaml"
            found.append(Diagnostic("E401", f"no model is called `{pattern}`", Label(item.span), help=hint))
        for each in enabled:
            if fnmatchcase(each.model.name, pattern):
                chosen.setdefault(each.model.name, (each, item.span))
    return [chosen[name] for name in sorted(chosen)]


def _lay_over(layer: Layer, chosen: _Chosen, layers: Layers, found: list[Diagnostic]) -> _Chosen:
    """The models with the overlay on them. A tag of it must find something to act on in one model at least."""
    laid: _Chosen = []
    idle: list[set[Diagnostic]] = []
    for each, span in chosen:
        compiled = collect(found, partial(_laid, layer, each, layers))
        if compiled is not None:
            laid.append((compiled, span))
            idle.append({diagnostic for diagnostic in compiled.merged.found if diagnostic.code == "E208"})
    found += set.intersection(*idle) if idle else ()
    return laid


def _laid(layer: Layer, below: CompiledModel, layers: Layers) -> CompiledModel | None:
    model = below.model
    with found_through(model.file):
        return compile_layers(model.name, model.file, [*below.layers, layer], layers, idle=(layer.file,))


def _check_ids(chosen: _Chosen, project: Project, found: list[Diagnostic]) -> None:
    by_id: dict[str, CompiledModel] = {}
    for each, span in chosen:
        model_id = each.model.spec.model.model_id
        first = by_id.setdefault(model_id, each)
        if first is not each:
            names = [compiled.model.name for compiled in (first, each)]
            labels = tuple(
                Label(find(project.tree(compiled.model.file), ("model_config", "model_id"))[1], f"`{model_id}`")
                for compiled in (first, each)
            )
            message = f"`{names[0]}` and `{names[1]}` are both called `{model_id}`, and this cluster serves both"
            found.append(Diagnostic("E402", message, Label(span), labels))


def _unoffered(cluster: Cluster, profiles: Mapping[str, frozenset[str]], project: Project) -> Iterator[Diagnostic]:
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
    for each in cluster.models:
        for diagnostic in unoffered(each.merged.tree, each.model.spec, hardware):
            yield through(each.model.file, diagnostic)
