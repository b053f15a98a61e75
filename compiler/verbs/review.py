"""Commands that only look: `explain`, `show`, `ls`, `graph`."""

import argparse
from collections.abc import Callable

from compiler.build.files import model_path
from compiler.build.publish import digests_on_disk
from compiler.check.layers import Layers
from compiler.clusters import cluster_names, compile_in_cluster
from compiler.diagnostics import ConfigErrors
from compiler.exits import OK
from compiler.facts import Facts
from compiler.layering.layers import extended
from compiler.models import CompiledModel, compile_model
from compiler.pipeline import Compilation, compile_project
from compiler.report import printing as report
from compiler.review import graph
from compiler.review.explain import Definition, Explanation, explain, guess, whole_path
from compiler.review.select import Selection
from compiler.review.show import show
from compiler.source.project import Project
from compiler.source.tree import inline
from compiler.verbs.project import RefusedError, model_name, not_there, project_of


def explain_(options: argparse.Namespace) -> int:
    """A value, and all that led to it."""
    project = project_of(options)
    compiled = _model(options, project)
    found = explain(compiled.merged.tree, whole_path(compiled.merged.tree, options.path))
    if not found:
        hint = guess(compiled.merged.tree, options.path)
        raise RefusedError(f"there is no `{options.path}`" + (f"; did you mean `{hint}`?" if hint else ""))
    if options.format == "json":
        report.print_value([_explanation(each) for each in found])
    elif len(found) == 1:
        report.print_lines([f"{found[0].path}: {_value(found[0])}"])
        report.print_table([_row(each) for each in found[0].definitions] or [("nothing sets it", "", "")], "  ")
    else:
        report.print_table([(each.path, _value(each), _row(each.definitions[0])[0]) for each in found])
    return OK


def _explanation(each: Explanation) -> dict[str, object]:
    rows = [
        {"place": _row(row)[0], "value": row.value, "tag": row.tag, "outcome": row.outcome} for row in each.definitions
    ]
    return {"path": each.path, "set": each.is_set, "value": each.value, "definitions": rows}


def _row(definition: Definition) -> tuple[str, str, str]:
    place = str(definition.span) if definition.span else "schema default"
    written = inline(definition.value) if definition.tag != "!unset" else ""
    return place, _short(f"{definition.tag or ''} {written}".strip()), definition.outcome


def _value(each: Explanation) -> str:
    return _short(inline(each.value)) if each.is_set else "(not set)"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def show_(options: argparse.Namespace) -> int:
    """The merged config of one model."""
    compiled = _model(options, project_of(options))
    lines = show(compiled.merged.tree)
    if options.origins:
        width = min(72, max(len(line) for line, _ in lines))
        report.print_lines(f"{line.ljust(width)}  # {place}" if place else line for line, place in lines)
    else:
        report.print_lines(line for line, _ in lines)
    return OK


def _model(options: argparse.Namespace, project: Project) -> CompiledModel:
    """The model that was asked for, by its file's name or its id; as a cluster serves it if one was named."""
    name = model_name(project, options.model)
    if options.cluster and options.cluster not in cluster_names(project):
        raise not_there("cluster", options.cluster, options.cluster, cluster_names(project))
    layers = Layers(project)
    if options.cluster:
        if name not in compile_project(project).clusters[options.cluster]:
            raise RefusedError(f"cluster `{options.cluster}` does not serve `{name}`")
        compiled = compile_in_cluster(layers, options.cluster, name)
    else:
        compiled = compile_model(layers, name)
    if compiled is None:
        raise ConfigErrors(layers.found)
    return compiled


def ls(options: argparse.Namespace) -> int:
    """The models that the selectors name, one a line."""
    project = project_of(options)
    compilation = compile_project(project)
    chosen = _selection(project, compilation).select(options.selectors)
    if options.format == "json":
        report.print_value([dict(zip(_COLUMNS, _columns(each, compilation), strict=True)) for each in chosen])
    elif chosen:
        report.print_table(
            [tuple(name.upper() for name in _COLUMNS), *(_columns(each, compilation) for each in chosen)]
        )
    return OK


_COLUMNS = ("model", "engine", "gpus", "clusters", "extends")


def _columns(each: Facts, compilation: Compilation) -> tuple[str, ...]:
    clusters = [name for name, members in compilation.clusters.items() if each.name in members]
    extends = ", ".join(file.partition("/")[2].removesuffix(".yaml") for file in reversed(each.layers[:-1]))
    where = ", ".join(clusters) if each.enabled else "(disabled)"
    return each.name, each.engine, f"{each.gpus:g}", where, extends


def _selection(project: Project, compilation: Compilation) -> Selection:
    disk = digests_on_disk(project.root)
    changed = [
        name for name in compilation.models if disk.get(model_path(name)) != compilation.outputs.get(model_path(name))
    ]
    return Selection(list(compilation.models.values()), compilation.clusters, changed)


def graph_(options: argparse.Namespace) -> int:
    """The layers of the models that the selectors name."""
    project = project_of(options)
    chosen = _selection(project, compile_project(project)).select(options.selectors)
    files = dict.fromkeys(file for each in chosen for file in reversed(each.layers))
    edges = {file: extended(project, file) for file in files}
    draw = {"text": graph.text, "dot": graph.dot, "mermaid": graph.mermaid}[options.format]
    report.print_lines(draw([each.file for each in chosen], edges))
    return OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "explain": explain_,
    "graph": graph_,
    "ls": ls,
    "show": show_,
}
