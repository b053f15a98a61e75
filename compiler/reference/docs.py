"""The reference docs: every field from the schema, every code from its table."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from compiler.check.arguments import table
from compiler.check.cluster import ClusterSpec
from compiler.check.fields import fields, marker, models_in, tag
from compiler.check.file_keys import FileKeys
from compiler.codes import CODES, WAIVABLE
from compiler.emit import scalar
from compiler.source.tags import TAGS
from runtime.application import ModelSpec
from runtime.schema import LibraryArguments, MergeBy, Schema, describe

NOTICE = "<!-- Generated from {source}: `pytest --snapshot-update` writes it. -->"

_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", type(None): "null", Any: "any"}


def files() -> dict[str, bytes]:
    """The pages: path -> content."""
    pages = {"docs/reference.md": fields_page(), "docs/codes.md": codes_page()}
    return {path: ("\n".join(lines) + "\n").encode() for path, lines in pages.items()}


def fields_page() -> list[str]:
    """Every field of every kind of file, and every tag."""
    lines = ["# Reference", "", NOTICE.format(source="the schemas"), ""]
    lines += [
        "How layers work is told in [configuration.md](configuration.md). A field without a default must be set by"
    ]
    lines += ["some layer. Keys that are not listed are errors.", ""]
    lines += ["## Tags", "", "| tag | goes with | what it says |", "|---|---|---|"]
    lines += [f"| `{each.name}` | {', '.join(each.kinds)} | {_cell(each.meaning)} |" for each in TAGS.values()]
    lines += ["", "## Model and profile files", "", *_table(FileKeys), ""]
    lines += _section(ModelSpec, "")
    lines += ["## Cluster files", "", *_table(ClusterSpec), ""]
    lines += _below(ClusterSpec, "")
    return lines[:-1]


def codes_page() -> list[str]:
    """Every code with its meaning."""
    lines = ["# Diagnostics", "", NOTICE.format(source="compiler/codes.py"), ""]
    lines += ["`llm-serve explain-code E301` prints these. A code that begins with E keeps everything from being"]
    lines += ["written, one with W is a warning. Those marked with * can be waived: `waive: {W203: the reason}`.", ""]
    for code, each in CODES.items():
        lines += [f"## {code}{'*' if code in WAIVABLE else ''}: {each.title}", "", each.meaning, ""]
        if each.example:
            lines += ["```yaml", *each.example.rstrip().splitlines(), "```", ""]
    return lines[:-1]


def _section(schema: type[Schema], path: str) -> list[str]:
    heading = f"### `{path}`" if path else "### The whole file"
    if choice := tag(schema):
        heading += f" with `type: {choice}`"
    lines = [heading, "", *_about(schema), *_table(schema), ""]
    return lines + _below(schema, path)


def _about(schema: type[Schema]) -> list[str]:
    about = " ".join((schema.__doc__ or "").split())
    if schema.model_config.get("extra") == "allow" and schema.library:
        library = table(schema.library)
        about += f" Checked against {library.callable} of {library.library} {library.version}."
    return [about, ""] if about else []


def _below(schema: type[Schema], path: str) -> list[str]:
    inner = ((name, model) for name, field in fields(schema).items() for model in models_in(field.annotation))
    return [line for name, model in inner for line in _section(model, f"{path}.{name}".lstrip("."))]


def _table(schema: type[Schema]) -> Iterator[str]:
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    describe(schema)
    for name, field in fields(schema).items():
        meaning = " ".join((field.description or "").split())
        if mark := marker(field, LibraryArguments):
            library = table(mark.table)
            meaning += f" Checked against {library.library} {library.version}."
        if marker(field, MergeBy):
            meaning += " Merges by item."
        yield f"| `{name}` | {_cell(words(field.annotation, field.metadata))} | {_default(field)} | {_cell(meaning)} |"


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return ""
    if isinstance(default, Schema):
        return "its fields' own"
    return f"`{scalar(default)}`"


def words(annotation: Any, metadata: Any = ()) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(each, metadata) for each in arguments))
    if origin is list:
        least = next((f" (at least {each.min_length})" for each in metadata if isinstance(each, MinLen)), "")
        return f"list of {words(arguments[0])}{least}"
    if origin is dict:
        return f"mapping of {words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return f"`{tag(annotation)}`" if tag(annotation) else "mapping"
    return _WORDS.get(annotation, "any") + _limits(metadata)


def _limits(metadata: Any) -> str:
    """The bounds of a number."""
    bounds = []
    for each in metadata:
        match each:
            case Ge(ge=bound):
                bounds.append(f"at least {bound:g}")
            case Gt(gt=bound):
                bounds.append(f"above {bound:g}")
            case Le(le=bound):
                bounds.append(f"at most {bound:g}")
            case Lt(lt=bound):
                bounds.append(f"below {bound:g}")
    return f", {', '.join(bounds)}" if bounds else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
