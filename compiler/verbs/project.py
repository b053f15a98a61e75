"""What all commands share: the project that they are about, and how findings are printed."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from compiler.diagnostics import Diagnostic, did_you_mean
from compiler.make import Listener
from compiler.report import printing as report
from compiler.source.project import REGISTRY, Project
from compiler.source.walk import find_root


class RefusedError(Exception):
    """The verb cannot do what it was asked. The message says why, and what to type."""


def root_of(options: argparse.Namespace) -> Path:
    """The project's folder. Raises RefusedError where there is none."""
    start = Path(options.root or "").absolute()
    found = find_root(str(start))
    if found is None or (options.root and found != str(start)):
        raise RefusedError(f"there is no registry/ in {options.root or 'this folder or above it'}")
    return options.root or Path(found)


def project_of(options: argparse.Namespace) -> Project:
    """The project. Raises RefusedError where there is none."""
    return Project(root_of(options))


def model_name(project: Project, asked: str) -> str:
    """The model that is meant by a file's name or an id. Raises RefusedError."""
    name = asked.removeprefix(f"{REGISTRY}/").removesuffix(".yaml").replace("/", "--")
    if name not in project.models:
        raise not_there("model", asked, name, project.models)
    return name


def not_there(kind: str, asked: str, name: str, known: Iterable[str]) -> RefusedError:
    """That there is nothing called so, and what may have been meant."""
    hint = did_you_mean(name, known)
    return RefusedError(f"there is no {kind} `{asked}`" + (f"; did you mean `{hint}`?" if hint else ""))


def print_findings(
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


def listener() -> Listener:
    """What is said of a build as it goes on."""
    return Listener(
        waiting=lambda process: report.print_failure(f"waiting for another llm-serve (process {process})"),
        step=report.Progress(),
        troubled=report.print_failure,
    )
