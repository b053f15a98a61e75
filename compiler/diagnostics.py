"""Diagnostics: what is wrong, where, what else had a part in it, and what to do. Printing them is `report`'s."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

MAX_FINDINGS = 100
"""Of one file and one kind of check: nobody reads more, and a hint can cost milliseconds."""


class Severity(StrEnum):
    """`error`: nothing is written. `warning`: it compiles."""

    ERROR = "error"
    WARNING = "warning"


class Span(NamedTuple):
    """A piece of a file. Lines and columns count from 1, in characters; `end` lies behind the last one."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Label(NamedTuple):
    """A place and what is to be said about it."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Fix:
    """What `lint --fix` does to the file of a finding: takes the entry at `remove` out, and puts others in."""

    remove: tuple[str, ...]
    put: tuple[tuple[tuple[str, ...], str | int | float | bool | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `primary` is None only where no file has the blame (an unwritable folder, say)."""

    code: str
    message: str
    primary: Label | None
    secondary: tuple[Label, ...] = ()
    help: str | None = None
    compiling: tuple[str, ...] = field(default=(), compare=False)
    """The model files that it was found through, where it lies in a layer below them."""
    fix: Fix | None = field(default=None, compare=False)
    """What would mend it, where that is certain."""

    @property
    def severity(self) -> Severity:
        """Follows from the code's letter."""
        return Severity.ERROR if self.code.startswith("E") else Severity.WARNING


class ConfigErrors(Exception):
    """The user's config is wrong. Carries every diagnostic found, warnings too."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        super().__init__("; ".join(diagnostic.message for diagnostic in self.diagnostics))


def at_most(found: Iterable[Diagnostic], file: str) -> list[Diagnostic]:
    """The first findings in a file, each made only if it is among them; one that says so stands for the rest."""
    first = list(islice(found, MAX_FINDINGS + 1))
    if len(first) <= MAX_FINDINGS:
        return first
    problem = f"more than {MAX_FINDINGS} findings in one file; the others are not shown"
    return [*first[:MAX_FINDINGS], Diagnostic("E110", problem, Label(Span(file, 1, 1, 1, 1)))]


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether anything found forbids writing."""
    return any(diagnostic.severity is Severity.ERROR for diagnostic in diagnostics)


def in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """By file and line. A base's mistake, which shows in every model on it, comes once and names them all."""

    def position(diagnostic: Diagnostic) -> tuple[str, int, int, str]:
        if diagnostic.primary is None:
            return ("", 0, 0, diagnostic.code)
        span = diagnostic.primary.span
        return (span.file, span.line, span.column, diagnostic.code)

    compiling: dict[Diagnostic, list[str]] = {}
    for diagnostic in diagnostics:
        compiling.setdefault(diagnostic, []).extend(diagnostic.compiling)
    return sorted((replace(each, compiling=tuple(files)) for each, files in compiling.items()), key=position)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None
