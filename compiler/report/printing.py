"""Findings and results, on the terminal or for programs."""

import difflib
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

from compiler.codes import Code
from compiler.diagnostics import Diagnostic, Severity, in_order
from compiler.report.compiled import count
from compiler.report.human import SourceLine, human, painter, printable
from compiler.report.machine import as_github, as_json, as_sarif, dumps


def print_diagnostics(diagnostics: Sequence[Diagnostic], line: SourceLine, outcome: str = "") -> None:
    """Every finding for people, with its source lines, and at the end how many errors there are, and their outcome."""
    stream = sys.stderr
    paint = painter(stream)
    ordered = in_order(diagnostics)
    for diagnostic in ordered:
        print(*human(diagnostic, line, paint), "", sep="\n", file=stream)
    errors = sum(diagnostic.severity is Severity.ERROR for diagnostic in ordered)
    if errors:
        files = {d.primary.span.file for d in ordered if d.primary and d.severity is Severity.ERROR}
        where = f" in {count(len(files), 'file')}" if files else ""
        said = any(diagnostic.code == "E501" for diagnostic in ordered)
        print(f"{count(errors, 'error')}{where}{'' if said or not outcome else f'; {outcome}'}", file=stream)


if TYPE_CHECKING:
    from tqdm import tqdm

    from compiler.build.publish import Change  # which loads the schema, and a build with nothing to do does not

Format = Literal["json", "github", "sarif"]
FORMATS: tuple[Format, ...] = get_args(Format)


def print_for_machines(diagnostics: Sequence[Diagnostic], form: Format, prefix: str, result: dict[str, object]) -> None:
    """Every finding in a format for programs; `result`: what else they want to know; `prefix`: the way to root."""
    ordered = in_order(diagnostics)
    match form:
        case "json":
            print(dumps({"diagnostics": as_json(ordered), **result}))
        case "github":
            print(*as_github(ordered, prefix), sep="\n", end="\n" if ordered else "")
        case "sarif":
            print(dumps(as_sarif(ordered, prefix)))


def print_differences(changes: "Iterable[Change]", number: int, *, diff: bool) -> None:
    """What in generated/ is not what it should be; with `diff`, line by line."""
    for change in changes if diff else ():
        before, after = _text(change.old), _text(change.new)
        names = (f"{change.path} (on disk)", f"{change.path} (compiled)")
        sys.stdout.writelines(difflib.unified_diff(before, after, *names))
    if number:
        differ = f"{count(number, 'file')} differ{'s' if number == 1 else ''}"
        print(f"{differ}; run `llm-serve compile` and commit the result", file=sys.stderr)
    elif diff:
        print("generated/ is up to date")


class Progress:
    """A bar for a build that takes more than a second, where somebody looks."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bar: tqdm[NoReturn] | None = None

    def __call__(self, done: int, of: int) -> None:
        """`done` of so many models."""
        if self._bar is None and (time.monotonic() - self._start < 1 or not sys.stderr.isatty()):
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=of, initial=done, unit=" models", leave=False, file=sys.stderr)
        self._bar.update(done - self._bar.n)
        if done == of:
            self._bar.close()
            self._bar = None


def print_code(code: str, about: Code) -> None:
    """What a code means."""
    kind = "error" if code.startswith("E") else "warning"
    print(f"{kind}[{code}]: {about.title}\n\n{textwrap.fill(about.meaning, 100)}")
    if about.example:
        print("\nexample:\n" + textwrap.indent(about.example.rstrip(), "  "))


def print_table(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Columns of text, each as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        cells = (printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"{indent}{'  '.join(cells)}".rstrip())


def print_lines(lines: Iterable[str], *, flush: bool = False) -> None:
    """Text that is ready. `flush`: to be seen at once, where the program goes on."""
    for line in lines:
        print(line)
    if flush:
        sys.stdout.flush()


def print_value(value: object) -> None:
    """JSON for machines."""
    print(dumps(value))


def print_failure(message: str) -> None:
    """A failure that has no place in a config file."""
    print(f"llm-serve: {message}", file=sys.stderr)


def _text(data: bytes | None) -> list[str]:
    return [] if data is None else data.decode("utf-8", "replace").splitlines(keepends=True)
