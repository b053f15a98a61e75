"""From a merged tree to a valid model: pydantic checks, and every finding gets its place back."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, did_you_mean
from compiler.source.tree import Mapping, Node, find, inline, kind, plain
from runtime.schema import Schema

S = TypeVar("S", bound=Schema)
Path = tuple[str | int, ...]

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "list_type": "a list",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "string_type": "a string",
}
"""What pydantic's type errors expected, in words of YAML."""


def validate(tree: Mapping, schema: type[S]) -> S:
    """`tree` as a `schema`. Raises ConfigErrors with every finding at the layer that is to blame."""
    try:
        return schema.model_validate(plain(tree))
    except ValidationError as errors:
        raise ConfigErrors(_diagnostics(errors, tree, schema)) from errors


def _diagnostics(errors: ValidationError, tree: Mapping, schema: type[Schema]) -> Iterator[Diagnostic]:
    """One diagnostic a place: the members of a union that did not match are told together."""
    by_place: dict[Path, list[ErrorDetails]] = {}
    for error in errors.errors(include_url=False):
        by_place.setdefault(_tree_path(tree, error), []).append(error)
    for path, group in by_place.items():
        node, span, _ = find(tree, path)
        error = next((each for each in group if each["type"] not in _EXPECTED), group[0])
        if error["type"] in _EXPECTED:  # otherwise the type is one of those allowed, and the value is wrong
            expected = " or ".join(dict.fromkeys(_EXPECTED[each["type"]] for each in group))
            message = f"`{_dotted(path)}` must be {expected}, not {kind(node)}"
            yield Diagnostic("E303", message, _at(node), _losers(node))
        elif error["type"] == "extra_forbidden":
            yield _unknown_key(path, span, schema, error)
        elif error["type"] in ("missing", "union_tag_not_found"):
            top = tree.span.file
            yield _missing_key(path, span if span.file == top else Span(top, 1, 1, 1, 1), schema, error)
        else:
            yield _bad_value(path, node, schema, error, tree.span.file)


def _tree_path(tree: Mapping, error: ErrorDetails) -> Path:
    """pydantic's location without the names of union members, which are in no file."""
    path: Path = ()
    for step in error["loc"]:
        _, _, reached = find(tree, (*path, step))
        if len(reached) > len(path):
            path = reached
    return path


def _unknown_key(path: Path, span: Span, schema: type[Schema], error: ErrorDetails) -> Diagnostic:
    key, parent = str(path[-1]), _dotted(path[:-1])
    where = f" in `{parent}`" if parent else ""
    return Diagnostic("E301", f"unknown key `{key}`{where}", Label(span), help=_right_key(path, schema, error["loc"]))


def _right_key(path: Path, schema: type[Schema], loc: tuple[str | int, ...]) -> str | None:
    """What the user probably meant: a key that exists elsewhere says more than one that looks alike."""
    key, here = str(path[-1]), _dotted(path)
    places = _places(schema).get(key, [])
    if here in places:
        members = [str(_tag(model)) for model in _models_at(schema, path[:-1]) if key in _fields(model)]
        return f"`{key}` is a setting of {', '.join(members)}"
    if places:
        return f"`{key}` belongs to {' or '.join(f'`{place}`' for place in places)}"
    known = [name for model in _models_at(schema, loc[:-1]) for name in _fields(model)]
    if guess := did_you_mean(key, known):
        return f"did you mean `{guess}`?"
    return f"known here: {', '.join(dict.fromkeys(known))}" if known else None


def _missing_key(path: Path, span: Span, schema: type[Schema], error: ErrorDetails) -> Diagnostic:
    hint: str | None
    if error["type"] == "union_tag_not_found":
        missing, hint = "type", "one of " + ", ".join(str(_tag(model)) for model in _models_at(schema, error["loc"]))
    else:
        missing, hint = str(error["loc"][-1]), _description(schema, error["loc"])
    return Diagnostic("E302", f"`{_dotted((*path, missing))}` is missing", Label(span), help=hint)


