"""What was made of a thing, kept for as long as the thing is.

Most of what a model is made of, it shares with all others on its profiles: the very same nodes, sections and texts.
So each of those is worked on once, and not once for each model.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import ref

T = TypeVar("T")
V = TypeVar("V")
P = ParamSpec("P")

Room = dict[object, Any]
"""What was made of a thing that nobody changes, by what has made it. None of it may hold the thing."""


class Rooms:
    """Rooms for things that have none themselves, by their identity; each goes with its thing."""

    def __init__(self) -> None:
        self._rooms: dict[int, tuple[Room, ref[Any]]] = {}

    def give(self, thing: object) -> None:
        """Give a thing a room, unless it has one."""
        key = id(thing)
        if key not in self._rooms:
            self._rooms[key] = ({}, ref(thing, partial(self._rooms.pop, key)))

    def of(self, thing: object) -> Room | None:
        """The room of a thing, if it was given one."""
        found = self._rooms.get(id(thing))
        return found[0] if found else None


def once(make: Callable[Concatenate[T, P], V]) -> Callable[Concatenate[T, P], V]:
    """`make`, which is called once for each thing whose `kept` is a room, with each of its other arguments."""
    return _once(make, attrgetter("kept"))


def once_in(
    rooms: Rooms,
) -> Callable[[Callable[Concatenate[T, P], V]], Callable[Concatenate[T, P], V]]:
    """As `once`, for things that have their rooms in `rooms`."""
    return lambda make: _once(make, rooms.of)


def _once(
    make: Callable[Concatenate[T, P], V], room_of: Callable[[Any], Room | None]
) -> Callable[Concatenate[T, P], V]:
    def made(thing: T, /, *others: P.args, **named: P.kwargs) -> V:
        room = room_of(thing)
        if room is None:
            return make(thing, *others, **named)
        key = (make, *others, *named.items())
        if key not in room:
            room[key] = make(thing, *others, **named)
        value: V = room[key]
        return value

    return made
