"""Diagnostics: what is wrong, where, what else had a part in it, and what to do. Printing them is `report`'s."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Severity(StrEnum):
    """`error`: nothing is written. `warning`: it compiles."""

    ERROR = "error"
    WARNING = "warning"


CODES: dict[str, str] = {
    "E101": "file cannot be read",
    "E102": "file is too large or nested too deep",
    "E103": "file is not UTF-8 text",
    "E104": "YAML syntax",
    "E105": "duplicate key",
    "E106": "YAML feature that config files may not use",
    "E107": "number out of range",
    "E108": "top level is not a mapping",
    "E109": "file name",
    "E201": "layer does not exist",
    "E202": "layers extend each other in a circle",
    "E203": "layers cannot be put in order",
    "E204": "layer name is ambiguous",
    "E205": "`extends` is not a layer name or a list of them",
    "E206": "mapping and value cannot be merged",
    "E207": "final value is changed",
    "E208": "tag has nothing to act on",
    "E209": "template",
    "E210": "templates need each other in a circle",
    "E301": "unknown key",
    "E302": "missing key",
    "E303": "wrong type",
    "E304": "value not allowed",
    "E305": "old and new name of a field are both set",
    "E306": "argument that its library does not have",
    "E307": "prompt format",
    "E308": "environment variable is not a string",
    "E309": "secret in a config file",
    "E310": "waiver",
    "E401": "cluster selects no model",
    "E402": "two models of a cluster share an id",
    "E403": "model cannot be placed",
    "E404": "hardware profile does not exist",
    "E501": "generated file cannot be written",
    "W201": "override changes nothing",
    "W202": "value names another model",
    "W203": "batch does not fill before Ray Serve scales out",
    "W204": "model that scales to zero starts with replicas",
    "W205": "workers and GPUs do not fit the engine",
    "W206": "stopping sequence looks like a token id",
    "W207": "file name does not match the model's id",
    "W208": "remote code is trusted and not pinned",
    "W209": "resources that no hardware profile offers",
    "W210": "waiver that waives nothing",
    "W211": "value is ignored",
    "W301": "field has a new name",
    "W302": "field has no effect any more",
    "W401": "no cluster serves the model",
    "W402": "cluster serves no model",
    "W501": "file in generated/ that no compile wrote",
}
"""Every code and its title. E1: reading, E2: layering, E3: schema, E4: clusters, E5: output; W2: lints."""

WAIVABLE = frozenset({"E306", *(code for code in CODES if code.startswith("W2") and code != "W210")})
"""What a file may say is meant to be so."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a file. Lines and columns count from 1, in characters; `end` lies behind the last one."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Label:
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
