"""What pydantic found, with its place in the tree, in words about YAML."""

import re
from collections.abc import Iterable, Iterator

from pydantic_core import ErrorDetails

from compiler.check.arguments import table
from compiler.check.fields import (
    DISCRIMINATOR,
    Path,
    choices,
    description,
    dotted,
    fields,
    fields_at,
    models_at,
    places,
    tag,
)
from compiler.diagnostics import Diagnostic, Label, Span, did_you_mean
from compiler.source.tree import Mapping, Node, Scalar, definitions, find, inline, kind, plain
from runtime.engines import engine_named
from runtime.schema import Schema

MISSING = frozenset({"missing", "union_tag_not_found"})

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

_READS = {"an integer": r"-?\d+", "a number": r"-?\d+(\.\d+)?", "true or false": r"true|false"}
"""Texts that would be what was expected, without their quotes."""

_CODES = {"environment": "E308", "prompt_format": "E307"}
"""Codes of the schema's own errors, by their type; E304 for all others."""

_MEANT = {
    "deployment_config.ray_actor_options.num_gpus": "scaling_config.num_gpus_per_worker",
    "model_config.generation.generate_kwargs.max_length": "model_config.generation.generate_kwargs.max_new_tokens",
    "model_config.generation.generate_kwargs.max_tokens": "model_config.generation.generate_kwargs.max_new_tokens",
    "model_config.generation.generate_kwargs.stop": "model_config.generation.stopping_sequences",
    "scaling_config.num_cpus": "scaling_config.num_cpus_per_worker",
    "scaling_config.num_gpus": "scaling_config.num_gpus_per_worker",
    "scaling_config.resources": "scaling_config.resources_per_worker",
}
"""Keys that other tools have, and what they are here."""


def findings(errors: Iterable[ErrorDetails], tree: Mapping, schema: type[Schema]) -> Iterator[Diagnostic]:
    """One diagnostic a place: the members of a union that did not match are told together."""
    by_place: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        by_place.setdefault(tree_path(tree, error), []).append(error)
    for path, group in by_place.items():
        node, span, _ = find(tree, path)
        error = next((each for each in group if each["type"] not in _EXPECTED), group[0])
        if error["type"] in _EXPECTED:  # otherwise the type is one of those allowed, and the value is wrong
            expected = " or ".join(dict.fromkeys(_EXPECTED[each["type"]] for each in group))
            message = f"`{dotted(path)}` must be {expected}, not {kind(node)}"
            yield Diagnostic("E303", message, _at(node), _losers(node), _quotes(node, expected))
        elif error["type"] == "extra_forbidden":
            yield _unknown_key(path, span, tree, schema, error)
        elif error["type"] in MISSING:
            top = tree.span.file
            yield _missing_key(path, span if span.file == top else Span(top, 1, 1, 1, 1), schema, error)
        else:
            yield _bad_value(path, node, schema, error, tree.span.file)


def tree_path(tree: Mapping, error: ErrorDetails) -> Path:
    """pydantic's location without the names of union members, which are in no file."""
    path: Path = ()
    for step in error["loc"]:
        _, _, reached = find(tree, (*path, step))
        if len(reached) > len(path):
            path = reached
    return path


def _unknown_key(path: Path, span: Span, tree: Mapping, schema: type[Schema], error: ErrorDetails) -> Diagnostic:
    key, parent = str(path[-1]), dotted(path[:-1])
    where = f" in `{parent}`" if parent else ""
    return Diagnostic("E301", f"unknown key `{key}`{where}", Label(span), help=_right_key(path, tree, schema, error))


def _right_key(path: Path, tree: Mapping, schema: type[Schema], error: ErrorDetails) -> str | None:
    """What the user probably meant: a key that exists elsewhere says more than one that looks alike."""
    key, here = str(path[-1]), dotted(path)
    if here in _MEANT:
        return f"`{_MEANT[here]}` is what this is called here"
    found = [place for place in places(schema).get(key, []) if place == here or not _of_another_engine(place, tree)]
    if here in found:
        members = [str(tag(model)) for model in models_at(schema, path[:-1]) if key in fields(model)]
        return f"`{key}` is a setting of {', '.join(members)}"
    models = models_at(schema, error["loc"][:-1])
    if found:
        return f"`{key}` belongs to {' or '.join(f'`{place}`' for place in found)}"
    for library in (table(model.library) for model in models if model.library):
        if key in library.arguments:
            return f"{library.callable} of {library.library} has it, but llm-serve does not use it"
    names = list(dict.fromkeys(name for model in models for name in fields(model)))
    if guess := did_you_mean(key, names):
        return f"did you mean `{guess}`?"
    return f"known here: {', '.join(names)}" if names else None