def _bad_value(path: Path, node: Node, schema: type[Schema], error: ErrorDetails, top: str) -> Diagnostic:
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        names = str(context["expected_tags"]).replace("'", "")
        return _one_of((*path, "type"), _child(node, "type") or node, names.split(", "))
    if error["type"] == "literal_error" and "'" in str(context["expected"]):
        names = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        return _one_of(path, node, names.split(", "))
    message = _in_our_words(error)
    text = f"`{_dotted(path)}`: {message}" if path else message
    entries = node.entries.items() if isinstance(node, Mapping) else ()
    blamed = [entry for key, entry in entries if re.search(rf"\b{re.escape(key)}\b", message)]
    if not blamed:
        hint = _description(schema, error["loc"]) if error["type"] == "string_pattern_mismatch" else None
        return Diagnostic("E304", text, _at(node), _losers(node), hint)
    blamed.sort(key=lambda entry: entry.value.span.file == top)  # the model's own word came last
    places = [_at(entry.value, f"`{entry.key}`") for entry in blamed]
    return Diagnostic("E304", text, places[-1], tuple(places[:-1]))


def _in_our_words(error: ErrorDetails) -> str:
    """pydantic's message, about YAML and in the style of ours."""
    if error["type"] == "too_short":
        return f"must have at least {error['ctx']['min_length']} item"
    if error["type"] == "string_pattern_mismatch":
        return f"`{inline(error['input'])}` has characters, or a form, that is not allowed here"
    message = error["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be").replace("String should", "must")


def _one_of(path: Path, node: Node, names: list[str]) -> Diagnostic:
    guess = did_you_mean(str(plain(node)), names)
    return Diagnostic(
        "E304",
        f"`{_dotted(path)}` must be one of {', '.join(names)}; not `{inline(plain(node))}`",
        _at(node),
        _losers(node),
        f"did you mean `{guess}`?" if guess else None,
    )


def _child(node: Node, key: str) -> Node | None:
    return node.get(key) if isinstance(node, Mapping) else None


def _at(node: Node, text: str = "") -> Label:
    return Label(node.span, text)


def _losers(node: Node) -> tuple[Label, ...]:
    return tuple(Label(lower.span, "overrides this") for lower in node.overridden[:1])


def _dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _fields(model: type[Schema]) -> dict[str, Any]:
    """Fields by the name that YAML uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_at(schema: type[Schema], loc: tuple[str | int, ...]) -> list[type[Schema]]:
    """The models that pydantic's location leads to: one, or the members of a union."""
    models = [schema]
    for step in loc:
        chosen = [model for model in models if _tag(model) == step]
        fields = [_fields(model)[str(step)] for model in models if str(step) in _fields(model)]
        models = chosen or [inner for field in fields for inner in _models_in(field.annotation)]
    return models


def _tag(model: type[Schema]) -> Any:
    field = model.model_fields.get("type")
    return field.default if field else None


def _models_in(annotation: Any) -> list[type[Schema]]:
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _description(schema: type[Schema], loc: tuple[str | int, ...]) -> str | None:
    """What the schema says of the field at pydantic's location."""
    fields = [_fields(model).get(str(loc[-1])) for model in _models_at(schema, loc[:-1])]
    return next((" ".join(field.description.split()) for field in fields if field and field.description), None)


@cache
def _places(schema: type[Schema]) -> dict[str, list[str]]:
    """Every key of the whole schema, and the paths at which it stands."""
    places: dict[str, set[str]] = {}
    for path in _paths(schema):
        places.setdefault(str(path[-1]), set()).add(_dotted(path))
    return {key: sorted(paths) for key, paths in places.items()}


def _paths(schema: type[Schema], above: Path = ()) -> Iterator[Path]:
    for name, field in _fields(schema).items():
        yield (*above, name)
        for model in _models_in(field.annotation):
            yield from _paths(model, (*above, name))
