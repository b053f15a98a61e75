"""The contract's parts. Light: pydantic and the standard library only.

A field is one line with a docstring that says what it is, its unit and where it comes from; the reference docs,
the editor schema and the errors derive from it. Defaults here are the last word below `base/defaults.yaml`.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

PATH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$"
"""A relative path that leads nowhere else: no part of it starts with a dot."""


@dataclass(frozen=True, slots=True)
class MergeBy:
    """Marks a list whose items merge across layers: `identity` says what an item is about."""

    identity: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class LibraryArguments:
    """Marks a mapping that goes to a library: `table` names the compiler's table of that library's arguments.

    `ours` are those that llm-serve sets itself, each with the place where a config says it.
    """

    table: str
    ours: tuple[tuple[str, str], ...] = ()


def contradiction(message: str, *keys: str) -> PydanticCustomError:
    """An error about several `keys` of one mapping that do not go together."""
    return PydanticCustomError("contradiction", "{message}", {"message": message, "keys": keys})


class Schema(BaseModel):
    """Base of all config models: closed, immutable, no silent coercion."""

    library: ClassVar[str | None] = None
    """The compiler's table of the library whose settings these are; the schema has those that llm-serve uses."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,  # a validator for each section that is never used alone takes longer than a compile
    )


def shared(section: Callable[[], Any]) -> Any:
    """The default of a section that is left out: its fields' own. Made once, when it is first needed."""
    return Field(default_factory=cache(section))


@cache
def describe(model: type[Schema]) -> None:
    """Give the fields of a model the docstrings that follow them as descriptions. Reads sources: only where asked.

    A class that was made without a source file has none.
    """
    for owner in reversed(model.__mro__):
        if not issubclass(owner, Schema) or owner is Schema:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(field.target, ast.Name):
                model.model_fields[field.target.id].description = inspect.cleandoc(ast.literal_eval(text.value))
