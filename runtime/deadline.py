"""When an answer must be complete."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from runtime.errors import DeadlineError

T = TypeVar("T")


class Deadline:
    """So many seconds from now on; None: never."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._due = None if seconds is None else asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Raises DeadlineError when the block is not over by then."""
        limit = asyncio.timeout_at(self._due)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise  # somebody else's
            raise self._missed() from error

    async def pieces(self, pieces: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The pieces as they are. Raises DeadlineError when they do not end by then; the caller closes `pieces`.

        Only the wait for a piece is ended: what the reader does between two of them is not the answer's.
        """
        while True:
            if self._due is not None and asyncio.get_running_loop().time() >= self._due:
                raise self._missed()  # however fast they come
            async with self.kept():
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
            yield piece

    def _missed(self) -> DeadlineError:
        problem = f"the answer was not complete after {self._seconds:g} s, the longest that this model may take"
        return DeadlineError(problem)
