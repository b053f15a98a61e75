"""The whole compile: file text in, the bytes of `generated/` out. Pure but for reading the project's files."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeVar

from compiler.build.publish import MANIFEST, MARK
from compiler.check.cluster import ClusterSpec
from compiler.check.placement import check_placement
from compiler.check.renames import modernize
from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, did_you_mean, has_errors
from compiler.emit import emit
from compiler.layering.layers import Layer, stack
from compiler.layering.merge import Discriminator, merge
from compiler.lower.serve import Model, cluster_document, model_document
from compiler.source.project import BASE, CLUSTERS, NAME, REGISTRY, Project
from compiler.source.tree import Mapping as Tree
from compiler.source.tree import Sequence, find, plain
from runtime.application import RESERVED_NAMES, ModelSpec

T = TypeVar("T")

DEFAULT_CLUSTER = "default"
"""The cluster that becomes `generated/serve.yaml`. Without such a file it serves every model."""

DISCRIMINATORS = (Discriminator(("model_config", "initialization", "initializer"), "type"),)

HEADER = MARK + " from {source}. Do not edit: change the source and compile again."


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A model with all that led to it; disabled ones too."""

    model: Model
    layers: tuple[str, ...]
    tree: Tree


@dataclass(frozen=True, slots=True)
class Compilation:
    """What a compile found, and the files it asks for: path under the root -> bytes."""

    models: list[Model]
    clusters: list[str]
    outputs: dict[str, bytes]
    warnings: list[Diagnostic]


@dataclass(frozen=True, slots=True)
class _Cluster:
    """A cluster and the models that it selects."""

    spec: ClusterSpec
    models: list[Model]
    header: str


def compile_project(project: Project) -> Compilation:
    """Compile every model and every cluster. Raises ConfigErrors with all findings of all files."""
    found: list[Diagnostic] = []
    for names in (lambda: project.profiles, lambda: project.models, lambda: project.clusters):
        _collect(found, names)
    if found:
        raise ConfigErrors(found)
    for profile in project.profiles:  # those too that nothing extends yet
        _collect(found, partial(project.tree, f"{BASE}/{profile}.yaml"))
    attempts = (_collect(found, partial(compile_model, project, name, found)) for name in project.models)
    models = [compiled for compiled in attempts if compiled is not None]
    enabled = [compiled.model for compiled in models if compiled.model.spec.enabled]
    clusters: dict[str, _Cluster] = {}
    for name in sorted({DEFAULT_CLUSTER, *project.clusters}):
        cluster = _collect(found, partial(_compile_cluster, project, name, enabled, found))
        if cluster is not None:
            clusters[name] = cluster
    if has_errors(found):
        raise ConfigErrors(found)
    outputs = {
        f"generated/models/{model.name}.yaml": emit(model_document(model), HEADER.format(source=model.file))
        for model in enabled
    }
    for name, cluster in clusters.items():
        outputs[_cluster_path(name)] = emit(cluster_document(cluster.spec, cluster.models), cluster.header)
    outputs[MANIFEST] = _manifest(models, outputs)
    return Compilation(enabled, list(clusters), outputs, [*found, *_unused(enabled, clusters)])


def compile_model(project: Project, name: str, found: list[Diagnostic]) -> CompiledModel:
    """One model, from its file to its spec; warnings go to `found`. Raises ConfigErrors."""
    file = f"{REGISTRY}/{name}.yaml"
    _check_name(name, file, RESERVED_NAMES)
    try:
        return _compile_layers(project, name, file, found)
    except ConfigErrors as errors:
        raise ConfigErrors(_found_through(file, diagnostic) for diagnostic in errors.diagnostics) from errors


def _found_through(file: str, diagnostic: Diagnostic) -> Diagnostic:
    labels = [label for label in (diagnostic.primary, *diagnostic.secondary) if label]
    return diagnostic if any(label.span.file == file for label in labels) else replace(diagnostic, compiling=(file,))


def _compile_layers(project: Project, name: str, file: str, found: list[Diagnostic]) -> CompiledModel:
    layers = stack(project, file)
    current: list[Layer] = []
    for layer in layers:
        tree, warnings = modernize(layer.tree)
        found += warnings
        current.append(Layer(layer.file, tree))
    merged = merge(current, DISCRIMINATORS)
    spec = validate(merged, ModelSpec)
    if misplaced := check_placement(merged, spec):
        raise ConfigErrors(misplaced)
    return CompiledModel(Model(name, file, spec), tuple(layer.file for layer in layers), merged)


