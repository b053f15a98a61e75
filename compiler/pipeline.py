"""The whole compile: file text in, the bytes of `generated/` out. Pure but for reading the project's files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from compiler.build.files import cluster_file, cluster_path, model_file, model_path
from compiler.build.publish import MANIFEST
from compiler.check.layers import Layers
from compiler.check.waivers import waive
from compiler.clusters import Cluster, compile_clusters
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, has_errors
from compiler.facts import Facts
from compiler.lint.registry import lint_registry
from compiler.models import CompiledModel, collect, compile_models, digest, facts_of, through
from compiler.source.project import CLUSTERS, REGISTRY, Project


@dataclass(frozen=True, slots=True)
class Compilation:
    """What a compile found, with all models, disabled ones too, and the clusters by their names."""

    models: list[CompiledModel]
    facts: list[Facts]
    clusters: dict[str, Cluster]
    found: list[Diagnostic]


def compile_project(project: Project) -> Compilation:
    """Compile every model and every cluster. Raises ConfigErrors with all findings of all files."""
    compilation = check_project(project)
    if has_errors(compilation.found):
        raise ConfigErrors(compilation.found)
    return compilation


def check_project(project: Project) -> Compilation:
    """As `compile_project`, and where there are errors, as much as there is without them."""
    found: list[Diagnostic] = []
    for names in (lambda: project.profiles, lambda: project.models, lambda: project.clusters):
        collect(found, names)
    if found:
        return Compilation([], [], {}, found)
    layers = Layers(project)
    models = compile_models(layers, found)
    facts = [facts_of(each) for each in models]
    enabled = [each for each in facts if each.enabled]
    clusters = compile_clusters(layers, enabled, found)
    found += [*layers.found, *(each for one in facts for each in one.found)]
    found += [through(one.file, each) for one, each in lint_registry(facts)]
    if not has_errors(found):
        found += unused(enabled, clusters)
    return Compilation(models, facts, clusters, list(waive(found, layers.waivers)))


def outputs(compilation: Compilation) -> dict[str, bytes]:
    """The files that a compilation without errors asks for: path under the root -> bytes."""
    files = {
        model_path(each.model.name): model_file(each.model) for each in compilation.models if each.model.spec.enabled
    }
    for name, cluster in compilation.clusters.items():
        models = (
            model_file(cluster.laid[each.name].model) if cluster.laid else files[model_path(each.name)]
            for each in cluster.members
        )
        files[cluster_path(name)] = cluster_file(cluster.file or f"{REGISTRY}/", cluster.spec, cluster.members, models)
    return {**files, MANIFEST: _manifest(compilation.facts, files)}


def unused(enabled: Iterable[Facts], clusters: Mapping[str, Cluster]) -> Iterator[Diagnostic]:
    """A warning for each model that no cluster serves, and each cluster that serves no model."""
    served = {each.name for cluster in clusters.values() for each in cluster.members}
    hint = f"name it in a file of {CLUSTERS}/, or say `enabled: false` in this one"
    for each in enabled:
        if each.name not in served:
            yield Diagnostic("W401", f"no cluster serves `{each.name}`", Label(Span(each.file, 1, 1, 1, 1)), help=hint)
    for name, cluster in clusters.items():
        if not cluster.members:
            yield Diagnostic("W402", f"cluster `{name}` serves no model", None)


def _manifest(models: Iterable[Facts], outputs: Mapping[str, bytes]) -> bytes:
    """What was built from what. `effective` is the hash of the merged config, so comments do not count."""
    built = {each.name: {"layers": each.layers, "effective": each.effective} for each in models}
    hashes = {path: digest(data) for path, data in sorted(outputs.items())}
    return json.dumps({"models": built, "outputs": hashes}, indent=2).encode() + b"\n"
