"""What each verb of the command line does: options in, exit code out."""

import argparse
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from compiler import report
from compiler.build.files import model_path
from compiler.build.publish import Change, differences, ours, publish
from compiler.codes import CODES
from compiler.diagnostics import ConfigErrors, Diagnostic, did_you_mean, has_errors
from compiler.edit.layout import layout
from compiler.edit.mend import mend
from compiler.edit.new import model_file
from compiler.exits import DIFFERENT, OK, WRONG_CONFIG
from compiler.facts import Facts
from compiler.layering.layers import extended
from compiler.models import CompiledModel
from compiler.pipeline import Compilation, check_project, compile_project, outputs
from compiler.reference import editor
from compiler.review import graph
from compiler.review.explain import Definition, Explanation, explain, guess, whole_path
from compiler.review.select import NothingSelectedError, Selection
from compiler.review.show import show
from compiler.source.project import BASE, NAME, REGISTRY, Project, find_root
from compiler.source.tree import inline
from runtime.application import ModelSpec


class RefusedError(Exception):
    """The verb cannot do what it was asked. The message says why, and what to type."""


def run(options: argparse.Namespace) -> int:
    """Run the verb that was parsed; an exit code."""
    try:
        return VERBS[options.verb](options)
    except ConfigErrors as errors:
        project = _project(options)
        report.print_diagnostics(errors.diagnostics, project.line)
        return WRONG_CONFIG
    except (RefusedError, NothingSelectedError) as refusal:
        report.print_failure(str(refusal))
        return WRONG_CONFIG


def _project(options: argparse.Namespace) -> Project:
    root = find_root(options.root or Path.cwd())
    if root is None or (options.root and root != options.root):
        raise RefusedError(f"there is no registry/ in {options.root or 'this folder or above it'}")
    return Project(root)


def _print(
    options: argparse.Namespace,
    project: Project,
    found: list[Diagnostic],
    result: dict[str, object],
    outcome: str = "",
) -> None:
    """Findings in the format asked for. Machines get paths from where they called."""
    if options.format == "human":
        report.print_diagnostics(found, project.line, outcome)
        return
    prefix = os.path.relpath(project.root)
    way = "" if prefix == "." else f"{Path(prefix).as_posix()}/"
    report.print_for_machines(found, options.format, way, result)


def compile_(options: argparse.Namespace) -> int:
    """Sources to generated/, or with --check only a comparison."""
    project = _project(options)
    start = time.perf_counter()
    try:
        compiled = compile_project(project)
        changes, foreign = ours(project.root, differences(project.root, outputs(compiled)))
        if not options.check:
            publish(project.root, changes)
    except ConfigErrors as errors:
        _print(options, project, errors.diagnostics, {"changes": []}, "nothing was written")
        return WRONG_CONFIG
    seconds = time.perf_counter() - start
    _print(options, project, [*compiled.found, *foreign], {"changes": [change.path for change in changes]})
    if options.check:
        report.print_differences(changes, foreign, diff=options.format == "human")
    elif options.format == "human":
        report.print_compiled(sum(each.enabled for each in compiled.facts), len(compiled.clusters), seconds, changes)
    return DIFFERENT if options.check and (changes or foreign) else OK


def lint(options: argparse.Namespace) -> int:
    """All findings and nothing written; with --fix, what can be mended is."""
    project = _project(options)
    changes: list[Change] = []
    if options.fix:
        changes = mend(project)
        publish(project.root, changes)
        project = Project(project.root)
    found = check_project(project).found
    _print(options, project, found, {"fixed": [change.path for change in changes]})
    if options.format == "human":
        report.print_lines(f"  fixed {change.path}" for change in changes)
        report.print_lines([] if found else ["no findings"])
    return WRONG_CONFIG if found else OK


def explain_(options: argparse.Namespace) -> int:
    """A value, and all that led to it."""
    project = _project(options)
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
    compiled = _model(options, _project(options))
    lines = show(compiled.merged.tree)
    if options.origins:
        width = min(72, max(len(line) for line, _ in lines))
        report.print_lines(f"{line.ljust(width)}  # {place}" if place else line for line, place in lines)
    else:
        report.print_lines(line for line, _ in lines)
    return OK


def _model(options: argparse.Namespace, project: Project) -> CompiledModel:
    """The model that was asked for, by its file's name or its id; of a cluster if one was named."""
    compilation = check_project(project)
    models = compilation.models
    if options.cluster:
        if options.cluster not in compilation.clusters:
            known = did_you_mean(options.cluster, compilation.clusters)
            raise RefusedError(
                f"there is no cluster `{options.cluster}`" + (f"; did you mean `{known}`?" if known else "")
            )
        laid = compilation.clusters[options.cluster].laid
        members = {each.name for each in compilation.clusters[options.cluster].members}
        models = [laid.get(each.model.name, each) for each in models if each.model.name in members]
    wanted = options.model.removeprefix(f"{REGISTRY}/").removesuffix(".yaml").replace("/", "--")
    for each in models:
        if each.model.name == wanted:
            return each
    if wanted in project.models and has_errors(compilation.found):
        raise ConfigErrors(compilation.found)
    name = did_you_mean(wanted, [each.model.name for each in models])
    raise RefusedError(f"there is no model `{options.model}`" + (f"; did you mean `{name}`?" if name else ""))