def _compile_cluster(project: Project, name: str, enabled: list[Model], found: list[Diagnostic]) -> _Cluster:
    file = f"{CLUSTERS}/{name}.yaml"
    if name == DEFAULT_CLUSTER and name not in project.clusters:
        _check_ids([(model, Span(model.file, 1, 1, 1, 1)) for model in enabled], project, found)
        return _Cluster(ClusterSpec(models=["*"]), enabled, HEADER.format(source=f"{REGISTRY}/"))
    _check_name(name, file)
    tree = project.tree(file)
    spec = validate(tree, ClusterSpec)
    return _Cluster(spec, _select(project, tree, enabled, found), HEADER.format(source=file))


def _select(project: Project, tree: Tree, enabled: list[Model], found: list[Diagnostic]) -> list[Model]:
    """The cluster's models by name; each pattern must select something."""
    patterns = tree.get("models")
    assert isinstance(patterns, Sequence)
    chosen: dict[str, tuple[Model, Span]] = {}
    for item in patterns.items:
        pattern = str(plain(item))
        if not any(fnmatchcase(name, pattern) for name in project.models):
            guess = did_you_mean(pattern, project.models)
            hint = f"did you mean `{guess}`?" if guess else "a model is named like its file in registry/, without .yaml"
            found.append(Diagnostic("E401", f"no model is called `{pattern}`", Label(item.span), help=hint))
        for model in enabled:
            if fnmatchcase(model.name, pattern):
                chosen.setdefault(model.name, (model, item.span))
    _check_ids(list(chosen.values()), project, found)
    return [chosen[name][0] for name in sorted(chosen)]


def _check_ids(chosen: list[tuple[Model, Span]], project: Project, found: list[Diagnostic]) -> None:
    by_id: dict[str, Model] = {}
    for model, span in chosen:
        model_id = model.spec.model.model_id
        first = by_id.setdefault(model_id, model)
        if first is not model:
            labels = tuple(
                Label(find(project.tree(each.file), ("model_config", "model_id"))[1], f"`{model_id}`")
                for each in (first, model)
            )
            message = f"`{first.name}` and `{model.name}` are both called `{model_id}`, and this cluster serves both"
            found.append(Diagnostic("E402", message, Label(span), labels))


def _unused(enabled: list[Model], clusters: Mapping[str, _Cluster]) -> Iterator[Diagnostic]:
    """A warning for each model that no cluster serves, and each cluster that serves no model."""
    served = {model.name for cluster in clusters.values() for model in cluster.models}
    hint = f"name it in a file of {CLUSTERS}/, or say `enabled: false` in this one"
    for model in enabled:
        if model.name not in served:
            place = Label(Span(model.file, 1, 1, 1, 1))
            yield Diagnostic("W401", f"no cluster serves `{model.name}`", place, help=hint)
    for name, cluster in clusters.items():
        if not cluster.models:
            yield Diagnostic("W402", f"cluster `{name}` serves no model", None)


def _check_name(name: str, file: str, reserved: Collection[str] = ()) -> None:
    if not NAME.fullmatch(name) or name in reserved:
        reason = "is a name of the gateway's" if name in reserved else "has characters other than A-Z a-z 0-9 . _ -"
        raise ConfigErrors([Diagnostic("E109", f"file name `{name}` {reason}", Label(Span(file, 1, 1, 1, 1)))])


def _collect(found: list[Diagnostic], step: Callable[[], T]) -> T | None:
    """Run one step; its findings join the others, and the compile goes on to find more."""
    try:
        return step()
    except ConfigErrors as errors:
        found += errors.diagnostics
        return None


def _cluster_path(name: str) -> str:
    return "generated/serve.yaml" if name == DEFAULT_CLUSTER else f"generated/clusters/{name}.yaml"


def _manifest(models: list[CompiledModel], outputs: Mapping[str, bytes]) -> bytes:
    """What was built from what. `effective` is the hash of the merged config, so comments do not count."""
    built = {
        compiled.model.name: {
            "layers": list(compiled.layers),
            "effective": _sha256(_canonical(plain(compiled.tree))),
        }
        for compiled in models
    }
    hashes = {path: _sha256(data) for path, data in sorted(outputs.items())}
    return json.dumps({"models": built, "outputs": hashes}, indent=2).encode() + b"\n"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
