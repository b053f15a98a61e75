"""Admission: so many requests at a time, and not one more."""

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import OverloadedError


class Admission:
    """Counts the requests of one replica. Refusing is immediate: nobody waits here."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Requests that may be in the replica, running and waiting. Changes at any time; those inside stay."""
        self.inside = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place. Raises OverloadedError when there is none."""
        if self.inside >= self.limit:
            raise OverloadedError(f"the model has {self.inside} requests at work and waiting; try again shortly")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