def ls(options: argparse.Namespace) -> int:
    """The models that the selectors name, one a line."""
    project = _project(options)
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


def _columns(each: CompiledModel, compilation: Compilation) -> tuple[str, ...]:
    spec = each.model.spec
    name = each.model.name
    clusters = [key for key, cluster in compilation.clusters.items() if name in _names(cluster.members)]
    extends = ", ".join(layer.file.partition("/")[2].removesuffix(".yaml") for layer in reversed(each.layers[:-1]))
    gpus = spec.scaling_config.num_workers * spec.scaling_config.num_gpus_per_worker
    where = ", ".join(clusters) if spec.enabled else "(disabled)"
    return name, spec.model.initialization.engine.name, f"{gpus:g}", where, extends


def _names(models: list[Facts]) -> list[str]:
    return [each.name for each in models]


def _selection(project: Project, compilation: Compilation) -> Selection:
    paths = {change.path for change in differences(project.root, outputs(compilation))}
    changed = [each.model.name for each in compilation.models if model_path(each.model.name) in paths]
    return Selection(compilation, changed)


def graph_(options: argparse.Namespace) -> int:
    """The layers of the models that the selectors name."""
    project = _project(options)
    chosen = _selection(project, compile_project(project)).select(options.selectors)
    files = dict.fromkeys(layer.file for each in chosen for layer in reversed(each.layers))
    edges = {file: extended(project, file) for file in files}
    draw = {"text": graph.text, "dot": graph.dot, "mermaid": graph.mermaid}[options.format]
    report.print_lines(draw([each.model.file for each in chosen], edges))
    return OK


def new(options: argparse.Namespace) -> int:
    """A new model file."""
    project = _project(options)
    name = options.model_id.replace("/", "--")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", options.model_id, re.ASCII):
        raise RefusedError(f"`{options.model_id}` is not a model id; write ORGANISATION/NAME, as on the hub")
    assert NAME.fullmatch(name)
    if name in project.models:
        raise RefusedError(f"there is a {REGISTRY}/{name}.yaml already")
    for layer in options.extends:
        if not project.layer_files(layer):
            hint = did_you_mean(layer, [*project.models, *project.profiles])
            raise RefusedError(f"there is no layer `{layer}`" + (f"; did you mean `{hint}`?" if hint else ""))
    file = f"{REGISTRY}/{name}.yaml"
    content = model_file(options.model_id, options.extends)
    publish(project.root, [Change(file, None, content.encode())])
    report.print_lines([f"wrote {file}", *(f"  {line}" for line in content.splitlines())])
    project = Project(project.root)
    found = [each for each in check_project(project).found if file in (*each.compiling, *_files(each))]
    report.print_diagnostics(found, project.line)
    return OK


def _files(diagnostic: Diagnostic) -> list[str]:
    return [label.span.file for label in (diagnostic.primary, *diagnostic.secondary) if label]


def fmt(options: argparse.Namespace) -> int:
    """Files in their one form; with --check only the names of those that are not."""
    project = _project(options)
    files = options.files or [
        *(f"{BASE}/{name}.yaml" for name in project.profiles),
        *(f"{REGISTRY}/{name}.yaml" for name in project.models),
    ]
    changes = []
    for file in files:
        path = _relative(project, file) if options.files else file
        old = project.text(path)
        new_text = layout(old, path, ModelSpec)
        if new_text != old:
            changes.append(Change(path, old.encode(), new_text.encode()))
    if not options.check:
        publish(project.root, changes)
    report.print_lines(f"{'would format' if options.check else 'formatted'} {change.path}" for change in changes)
    return DIFFERENT if options.check and changes else OK


def _relative(project: Project, file: str) -> str:
    path = Path(file).resolve()
    if not path.is_relative_to(project.root.resolve()):
        raise RefusedError(f"{file} is not a file of this project")
    return path.relative_to(project.root.resolve()).as_posix()


def schema(options: argparse.Namespace) -> int:
    """The schemas that editors use, and their settings."""
    project = _project(options)
    changes = [
        Change(path, None, data)
        for path, data in editor.files().items()
        if not (project.root / path).is_file() or (project.root / path).read_bytes() != data
    ]
    if not options.check:
        publish(project.root, changes)
    report.print_lines(f"{'would write' if options.check else 'wrote'} {change.path}" for change in changes)
    report.print_lines([] if changes else ["the schemas are current"])
    return DIFFERENT if options.check and changes else OK


def explain_code(options: argparse.Namespace) -> int:
    """What a code means; all codes without one."""
    code = (options.code or "").upper()
    if not code:
        report.print_table([(name, each.title) for name, each in CODES.items()])
        return OK
    code = re.sub(r"^([EW])0+(?=\d{3})", r"\1", code)
    if code not in CODES:
        hint = did_you_mean(code, CODES)
        raise RefusedError(f"there is no code `{options.code}`" + (f"; did you mean `{hint}`?" if hint else ""))
    report.print_code(code, CODES[code])
    return OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "compile": compile_,
    "explain": explain_,
    "explain-code": explain_code,
    "fmt": fmt,
    "graph": graph_,
    "lint": lint,
    "ls": ls,
    "new": new,
    "schema": schema,
    "show": show_,
}
