"""The whole compile: file text in, the bytes of `generated/` out. Pure but for reading the project's files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from compiler.build.publish import MANIFEST, MARK
from compiler.check.layers import Layers
from compiler.check.waivers import waive
from compiler.clusters import DEFAULT_CLUSTER, Cluster, compile_clusters
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, has_errors
from compiler.emit import emit
from compiler.lower.serve import cluster_document, model_document
from compiler.models import CompiledModel, collect, compile_models, lint_models
from compiler.source.project import CLUSTERS, REGISTRY, Project
from compiler.source.tree import plain

HEADER = MARK + " from {source}. Do not edit: change the source and compile again."


@dataclass(frozen=True, slots=True)
class Compilation:
    """What a compile found, with all models, disabled ones too, and the clusters by their names."""

    models: list[CompiledModel]
    clusters: dict[str, Cluster]
    found: list[Diagnostic]

    @property
    def enabled(self) -> list[CompiledModel]:
        """The models that are compiled for."""
        return [each for each in self.models if each.model.spec.enabled]


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
        return Compilation([], {}, found)
    layers = Layers(project)
    models = compile_models(layers, found)
    enabled = [each for each in models if each.model.spec.enabled]
    clusters = compile_clusters(layers, enabled, found)
    found += [*layers.found, *lint_models(models)]
    if not has_errors(found):
        found += _unused(enabled, clusters)
    return Compilation(models, clusters, list(waive(found, layers.waivers)))


def outputs(compilation: Compilation) -> dict[str, bytes]:
    """The files that a compilation without errors asks for: path under the root -> bytes."""
    files = {}
    for each in compilation.enabled:
        header = HEADER.format(source=each.model.file)
        files[f"generated/models/{each.model.name}.yaml"] = emit(model_document(each.model), header)
    for name, cluster in compilation.clusters.items():
        document = cluster_document(cluster.spec, [each.model for each in cluster.models])
        files[_cluster_path(name)] = emit(document, HEADER.format(source=cluster.file or f"{REGISTRY}/"))
    return {**files, MANIFEST: _manifest(compilation.models, files)}


def _unused(enabled: Iterable[CompiledModel], clusters: Mapping[str, Cluster]) -> Iterator[Diagnostic]:
    """A warning for each model that no cluster serves, and each cluster that serves no model."""
    served = {each.model.name for cluster in clusters.values() for each in cluster.models}
    hint = f"name it in a file of {CLUSTERS}/, or say `enabled: false` in this one"
    for each in enabled:
        if each.model.name not in served:
            place = Label(Span(each.model.file, 1, 1, 1, 1))
            yield Diagnostic("W401", f"no cluster serves `{each.model.name}`", place, help=hint)
    for name, cluster in clusters.items():
        if not cluster.models:
            yield Diagnostic("W402", f"cluster `{name}` serves no model", None)


def _cluster_path(name: str) -> str:
    return "generated/serve.yaml" if name == DEFAULT_CLUSTER else f"generated/clusters/{name}.yaml"


def _manifest(models: list[CompiledModel], outputs: Mapping[str, bytes]) -> bytes:
    """What was built from what. `effective` is the hash of the merged config, so comments do not count."""
    built = {
        compiled.model.name: {
            "layers": [layer.file for layer in compiled.layers],
            "effective": _sha256(_canonical(plain(compiled.merged.tree))),
        }
        for compiled in models
    }
    hashes = {path: _sha256(data) for path, data in sorted(outputs.items())}
    return json.dumps({"models": built, "outputs": hashes}, indent=2).encode() + b"\n"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
