"""What each verb of the command line does: options in, exit code out."""

import argparse
from collections.abc import Callable

from compiler.diagnostics import ConfigErrors
from compiler.exits import WRONG_CONFIG
from compiler.report import printing as report
from compiler.review.select import NothingSelectedError
from compiler.verbs import build, edit, reference, review
from compiler.verbs.project import RefusedError, project_of


def run(options: argparse.Namespace) -> int:
    """Run the verb that was parsed; an exit code."""
    try:
        return VERBS[options.verb](options)
    except ConfigErrors as errors:
        report.print_diagnostics(errors.diagnostics, project_of(options).line)
        return WRONG_CONFIG
    except (RefusedError, NothingSelectedError) as refusal:
        report.print_failure(str(refusal))
        return WRONG_CONFIG


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "compile": build.compile_,
    "derivation": build.derivation,
    "explain": review.explain_,
    "explain-code": reference.explain_code,
    "fmt": edit.fmt,
    "gc": build.gc,
    "generations": build.generations_,
    "graph": review.graph_,
    "lint": edit.lint,
    "ls": review.ls,
    "new": edit.new,
    "rollback": build.rollback,
    "schema": reference.schema,
    "show": review.show_,
    "store": build.store,
    "why-rebuilt": build.why_rebuilt,
}
