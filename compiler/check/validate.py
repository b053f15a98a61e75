"""From a merged tree to a valid model: pydantic checks, and every finding gets its place back."""

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, did_you_mean
from compiler.source.tree import Mapping, Node, find, kind, plain
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
    by_place: dict[tuple[Path, bool], list[ErrorDetails]] = {}
    for error in errors.errors(include_url=False):
        wrong_type = error["type"] in _EXPECTED
        by_place.setdefault((_tree_path(tree, error), wrong_type), []).append(error)
    for (path, wrong_type), group in by_place.items():
        node, span, _ = find(tree, path)
        error = group[0]
        if wrong_type:
            expected = " or ".join(dict.fromkeys(_EXPECTED[each["type"]] for each in group))
            yield Diagnostic(
                "E303", f"`{_dotted(path)}` must be {expected}, not {kind(node)}", _at(node), _losers(node)
            )
        elif error["type"] == "extra_forbidden":
            yield _unknown_key(path, span, schema, error)
        elif error["type"] in ("missing", "union_tag_not_found"):
            yield _missing_key(path, span, schema, error)
        else:
            yield _bad_value(path, node, schema, error)


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
    places = sorted({_dotted(place) for place in _places(schema, key)})
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


def _bad_value(path: Path, node: Node, schema: type[Schema], error: ErrorDetails) -> Diagnostic:
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        names = str(context["expected_tags"]).replace("'", "")
        return _one_of((*path, "type"), _child(node, "type") or node, str(context["tag"]), names.split(", "))
    if error["type"] == "literal_error" and "'" in str(context["expected"]):
        names = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        return _one_of(path, node, str(error["input"]), names.split(", "))
    message = _in_our_words(error)
    text = f"`{_dotted(path)}`: {message}" if path else message
    blamed = [entry for key, entry in node.entries.items() if key in message] if isinstance(node, Mapping) else []
    if not blamed:
        hint = _description(schema, error["loc"]) if error["type"] == "string_pattern_mismatch" else None
        return Diagnostic("E304", text, _at(node), _losers(node), hint)
    places = [_at(entry.value, f"`{entry.key}`") for entry in blamed]
    return Diagnostic("E304", text, places[-1], tuple(places[:-1]))


def _in_our_words(error: ErrorDetails) -> str:
    """pydantic's message, about YAML and in the style of ours."""
    if error["type"] == "too_short":
        return f"must have at least {error['ctx']['min_length']} item"
    message = error["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be").replace("String should", "must")


def _one_of(path: Path, node: Node, value: str, names: list[str]) -> Diagnostic:
    guess = did_you_mean(value, names)
    return Diagnostic(
        "E304",
        f"`{_dotted(path)}` must be one of {', '.join(names)}; not `{value}`",
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
    return next((field.description for field in fields if field), None)


def _places(schema: type[Schema], key: str, above: Path = ()) -> Iterator[Path]:
    """Every path in the whole schema whose last step is `key`."""
    for name, field in _fields(schema).items():
        if name == key:
            yield (*above, name)
        for model in _models_in(field.annotation):
            yield from _places(model, key, (*above, name))
