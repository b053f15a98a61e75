"""Admission: so many answers at a time, and not one more."""

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import OverloadedError


class Admission:
    """Counts the answers of one replica. Refusing is immediate: nobody waits here."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Answers that may be in the replica, running and waiting. Changes at any time; those inside stay."""
        self.inside = 0

    @contextmanager
    def admit(self, places: int = 1) -> Iterator[None]:
        """Hold so many places. Raises OverloadedError when there are not as many."""
        if self.inside + places > self.limit:
            room = f"{self.inside} of at most {self.limit} answers at work and waiting"
            raise OverloadedError(f"the model has {room}, and {places} more asked for; try again shortly")
        self.inside += places
        try:
            yield
        finally:
            self.inside -= places
