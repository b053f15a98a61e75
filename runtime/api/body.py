"""The bounds of what comes in: how long a request may be, how long it may take to come, and what JSON may hold."""

import asyncio
import json
import math
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.access.visit import current_visit
from runtime.api.refusal import error_response
from runtime.errors import (
    BodyTooLargeError,
    HeadersTooLargeError,
    LLMServeError,
    MediaTypeError,
    RequestError,
    SlowBodyError,
)

MAX_BODY_BYTES = 1 << 20
"""Longest request body."""
MAX_HEADER_BYTES = 1 << 16
"""Names and values of all headers together."""
MAX_DEPTH = 64
"""Arrays and objects in one another."""
BODY_TIMEOUT_S = 30.0
"""How long a body may take to come."""


class BodyBounds:
    """ASGI. Reads the whole body, which is JSON within all bounds, before the application sees the request."""

    def __init__(self, app: ASGIApp, *, logged: bool) -> None:
        """`logged`: bodies belong into the request's record."""
        self._app = app
        self._logged = logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await _body(scope, receive)
        except LLMServeError as error:
            response = error_response(error)
            response.headers["connection"] = "close"  # the rest of the body may still be on its way
            await response(scope, receive, send)
            return
        if body is None:
            return
        if self._logged:
            current_visit().body = body.decode(errors="replace")
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def read() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, read, send)


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """The body; None when the client has gone. Raises RequestError."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise HeadersTooLargeError(f"the request's headers have more than {MAX_HEADER_BYTES} bytes")
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    expects_json = scope["method"] == "POST"  # no route takes another method that has a body
    if expects_json:
        _check_media_type(headers)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await _read(receive)
    except TimeoutError as error:
        raise SlowBodyError(f"the request's body did not come within {BODY_TIMEOUT_S:.0f} s") from error
    if body is not None and expects_json:
        check_json(body)
    return body


def _check_media_type(headers: Headers) -> None:
    """Only JSON: a browser sends other types to any address, on behalf of any page, without asking first."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise MediaTypeError("the request needs a JSON body and the header `Content-Type: application/json`")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise MediaTypeError("the request's body must not be compressed")


async def _read(receive: Receive) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large() -> BodyTooLargeError:
    return BodyTooLargeError(f"the request's body has more than {MAX_BODY_BYTES} bytes")


def check_json(body: bytes) -> None:
    """Whether everybody who reads it sees the same in it. Raises RequestError."""
    try:
        found = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise RequestError(f"the request's body is not JSON: {error}") from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(found)
    if b"\\ud" in body.lower():
        _check_characters(found)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RequestError("the request's body has a key twice in one object")
    return found


def _not_finite(name: str) -> NoReturn:
    raise RequestError(f"the request's body is not JSON: {name} is no number there")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise RequestError("the request's body has a number that is too large")
    return number


def _check_depth(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        nested = (each.values() if isinstance(each, dict) else each for each in level)
        level = [inner for values in nested for inner in values if isinstance(inner, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> RequestError:
    return RequestError(f"the request's body has more than {MAX_DEPTH} arrays and objects in one another")


def _check_characters(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError("the request's body has half of a surrogate pair, which is no character") from error
