"""From trees to valid specs: pydantic checks, and every finding gets its place back."""

from collections.abc import Iterator
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compiler.check.fields import DISCRIMINATOR, fields, models_at, tag
from compiler.check.findings import MISSING, findings, tree_path
from compiler.diagnostics import ConfigErrors, Diagnostic, at_most
from compiler.source import tags
from compiler.source.tree import Mapping, Scalar, Sequence, find, plain
from runtime.engines import ENGINES, engine_named
from runtime.schema import Schema

S = TypeVar("S", bound=Schema)

_INITIALIZER = ("model_config", "initialization", "initializer")


def validate(tree: Mapping, schema: type[S]) -> S:
    """`tree` as a `schema`. Raises ConfigErrors with every finding at the layer that is to blame."""
    try:
        return schema.model_validate(plain(tree))
    except ValidationError as errors:
        found = findings(errors.errors(include_url=False), tree, schema)
        raise ConfigErrors(at_most(found, tree.span.file)) from errors


def check_layer(tree: Mapping, schema: type[Schema]) -> Iterator[Diagnostic]:
    """What is wrong with a layer whatever lies under it and on it: unknown keys, wrong types and values.

    A layer is a part of a config: nothing is missing in it, and values that contradict each other may be set right by
    another layer.
    """
    errors = (error for error in _errors(tree, schema) if _is_wrong_alone(error, tree, schema))
    return findings(errors, tree, schema)


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
