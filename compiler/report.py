"""The only place that prints."""

import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TextIO

from compiler.build.publish import Change
from compiler.diagnostics import Diagnostic, Label, Severity, in_order
from compiler.source.secrets import masked

MAX_SHOWN = 110
"""Characters of a source line that are shown; longer ones are cut around the place."""

SourceLine = Callable[[str, int], str | None]
_RED, _YELLOW, _BLUE, _BOLD, _RESET = "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"


def print_diagnostics(diagnostics: Sequence[Diagnostic], line: SourceLine, stream: TextIO | None = None) -> None:
    """Every finding for people, with its source lines, and their number at the end."""
    stream = stream or sys.stderr
    paint = _painter(stream)
    ordered = in_order(diagnostics)
    for diagnostic in ordered:
        print(*_human(diagnostic, line, paint), "", sep="\n", file=stream)
    errors = sum(diagnostic.severity is Severity.ERROR for diagnostic in ordered)
    if errors:
        files = {d.primary.span.file for d in ordered if d.primary and d.severity is Severity.ERROR}
        where = f" in {_count(len(files), 'file')}" if files else ""
        written = "" if any(diagnostic.code == "E501" for diagnostic in ordered) else "; nothing was written"
        print(f"{_count(errors, 'error')}{where}{written}", file=stream)


def print_json(diagnostics: Sequence[Diagnostic], result: dict[str, object]) -> None:
    """Everything for machines, as one JSON object on standard output."""
    found = [{"severity": diagnostic.severity, **asdict(diagnostic)} for diagnostic in in_order(diagnostics)]
    print(json.dumps({"diagnostics": found, **result}, indent=2))


def print_compiled(models: int, clusters: int, seconds: float, changes: Sequence[Change]) -> None:
    """What a compile has done."""
    written = [change for change in changes if change.new is not None]
    removed = [change for change in changes if change.new is None]
    for change in changes:
        print(f"  {'removed' if change.new is None else 'wrote'} {change.path}")
    did = ", ".join(
        part
        for part, needed in (
            (f"wrote {_count(len(written), 'file')}", written),
            (f"removed {_count(len(removed), 'file')}", removed),
            ("generated/ was up to date", not changes),
        )
        if needed
    )
    print(f"compiled {_count(models, 'model')} into {_count(clusters, 'cluster')} in {seconds:.2f} s: {did}")


def print_differences(changes: Sequence[Change], foreign: Sequence[Diagnostic]) -> None:
    """A unified diff from what lies in generated/ to what should."""
    for change in changes:
        before, after = _text(change.old), _text(change.new)
        names = (f"{change.path} (on disk)", f"{change.path} (compiled)")
        sys.stdout.writelines(difflib.unified_diff(before, after, *names))
    if changes:
        differ = f"{_count(len(changes), 'file')} differ{'s' if len(changes) == 1 else ''}"
        print(f"{differ}; run `llm-serve compile` and commit the result", file=sys.stderr)
    elif not foreign:
        print("generated/ is up to date")


def print_failure(message: str) -> None:
    """A failure that has no place in a config file."""
    print(f"llm-serve: {message}", file=sys.stderr)


def _text(data: bytes | None) -> list[str]:
    return [] if data is None else data.decode("utf-8", "replace").splitlines(keepends=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _painter(stream: TextIO) -> Callable[[str, str], str]:
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return lambda colour, text: f"{colour}{text}{_RESET}" if coloured else text


def _human(diagnostic: Diagnostic, line: SourceLine, paint: Callable[[str, str], str]) -> list[str]:
    colour = _RED if diagnostic.severity is Severity.ERROR else _YELLOW
    title = paint(colour, f"{diagnostic.severity}[{diagnostic.code}]")
    out = [f"{title}: {paint(_BOLD, _printable(diagnostic.message))}"]
    advice = f"help: {_printable(diagnostic.help)}" if diagnostic.help else None
    if diagnostic.primary is None:
        return [*out, f"   = {advice}"] if advice else out
    labels = [diagnostic.primary, *diagnostic.secondary]
    width = max(len(str(label.span.line)) for label in labels)
    bar = f"{' ' * width} {paint(_BLUE, '|')}"
    for label in labels:
        arrow, mark, shade = ("-->", "^", colour) if label is diagnostic.primary else (":::", "-", _BLUE)
        out.append(f"{' ' * width}{paint(_BLUE, arrow)} {_printable(str(label.span))}")
        text = line(label.span.file, label.span.line)
        if text is None or not text.strip():
            continue
        shown, offset, length = _excerpt(text, label)
        pointer = f"{' ' * offset}{paint(shade, f'{mark * length} {_printable(label.text)}'.rstrip())}"
        number = paint(_BLUE, f"{label.span.line:>{width}} |")
        out += [bar, f"{number} {shown}", f"{bar} {pointer}"]
    notes = [note for note in (advice, _compiling(diagnostic.compiling)) if note]
    return [*out, *(f"{' ' * width} {paint(_BLUE, '=')} {note}" for note in notes)]


def _compiling(files: Sequence[str]) -> str | None:
    if not files:
        return None
    others = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"note: found while compiling {_printable(files[0])}{others}"


def _excerpt(text: str, label: Label) -> tuple[str, int, int]:
    """The part of a line that shows the label, the column of its mark there, and the mark's length."""
    span = label.span
    printable = _printable(text.replace("\t", " "))
    start = span.column - 1
    end = span.end_column - 1 if span.end_line == span.line else len(printable)
    cut = max(0, start - MAX_SHOWN // 2) if len(printable) > MAX_SHOWN else 0
    shown = printable[cut : cut + MAX_SHOWN]
    length = max(1, min(end, cut + len(shown)) - start)
    return shown, start - cut, length


def _printable(text: str) -> str:
    """What a config file says must not steer the terminal, nor get its secrets into a log.

    One character stays one, for the carets.
    """
    return "".join(char if char.isprintable() else "\N{MIDDLE DOT}" for char in masked(text))