def _of_another_engine(place: str, tree: Mapping) -> bool:
    """Whether a place lies in the arguments of an engine that the tree does not choose."""
    section = "model_config.initialization.initializer"
    if not place.startswith(f"{section}."):
        return False
    initializer, _, _ = find(tree, tuple(section.split(".")))
    chosen = initializer.get(DISCRIMINATOR) if isinstance(initializer, Mapping) else None
    engine = engine_named(str(chosen.value)) if isinstance(chosen, Scalar) else None
    return engine is not None and place.removeprefix(f"{section}.").partition(".")[0] not in fields(engine.config)


def _missing_key(path: Path, span: Span, schema: type[Schema], error: ErrorDetails) -> Diagnostic:
    hint: str | None
    if error["type"] == "union_tag_not_found":
        missing, hint = DISCRIMINATOR, "one of " + ", ".join(_engines(schema, error["loc"]))
    else:
        missing, hint = str(error["loc"][-1]), description(schema, error["loc"])
    return Diagnostic("E302", f"`{dotted((*path, missing))}` is missing", Label(span), help=hint)


def _engines(schema: type[Schema], loc: Path) -> list[str]:
    return [str(tag(model)) for model in models_at(schema, loc)]


def _bad_value(path: Path, node: Node, schema: type[Schema], error: ErrorDetails, top: str) -> Diagnostic:
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        chosen = node.get(DISCRIMINATOR) if isinstance(node, Mapping) else None
        return _one_of((*path, DISCRIMINATOR), chosen or node, _engines(schema, error["loc"]))
    if error["type"] == "literal_error" and (words := _words(schema, error["loc"])):
        return _one_of(path, node, words)
    code = _CODES.get(error["type"], "E304")
    text = f"`{dotted(path)}`: {_in_our_words(error)}" if path else _in_our_words(error)
    entries = node.entries if isinstance(node, Mapping) else {}
    blamed = [entries[key] for key in context.get("keys", ()) if key in entries]
    if not blamed:
        hint = description(schema, error["loc"]) if error["type"] == "string_pattern_mismatch" else context.get("hint")
        return Diagnostic(code, text, _at(node), _losers(node), hint)
    blamed.sort(key=lambda entry: entry.value.span.file != top)  # the model's own word came last
    first, *others = (_at(entry.value, f"`{entry.key}`") for entry in blamed)
    return Diagnostic(code, text, first, tuple(others))


def _words(schema: type[Schema], loc: Path) -> list[str]:
    """The words allowed at pydantic's location, which may end with the name of a union's member."""
    for end in (len(loc), len(loc) - 1):
        for field in fields_at(schema, loc[:end]):
            if words := choices(field):
                return words
    return []


def _in_our_words(error: ErrorDetails) -> str:
    """pydantic's message, about YAML and in the style of ours."""
    if error["type"] == "too_short":
        return f"must have at least {error['ctx']['min_length']} item"
    if error["type"] == "string_pattern_mismatch":
        return f"`{inline(error['input'])}` has characters, or a form, that is not allowed here"
    message = error["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be").replace("String should", "must")


def _quotes(node: Node, expected: str) -> str | None:
    """The usual cause of a wrong type: quotes too many, or too few."""
    text = inline(plain(node)) if isinstance(node, Scalar) else ""
    if kind(node) == "a string" and expected in _READS and re.fullmatch(_READS[expected], text):
        return f"write {text} without quotes"
    return (
        f'write "{text}"' if expected == "a string" and kind(node) in ("an integer", "a float", "a boolean") else None
    )


def _one_of(path: Path, node: Node, names: list[str]) -> Diagnostic:
    guess = did_you_mean(str(plain(node)), names)
    return Diagnostic(
        "E304",
        f"`{dotted(path)}` must be one of {', '.join(names)}; not `{inline(plain(node))}`",
        _at(node),
        _losers(node),
        f"did you mean `{guess}`?" if guess else None,
    )


def _at(node: Node, text: str = "") -> Label:
    return Label(node.span, text)


def _losers(node: Node) -> tuple[Label, ...]:
    return tuple(Label(lower.span, "overrides this") for lower in definitions(node)[1:2])
