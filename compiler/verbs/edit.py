"""Commands that write sources: `lint`, `new`, `fmt`."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from compiler.build.publish import Change, publish
from compiler.check.locks import about_unlocked
from compiler.diagnostics import Diagnostic
from compiler.edit.layout import layout
from compiler.edit.mend import mend
from compiler.edit.new import model_file
from compiler.exits import DIFFERENT, OK, WRONG_CONFIG
from compiler.pipeline import check_project
from compiler.report import printing as report
from compiler.report.compiled import print_warning
from compiler.source.project import BASE, NAME, REGISTRY, Project
from compiler.verbs.project import RefusedError, not_there, print_findings, project_of
from runtime.application import ModelSpec
from runtime.schema.weights import REPOSITORY_PATTERN


def lint(options: argparse.Namespace) -> int:
    """All findings and nothing written; with --fix, what can be mended is."""
    project = project_of(options)
    changes: list[Change] = []
    if options.fix:
        changes = mend(project)
        publish(project.root, changes)
        project = Project(project.root)
    compilation = check_project(project)
    found = compilation.found
    fixed = [change.path for change in changes]
    print_findings(options, project, found, {"fixed": fixed, "unlocked": compilation.unlocked})
    if options.format == "human":
        report.print_lines(f"  fixed {path}" for path in fixed)
        report.print_lines([] if found else ["no findings"])
    print_warning(about_unlocked(compilation.unlocked))
    return WRONG_CONFIG if found else OK


def new(options: argparse.Namespace) -> int:
    """A new model file."""
    project = project_of(options)
    name = options.model_id.replace("/", "--")
    if not re.fullmatch(REPOSITORY_PATTERN, options.model_id) or options.model_id.endswith(".git"):
        raise RefusedError(f"`{options.model_id}` is not a model id; write ORGANISATION/NAME, as on the hub")
    assert NAME.fullmatch(name)
    if name in project.models:
        raise RefusedError(f"there is a {REGISTRY}/{name}.yaml already")
    for layer in options.extends:
        if not project.layer_files(layer):
            raise not_there("layer", layer, layer, [*project.models, *project.profiles])
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
    project = project_of(options)
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


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "fmt": fmt,
    "lint": lint,
    "new": new,
}
