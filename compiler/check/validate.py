"""From trees to valid specs: pydantic checks, and every finding gets its place back."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compiler.check.fields import DISCRIMINATOR, attributes, fields, marker, models_at, tag, within
from compiler.check.findings import MISSING, findings, tree_path
from compiler.diagnostics import ConfigErrors, Diagnostic, at_most
from compiler.kept import Rooms
from compiler.source import tags
from compiler.source.tree import Mapping, Scalar, Sequence, find, has_tags, plain
from runtime.engines import ENGINES, engine_named
from runtime.schema import MergeBy, Schema

S = TypeVar("S", bound=Schema)

_DATA = "data"
"""What a mapping of a tree that was validated keeps its section under, or its plain data: other trees hold it too."""
SHARED = Rooms()
"""Rooms of the sections that many specs have."""
_INITIALIZER = ("model_config", "initialization", "initializer")


def validate(tree: Mapping, schema: type[S]) -> S:
    """`tree` as a `schema`. Raises ConfigErrors with every finding at the layer that is to blame."""
    unknown: list[tuple[tuple[str, ...], Mapping]] = []
    try:
        spec = schema.model_validate(_data(tree, (), unknown))
    except ValidationError as error:  # told again of the plain data, all of which has its place
        found = at_most(findings(_pydantic_errors(tree, schema), tree, schema), tree.span.file)
        assert found
        raise ConfigErrors(found) from error
    for path, node in unknown:
        assert node.kept is not None
        section = _at(spec, path)
        if isinstance(section, Schema):
            SHARED.give(section)
        node.kept[_DATA] = section if isinstance(section, Schema) else plain(node)
    return spec


def _data(node: Mapping, path: tuple[str, ...], unknown: list[tuple[tuple[str, ...], Mapping]]) -> dict[str, Any]:
    """A mapping as plain data, with each section that is known to be valid as what it is.

    Sections that could be known, and are not yet, are noted with their paths.
    """
    data: dict[str, Any] = {}
    for key, _, value in node.entries.values():
        if isinstance(value, Scalar):
            data[key] = value.value
        elif isinstance(value, Sequence):
            data[key] = plain(value)
        elif value.kept and _DATA in value.kept:
            data[key] = value.kept[_DATA]
        else:
            data[key] = _data(value, (*path, key), unknown)
            if value.kept is not None:
                unknown.append(((*path, key), value))
    return data


def _at(section: object, path: tuple[str, ...]) -> object:
    for key in path:
        if not isinstance(section, Schema):
            return None
        section = getattr(section, attributes(type(section)).get(key, key), None)
    return section


def check_layer(tree: Mapping, schema: type[Schema]) -> Iterator[Diagnostic]:
    """What is wrong with a layer whatever lies under it and on it: unknown keys, wrong types and values.

    A layer is a part of a config: nothing is missing in it, and values that contradict each other may be set right by
    another layer.
    """
    errors = (error for error in _errors(tree, schema) if _is_wrong_alone(error, tree, schema))
    return findings(errors, tree, schema)


def shows_in_the_whole(tree: Mapping, schema: type[Schema]) -> bool:
    """Whether all that `check_layer` would find shows in any config that the layer is the top of, too.

    A value that replaces what is below is checked there in the same way. That is not so for what tags make of a value,
    for lists that merge, nor for a mapping among free keys, of which only a part may be in this layer. A key that the
    schema does not know is not asked about.
    """
    return not has_tags(tree) and _shows(tree, (schema,))


def _shows(tree: Mapping, models: tuple[type[Schema], ...]) -> bool:
    for key, _, node in tree.entries.values():
        if isinstance(node, Scalar):
            continue
        place = _place(models, key)
        if isinstance(node, Sequence):
            shows = not place.merges
        elif place.inner:
            shows = _shows(node, place.inner)
        else:
            shows = place.is_known and not any(isinstance(each.value, Mapping) for each in node.entries.values())
        if not shows:
            return False
    return True


class _Place(NamedTuple):
    """What the schema says of a key in some models: the models in it, and whether lists there merge."""

    is_known: bool
    inner: tuple[type[Schema], ...]
    merges: bool


@lru_cache
def _place(models: tuple[type[Schema], ...], key: str) -> _Place:
    owners = [model for model in models if key in fields(model)]
    inner = tuple(dict.fromkeys(model for owner in owners for model in within(owner, key)))
    return _Place(bool(owners), inner, any(marker(fields(owner)[key], MergeBy) for owner in owners))


def _errors(tree: Mapping, schema: type[Schema]) -> list[ErrorDetails]:
    initializer, _, reached = find(tree, _INITIALIZER)
    if reached == _INITIALIZER and isinstance(initializer, Mapping) and not _engine_is_known(initializer):
        return [*_pydantic_errors(tree, schema), *_errors_in_any_engine(initializer)]
    return _pydantic_errors(tree, schema)


def _pydantic_errors(tree: Mapping, schema: type[Schema]) -> list[ErrorDetails]:
    try:
        schema.model_validate(plain(tree))
    except ValidationError as errors:
        return errors.errors(include_url=False)
    return []


def _engine_is_known(initializer: Mapping) -> bool:
    chosen = initializer.get(DISCRIMINATOR)
    return isinstance(chosen, Scalar) and engine_named(str(chosen.value)) is not None


def _errors_in_any_engine(initializer: Mapping) -> Iterator[ErrorDetails]:
    """Where the layer does not choose the engine: what is wrong for every engine that has the key."""
    for key, entry in initializer.entries.items():
        if key == DISCRIMINATOR:
            continue
        owners = [engine.config for engine in ENGINES if key in fields(engine.config)]
        outcomes = [_errors_of_key(config, key, plain(entry.value)) for config in owners or [ENGINES[0].config]]
        if all(outcomes):
            member = (str(tag(owners[0])),) if owners else ()
            for error in outcomes[0]:
                error["loc"] = (*_INITIALIZER, *member, *error["loc"])
                yield error


def _errors_of_key(config: type[Schema], key: str, value: object) -> list[ErrorDetails]:
    try:
        config.model_validate({DISCRIMINATOR: tag(config), key: value})
    except ValidationError as errors:
        return [error for error in errors.errors(include_url=False) if error["loc"][:1] == (key,)]
    return []


def _is_wrong_alone(error: ErrorDetails, tree: Mapping, schema: type[Schema]) -> bool:
    if error["type"] in MISSING:
        return False
    path = tree_path(tree, error)
    node, _, _ = find(tree, path)
    if node.tag in (tags.UNSET, tags.TEMPLATE):
        return False
    if isinstance(node, Sequence) and any(item.tag == tags.TEMPLATE for item in node.items):
        return False
    own = isinstance(node, Mapping) and bool(models_at(schema, path)) and error["type"] != "union_tag_invalid"
    return not own or error["type"] in ("extra_forbidden", "model_type", "model_attributes_type")
