"""Canonical YAML: one document, one way to write it.

Plain scalars only where every YAML reader (1.1 and 1.2) sees the same string; everything else is double-quoted
with JSON's escapes. Written by hand because no library emits this subset, and because it is a hundred times
faster than ruamel.yaml.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from compiler.check.validate import SHARED
from compiler.kept import once_in
from compiler.source.tree import in_order
from runtime.schema import Schema

_JSON = json.JSONEncoder(ensure_ascii=False)
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+-]*(:[A-Za-z0-9_./+-]+)*")
_RESERVED = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_PRINTABLE_EXCEPTIONS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|[\ud800-\udfff]")


def emit(document: dict[str, Any], header: str = "") -> bytes:
    """`document` as UTF-8 YAML under `header`, whose lines become comments.

    Sections of specs may stand in it: they are their fields, less those that are None, and free mappings in them are
    sorted.
    """
    lines: list[str] = []
    _mapping(document, "", lines)
    return (comment(header) + "\n".join([*lines, *([] if document else ["{}"]), ""])).encode()


def comment(text: str) -> str:
    """The lines of a text as comments."""
    return "".join(f"{f'# {line}'.rstrip()}\n" for line in text.splitlines())


def emit_item(mapping: dict[str, Any]) -> bytes:
    """A mapping as the item of a list that stands at a document's own keys."""
    lines: list[str] = []
    _sequence([mapping], "  ", lines)
    return "\n".join([*lines, ""]).encode()


def _mapping(mapping: dict[str, Any], indent: str, lines: list[str]) -> None:
    for key, value in mapping.items():
        text = _TEXTS.get(type(value))
        if text:
            lines.append(f"{indent}{_string(key)}: {text(value)}")
        else:
            _item(f"{indent}{scalar(key)}:", value, indent, lines)


@once_in(SHARED)
def _section(section: Schema, indent: str) -> list[str]:
    lines: list[str] = []
    keys = _keys(type(section), indent)
    for name, value in vars(section).items():
        text = _TEXTS.get(type(value))
        if text and value is not None:
            lines.append(f"{keys[name]} {text(value)}")
        elif value is not None:
            _item(keys[name], in_order(value), indent, lines)
    return lines


@lru_cache
def _keys(schema: type[Schema], indent: str) -> dict[str, str]:
    """How a line begins for each field."""
    return {name: f"{indent}{scalar(name)}:" for name in schema.model_fields}


def _sequence(items: list[Any], indent: str, lines: list[str]) -> None:
    for item in items:
        inner: list[str] = []
        if isinstance(item, Schema):
            inner += _section(item, f"{indent}  ")
        elif isinstance(item, dict):
            _mapping(item, f"{indent}  ", inner)
        if inner:
            lines.append(f"{indent}- {inner[0].lstrip(' ')}")
            lines += inner[1:]
        else:
            _item(f"{indent}-", item, indent, lines)


def _item(prefix: str, value: Any, indent: str, lines: list[str]) -> None:
    inner: list[str] = []
    if isinstance(value, Schema):
        inner = _section(value, f"{indent}  ")
    elif isinstance(value, dict):
        _mapping(value, f"{indent}  ", inner)
    elif isinstance(value, list):
        _sequence(value, f"{indent}  ", inner)
    lines.append(prefix if inner else f"{prefix} {scalar(value)}")
    lines += inner


def scalar(value: Any) -> str:
    """One value on one line."""
    if type(value) in _TEXTS:
        return _TEXTS[type(value)](value)
    if value in ({}, []) or isinstance(value, Schema):
        return "[]" if isinstance(value, list) else "{}"
    raise TypeError(f"cannot emit {type(value).__name__}")


def _float(value: float) -> str:
    text = repr(value)
    if "e" in text and "." not in text:  # 1e-07: YAML 1.1 wants the point
        mantissa, exponent = text.split("e")
        return f"{mantissa}.0e{exponent}"
    return text


@lru_cache(maxsize=4096)  # keys and words come again in every document
def _string(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.casefold() not in _RESERVED:
        return text
    quoted = _JSON.encode(text)
    return _PRINTABLE_EXCEPTIONS.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


_TEXTS: dict[type, Callable[[Any], str]] = {
    str: _string,
    float: _float,
    int: str,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
}
"""How values of each type are written."""
