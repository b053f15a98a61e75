"""What each verb of the command line does: options in, exit code out."""

import argparse
from collections.abc import Callable

from compiler.diagnostics import ConfigErrors
from compiler.exits import WRONG_CONFIG
from compiler.report import printing as report
from compiler.review.select import NothingSelectedError
from compiler.verbs.project import RefusedError, project_of


def run(options: argparse.Namespace) -> int:
    """Run the verb that was parsed; an exit code."""
    try:
        return _verbs(options.verb)[options.verb](options)
    except ConfigErrors as errors:
        report.print_diagnostics(errors.diagnostics, project_of(options).line)
        return WRONG_CONFIG
    except (RefusedError, NothingSelectedError) as refusal:
        report.print_failure(str(refusal))
        return WRONG_CONFIG


def _verbs(verb: str) -> dict[str, Callable[[argparse.Namespace], int]]:
    """The verbs of one module, which is loaded only if it is needed."""
    match verb:
        case "compile":
            from compiler.verbs.compile import VERBS
        case "fmt" | "lint" | "new":
            from compiler.verbs.edit import VERBS
        case "explain" | "graph" | "ls" | "show":
            from compiler.verbs.review import VERBS
        case "explain-code" | "schema":
            from compiler.verbs.reference import VERBS
        case "bench" | "chat":
            from compiler.verbs.client import VERBS
        case "keys":
            from compiler.verbs.keys import VERBS
        case "lock" | "weights":
            from compiler.verbs.weights import VERBS
        case _:
            from compiler.verbs.build import VERBS
    return VERBS
