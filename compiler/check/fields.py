"""Walking a schema: which fields there are, where, and what is said of them."""

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo

from compiler.layering.merge import Rules
from compiler.source.tree import Entry, Mapping, Scalar
from runtime.engines import engine_named
from runtime.schema import MergeBy, Schema, describe

M = TypeVar("M")
Path = tuple[str | int, ...]

DISCRIMINATOR = "type"
"""The key that chooses among the members of a union."""


def dotted(path: Path) -> str:
    """A path as people write it: `a.b[2]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


@cache
def fields(model: type[Schema]) -> dict[str, FieldInfo]:
    """Fields by the name that YAML uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


@cache
def attributes(model: type[Schema]) -> dict[str, str]:
    """The name that Python uses of each field, by the one that YAML uses."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def tag(model: type[Schema]) -> str | None:
    """The value of the discriminator that chooses this member of a union."""
    field = model.model_fields.get(DISCRIMINATOR)
    return field.default if field and isinstance(field.default, str) else None


def models_in(annotation: Any) -> list[type[Schema]]:
    """The models that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def models_at(schema: type[Schema], loc: Path) -> list[type[Schema]]:
    """The models that a path or pydantic's location leads to: one, or the members of a union."""
    models = [schema]
    for step in loc:
        chosen = [model for model in models if tag(model) == step]
        found = [fields(model)[str(step)] for model in models if str(step) in fields(model)]
        models = chosen or [inner for field in found for inner in models_in(field.annotation)]
    return models


def fields_at(schema: type[Schema], loc: Path) -> list[FieldInfo]:
    """The fields that a path leads to; several where members of a union share the name."""
    owners = models_at(schema, loc[:-1]) if loc else []
    return [fields(model)[str(loc[-1])] for model in owners if str(loc[-1]) in fields(model)]


def choices(field: FieldInfo) -> list[str]:
    """The words that a field of words allows."""
    return [str(word) for word in _literals(field.annotation)]


def _literals(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from arguments
    else:
        for argument in arguments:
            yield from _literals(argument)


def description(schema: type[Schema], loc: Path) -> str | None:
    """What the schema says of a field."""
    for model in models_at(schema, loc[:-1]):
        describe(model)
    return next((" ".join(field.description.split()) for field in fields_at(schema, loc) if field.description), None)


@cache
def places(schema: type[Schema]) -> dict[str, list[str]]:
    """Every key of the whole schema, and the paths at which it stands."""
    found: dict[str, set[str]] = {}
    for path, _ in every_field(schema):
        found.setdefault(str(path[-1]), set()).add(dotted(path))
    return {key: sorted(paths) for key, paths in found.items()}


def every_field(schema: type[Schema], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Each field of the schema and of all that it holds, with its path; of a union, all members."""
    for name, field in fields(schema).items():
        yield (*above, name), field
        for model in models_in(field.annotation):
            yield from every_field(model, (*above, name))


def marker(field: FieldInfo, kind: type[M]) -> M | None:
    """The mark of that kind in a field's metadata."""
    return next((mark for mark in field.metadata if isinstance(mark, kind)), None)


@cache
def rules(schema: type[Schema]) -> Rules:
    """What the schema says of merging."""
    identities = {path: mark.identity for path, field in every_field(schema) if (mark := marker(field, MergeBy))}
    unions = {path: DISCRIMINATOR for path, field in every_field(schema) if len(_tagged(field)) > 1}
    return Rules(unions, identities)


def _tagged(field: FieldInfo) -> list[type[Schema]]:
    return [model for model in models_in(field.annotation) if tag(model)]


Known = tuple[tuple[str, ...], Entry, list[FieldInfo], list[type[Schema]]]


def known(tree: Mapping, models: list[type[Schema]], above: tuple[str, ...] = ()) -> Iterator[Known]:
    """Each entry of `tree` that the schema knows: its path, the entry, the fields that it may be and their models."""
    chosen = tree.get(DISCRIMINATOR)
    engine = engine_named(chosen.value) if isinstance(chosen, Scalar) and isinstance(chosen.value, str) else None
    if engine and engine.config in models:
        models = [engine.config]
    for key, entry in tree.entries.items():
        owners = [model for model in models if key in fields(model)]
        if owners:
            found = [fields(model)[key] for model in owners]
            yield (*above, key), entry, found, owners
            if isinstance(entry.value, Mapping):
                inner = dict.fromkeys(model for owner in owners for model in within(owner, key))
                yield from known(entry.value, list(inner), (*above, key))


@cache
def within(model: type[Schema], key: str) -> tuple[type[Schema], ...]:
    """The models that a field mentions."""
    return tuple(models_in(fields(model)[key].annotation))
