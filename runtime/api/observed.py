"""What is seen of each HTTP request to a model or the gateway: a span, its status, the time to its first byte."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.trace import Tracer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime import tracing
from runtime.access.visit import current_visit
from runtime.api.gate import path_of

CLIENT_CLOSED = 499
"""nginx' status for a client that has gone: only metrics and logs see it."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Whom to tell of requests."""

    tracer: Tracer
    count: Callable[[str, int, float], None]
    """(model, status, seconds until the response began). The model is empty where the request named none."""


NOTHING = Watch(tracing.NOBODY, lambda *_: None)


class Observer:
    """ASGI. Only requests for work count: those with a body."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        begin, status, took = time.monotonic(), 500, 0.0

        async def watched(message: Message) -> None:
            nonlocal status, took
            if message["type"] == "http.response.start":
                status, took = message["status"], time.monotonic() - begin
            await send(message)

        path, visit = path_of(scope), current_visit()
        with tracing.server_span(self._watch.tracer, path, Headers(scope=scope)) as span:
            try:
                await self._app(scope, receive, watched)
            except asyncio.CancelledError:
                status = CLIENT_CLOSED
                raise
            finally:
                tracing.end(span, path, visit.model, status)
                self._watch.count(visit.model or "", status, took)
