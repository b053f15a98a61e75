"""Diagnostics for people: the source line, a mark under the place, the other places, what to do."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TextIO

from compiler.diagnostics import Diagnostic, Label, Severity
from compiler.source.secrets import masked

MAX_SHOWN = 110
"""Characters of a source line that are shown; longer ones are cut around the place."""

SourceLine = Callable[[str, int], str | None]
Paint = Callable[[str, str], str]
_RED, _YELLOW, _BLUE, _BOLD, _RESET = "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"


def painter(stream: TextIO) -> Paint:
    """Colours for a terminal whose user has not declined them (no-color.org); none for any other stream."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return lambda colour, text: f"{colour}{text}{_RESET}" if coloured else text


def human(diagnostic: Diagnostic, line: SourceLine, paint: Paint) -> list[str]:
    """One diagnostic as lines."""
    colour = _RED if diagnostic.severity is Severity.ERROR else _YELLOW
    title = paint(colour, f"{diagnostic.severity}[{diagnostic.code}]")
    out = [f"{title}: {paint(_BOLD, printable(diagnostic.message))}"]
    advice = f"help: {printable(diagnostic.help)}" if diagnostic.help else None
    if diagnostic.primary is None:
        return [*out, f"   = {advice}"] if advice else out
    labels = [diagnostic.primary, *diagnostic.secondary]
    width = max(len(str(label.span.line)) for label in labels)
    bar = f"{' ' * width} {paint(_BLUE, '|')}"
    for label in labels:
        arrow, mark, shade = ("-->", "^", colour) if label is diagnostic.primary else (":::", "-", _BLUE)
        out.append(f"{' ' * width}{paint(_BLUE, arrow)} {printable(str(label.span))}")
        text = line(label.span.file, label.span.line)
        if text is None or not text.strip():
            continue
        shown, offset, length = _excerpt(text, label)
        pointer = f"{' ' * offset}{paint(shade, f'{mark * length} {printable(label.text)}'.rstrip())}"
        number = paint(_BLUE, f"{label.span.line:>{width}} |")
        out += [bar, f"{number} {shown}", f"{bar} {pointer}"]
    notes = [note for note in (advice, _compiling(diagnostic.compiling)) if note]
    return [*out, *(f"{' ' * width} {paint(_BLUE, '=')} {note}" for note in notes)]


def _compiling(files: Sequence[str]) -> str | None:
    if not files:
        return None
    others = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"note: found while compiling {printable(files[0])}{others}"


def _excerpt(text: str, label: Label) -> tuple[str, int, int]:
    """The part of a line that shows the label, the column of its mark there, and the mark's length."""
    span = label.span
    start = span.column - 1
    end = span.end_column - 1 if span.end_line == span.line else len(text)
    cut = max(0, start - MAX_SHOWN // 2) if len(text) > MAX_SHOWN else 0
    # masked before it is cut, because the half of a token does not look like one
    shown = _visible(_masked_line(text)[cut : cut + MAX_SHOWN].replace("\t", " "))
    length = max(1, min(end, cut + len(shown)) - start)
    return shown, start - cut, length


def printable(text: str) -> str:
    """`text` for a terminal. What a config file says must not steer the terminal, nor get its secrets into a log.

    One character stays one, for the carets.
    """
    return _visible(masked(text))


_masked_line = lru_cache(maxsize=8)(masked)
"""Many findings may stand on one long line."""


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{MIDDLE DOT}" for char in text)
