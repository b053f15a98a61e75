"""The base of what comes over the wire."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator, Tag


class Wire(BaseModel):
    """Unknown fields are ignored, numbers and texts are not turned into each other."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


def variant(name: str) -> Tag:
    """Tags one of the kinds of value that a field may have, in a way that no name of a field has."""
    return Tag(f"<{name}>")


def variant_by(choose: Callable[[Any], str]) -> Discriminator:
    """Finds the name of the one that a value is meant to be, so that an error is told of that one alone."""
    return Discriminator(lambda value: f"<{choose(value)}>")


def field_of(place: Sequence[int | str]) -> str | None:
    """A place of pydantic's as a path in the request: less the variants, and less the mark of an object's keys."""
    steps = [str(step) for step in place]
    return ".".join(step for step in steps if step != "[key]" and not (step[:1] == "<" and step[-1:] == ">")) or None
