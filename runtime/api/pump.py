"""Between an engine that makes pieces of answers and a client that reads them: each goes at its own speed.

What comes while the client does not read, or faster than one process can write, goes out as one piece. While there is
time, every token goes out at once, and the first one always does.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from runtime.api.responses import Delta, joined

HEARTBEAT_S = 10.0
"""Seconds without anything to send after which a client is told that its request is still alive."""
WRITES_PER_S = 4000
"""Most writes of all streams of a model together: about what a replica, the proxies and the gateway of a small machine
can carry. With more tokens than that, each write carries several."""
MAX_PENDING = 256
"""Pieces of a stream that wait for its client; what comes then stays in the engine, as tokens."""


class Pump:
    """The streams of one model."""

    def __init__(self) -> None:
        self.streams = 0

    async def pieces(self, answer: AsyncGenerator[Delta, None]) -> AsyncGenerator[Sequence[Delta], None]:
        """What has come since the last time, at most one piece of each answer; an empty one is a heartbeat.

        Raises what `answer` raises, once all that came before it is out. Closing closes `answer`.
        """
        loop, stream = asyncio.get_running_loop(), _Stream()
        reading = asyncio.ensure_future(stream.read(answer))
        reading.add_done_callback(lambda _: stream.news.set())
        self.streams += 1
        due = 0.0
        try:
            while stream.pending or not reading.done():
                if not reading.done():
                    heartbeat = loop.call_later(HEARTBEAT_S, stream.news.set)
                    await stream.news.wait()
                    heartbeat.cancel()
                if (early := due - loop.time()) > 0:
                    await asyncio.sleep(early)
                if stream.pending or not reading.done():
                    due = loop.time() + self.streams / WRITES_PER_S
                    yield stream.take()
            await reading
        finally:
            self.streams -= 1
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class _Stream:
    """What has come and was not taken."""

    def __init__(self) -> None:
        self.pending: list[Delta] = []
        self.news, self.room = asyncio.Event(), asyncio.Event()

    async def read(self, answer: AsyncGenerator[Delta, None]) -> None:
        async with aclosing(answer):
            async for delta in answer:
                self.pending.append(delta)
                self.news.set()
                if len(self.pending) >= MAX_PENDING:
                    self.room.clear()
                    await self.room.wait()

    def take(self) -> Sequence[Delta]:
        """All of it, in one piece an answer, in the order of their first ones."""
        answers: dict[int, list[Delta]] = {}
        for delta in self.pending:
            answers.setdefault(delta.index, []).append(delta)
        self.pending.clear()
        self.news.clear()
        self.room.set()
        return [each[0] if len(each) == 1 else joined(each) for each in answers.values()]
