"""The journal: every request gets an id, and a record when it ends."""

import logging
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.access.visit import VISIT, Visit, current_visit
from runtime.api.gate import OPEN_PATHS, path_of
from runtime.api.responses import Delta

MAX_ID_CHARACTERS = 128
MAX_PATH_CHARACTERS = 256

_log = logging.getLogger(__name__)


class Journal:
    """ASGI. Ids in and out, and one record for each request, which says nothing of what was asked or answered."""

    def __init__(self, app: ASGIApp, model_id: str | None) -> None:
        """`model_id`: the one model behind it, where there is only one."""
        self._app = app
        self._model_id = model_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit(_request_id(scope), model=self._model_id)
        others = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        scope = {**scope, "headers": [*others, (b"x-request-id", visit.id.encode())]}
        started, status = time.perf_counter(), None

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = visit.id
            await send(message)

        token = VISIT.set(visit)
        try:
            await self._app(scope, receive, with_id)
        finally:
            VISIT.reset(token)
            _record(scope, visit, status, time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    """The client's, where it is one; it goes into logs and headers."""
    given = Headers(scope=scope).getlist("x-request-id")
    is_good = len(given) == 1 and 0 < len(given[0]) <= MAX_ID_CHARACTERS
    return given[0] if is_good and given[0].isascii() and given[0].isprintable() else uuid.uuid4().hex


def _record(scope: Scope, visit: Visit, status: int | None, duration_s: float) -> None:
    fields = {
        "request_id": visit.id,
        "method": scope["method"],
        "path": scope["path"][:MAX_PATH_CHARACTERS],
        "status": status,
        "duration_ms": round(duration_s * 1000, 1),
        "model": visit.model,
        "key": visit.key.name if visit.key else None,
        "prompt_tokens": visit.prompt_tokens or None,
        "answer_tokens": visit.answer_tokens or None,
    }
    if visit.body is not None:
        fields["body"] = visit.body
    is_news = status != HTTPStatus.OK or path_of(scope) not in OPEN_PATHS
    _log.log(logging.INFO if is_news else logging.DEBUG, "request", extra=fields)


async def counted(answer: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """The answer as it is, while its tokens are put on the request's account."""
    visit, counts = current_visit(), dict[int, int]()
    async with aclosing(answer) as deltas:
        async for delta in deltas:
            visit.take(answer=delta.tokens - counts.get(delta.index, 0))
            counts[delta.index] = delta.tokens
            yield delta
