"""Diagnostics for machines: JSON, GitHub's annotations, SARIF."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from compiler.codes import CODES
from compiler.diagnostics import Diagnostic, Label, Severity, Span
from compiler.source.secrets import masked


def as_json(diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """Each diagnostic with all its places."""
    return [{"severity": each.severity, **_clean(asdict(each))} for each in diagnostics]


def _clean(value: Any) -> Any:
    """Without secrets that a message may quote."""
    match value:
        case str():
            return masked(value)
        case dict():
            return {key: _clean(item) for key, item in value.items()}
        case Span() | Label():
            return _clean(value._asdict())
        case list() | tuple():
            return [_clean(item) for item in value]
    return value


def as_github(diagnostics: Sequence[Diagnostic], prefix: str) -> Iterator[str]:
    """Workflow commands, which GitHub shows in the diff of a pull request. Source: its docs, "Workflow commands"."""
    for each in diagnostics:
        place = ""
        if each.primary:
            span = each.primary.span
            last = span.end_column - 1 if span.end_line == span.line else span.column
            place = f"file={_property(prefix + span.file)},line={span.line},col={span.column},"
            place += f"endLine={span.line},endColumn={max(span.column, last)},"
        text = "\n".join(part for part in (each.message, each.help and f"help: {each.help}") if part)
        yield f"::{each.severity} {place}title={each.code}::{_data(masked(text))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_sarif(diagnostics: Sequence[Diagnostic], prefix: str) -> dict[str, Any]:
    """One run of the Static Analysis Results Interchange Format. Source: OASIS SARIF 2.1.0."""
    used = sorted({each.code for each in diagnostics})
    rules = [
        {
            "id": code,
            "shortDescription": {"text": CODES[code].title},
            "fullDescription": {"text": CODES[code].meaning},
            "defaultConfiguration": {"level": Severity.ERROR if code.startswith("E") else Severity.WARNING},
        }
        for code in used
    ]
    from importlib.metadata import version  # takes as long as a compile with nothing to do

    driver = {"name": "llm-serve", "version": version("llm-serve"), "rules": rules}
    return {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "results": [_result(each, used.index(each.code), prefix) for each in diagnostics],
            }
        ],
    }


def _result(diagnostic: Diagnostic, rule: int, prefix: str) -> dict[str, Any]:
    text = diagnostic.message + (f" (help: {diagnostic.help})" if diagnostic.help else "")
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": rule,
        "level": diagnostic.severity,
        "message": {"text": masked(text)},
    }
    if diagnostic.primary:
        result["locations"] = [_location(diagnostic.primary, prefix)]
    if diagnostic.secondary:
        result["relatedLocations"] = [_location(label, prefix) for label in diagnostic.secondary]
    return result


def _location(label: Label, prefix: str) -> dict[str, Any]:
    span = label.span
    region = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": max(span.end_column, span.column) if span.end_line == span.line else span.end_column,
    }
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": prefix + span.file}, "region": region},
    }
    if label.text:
        location["message"] = {"text": masked(label.text)}
    return location


def dumps(value: object) -> str:
    """JSON, as all of it is printed."""
    return json.dumps(value, indent=2, ensure_ascii=False)
