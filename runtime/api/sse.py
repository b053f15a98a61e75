"""Server-sent events, and ending work when the client has gone."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still at work\n\n"
"""A comment: clients skip it, and whatever lies between sees that the connection is in use."""
STALL_S = 60.0
"""Seconds that a client may leave a piece unread before its stream is cut."""
_LINE_SEPARATORS = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "\x85\u2028\u2029"})
"""Lines do not end at them in a stream of events, but they do for clients that split it as they split text."""

_log = logging.getLogger(__name__)


def event(data: Mapping[str, Any]) -> bytes:
    """One event with a JSON object."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        text = text.translate(_LINE_SEPARATORS)
    return b"data: " + text.encode() + b"\n\n"


class EventStream(Response):
    """Sends a stream of bytes; when the client goes or stops reading, the generator is closed at once.

    The response starts with the first bytes: a generator that has not begun would not clean up when it is closed.
    `first`: what has been taken out of it already.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        first: bytes | None = None,
    ) -> None:
        unbuffered = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(status_code=status, headers=unbuffered | dict(headers or {}))
        del self.headers["content-length"]
        self._events = events
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI's)
        await run_while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events, b"") if self._first is None else self._first
            try:
                await _send(
                    send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                await _send(send, {"type": "http.response.body", "body": first, "more_body": True})
                async for chunk in events:
                    await _send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
            except _StalledError:
                _log.warning("a client has read nothing for %g s: its stream is cut", STALL_S)
                return  # an unfinished response: the server closes the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _StalledError(Exception):
    """The client does not read."""


async def _send(send: Send, message: Message) -> None:
    try:
        async with asyncio.timeout(STALL_S):
            await send(message)
    except TimeoutError as error:
        raise _StalledError from error


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes. Raises ClientDisconnect then."""
    done = await run_while_connected(request.receive, work)
    if done is None:
        raise ClientDisconnect
    return done


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work` to its end, or until the client goes: then it is cancelled, and None comes back."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
