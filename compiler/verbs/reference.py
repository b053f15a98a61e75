"""Commands about the language itself: `schema`, `explain-code`."""

import argparse
import re
from collections.abc import Callable

from compiler.build.publish import Change, publish
from compiler.codes import CODES
from compiler.exits import DIFFERENT, OK
from compiler.reference import editor
from compiler.report import printing as report
from compiler.verbs.project import not_there, project_of


def schema(options: argparse.Namespace) -> int:
    """The schemas that editors use, and their settings."""
    project = project_of(options)
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
        raise not_there("code", options.code, code, CODES)
    report.print_code(code, CODES[code])
    return OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "explain-code": explain_code,
    "schema": schema,
}
