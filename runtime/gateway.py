"""The gateway: one /v1 for every model of the cluster.

It forwards the bytes of a request to the model's own route over HTTP, through the proxy that the request came
from. A stream through a Ray deployment handle would cost ten times as much a token.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import Response

from runtime.access.visit import current_visit
from runtime.api.protection import ProtectedApp
from runtime.api.responses import error_body, model_entry
from runtime.api.routes import add_error_handlers
from runtime.api.sse import EventStream, event, while_connected
from runtime.application import GatewayModel, GatewaySettings
from runtime.errors import (
    EngineError,
    LLMServeError,
    ModelNotFoundError,
    ModelUnavailableError,
    OverloadedError,
    RequestError,
)

STATUS_AGE_S = 2.0
"""How old the knowledge may be of which applications run; twice as old while somebody looks again."""

Look = Callable[[], Mapping[str, str]]
"""The applications that cannot answer, and why. Blocks."""

_PASSED_ON = ("authorization", "content-type", "x-request-id")
_TOKEN_LIMITS = tuple(f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset"))
_PASSED_BACK = ("content-type", "retry-after", *_TOKEN_LIMITS)
_WENT_AWAY = "the model's replica went away in the middle of the answer"


class Gateway:
    """The models of the cluster, and the way to them."""

    def __init__(self, look: Look) -> None:
        self.models: dict[str, GatewayModel] = {}
        self._upstream = ""
        self._look = look
        self._status: Mapping[str, str] = {}
        self._status_time = -math.inf
        self._looking: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    def configure(self, settings: GatewaySettings) -> None:
        """Take a new list of models."""
        self.models = {model.id: model for model in settings.models}
        self._upstream = settings.upstream

    def create_app(self) -> FastAPI:
        """The ASGI application."""

        @asynccontextmanager
        async def session(_: FastAPI) -> AsyncGenerator[None, None]:
            unlimited = aiohttp.TCPConnector(limit=0)
            endless = aiohttp.ClientTimeout(total=None, connect=10)
            async with aiohttp.ClientSession(connector=unlimited, timeout=endless) as self._session:
                yield

        app = ProtectedApp(title="llm-serve gateway", docs_url="/docs", redoc_url=None, lifespan=session)
        add_error_handlers(app)

        @app.get("/health")
        async def health() -> dict[str, str]:
            return {"status": "ok"}

        @app.get("/v1/models")
        async def models() -> dict[str, object]:
            cards = [model_entry(model.id, model.card) for model in self._open()]
            return {"object": "list", "data": cards}

        @app.get("/v1/models/{model_id:path}")
        async def model(model_id: str) -> dict[str, Any]:
            found = self._find(model_id)
            return model_entry(found.id, found.card)

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            return await self._forward(request, "/v1/chat/completions")

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            return await self._forward(request, "/v1/completions")

        @app.post("/v1/embeddings")
        async def embeddings(request: Request) -> Response:
            return await self._forward(request, "/v1/embeddings")

        return app

    async def _forward(self, request: Request, path: str) -> Response:
        body = await request.body()
        model = self._find(_model_of(body))
        if reason := (await self._unavailable()).get(model.application):
            raise ModelUnavailableError(f"the model `{model.id}` cannot answer: {reason}")
        answer = await while_connected(request, self._post(request, model, path, body))
        headers = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        if answer.content_type == "text/event-stream":
            return EventStream(_relay(answer), answer.status, headers)
        content = await while_connected(request, _content(answer))
        if answer.content_type != "application/json":  # not from the replica, but from Ray on its way there
            raise _refusal(model, answer.status, content.decode("utf-8", "replace"))
        return Response(content, answer.status, headers)

    async def _post(self, request: Request, model: GatewayModel, path: str, body: bytes) -> aiohttp.ClientResponse:
        assert self._session is not None  # the lifespan has made it
        url = self._upstream + model.route_prefix + path
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        try:
            return await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ClientError as error:
            raise ModelUnavailableError(f"the model `{model.id}` cannot be reached: {error}") from error

    async def _unavailable(self) -> Mapping[str, str]:
        """Why applications cannot answer. Who comes often does not wait for the next look."""
        age = asyncio.get_running_loop().time() - self._status_time
        if age > STATUS_AGE_S and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_again())
        if age > 2 * STATUS_AGE_S and self._looking is not None:
            await asyncio.shield(self._looking)
        return self._status

    async def _look_again(self) -> None:
        now = asyncio.get_running_loop().time()
        self._status = await asyncio.to_thread(self._look)
        self._status_time = now

    def _find(self, model_id: str) -> GatewayModel:
        """The model of a request. One that its key does not open is not there."""
        visit = current_visit()
        if model_id not in self.models or not visit.may_use(model_id):
            there = ", ".join(model.id for model in self._open())
            raise ModelNotFoundError(f"the model `{model_id}` does not exist; this cluster serves: {there}", "model")
        visit.model = model_id
        return self.models[model_id]

    def _open(self) -> list[GatewayModel]:
        """The models that the request's key opens."""
        visit = current_visit()
        return [model for model in self.models.values() if visit.may_use(model.id)]


def _model_of(body: bytes) -> str:
    """The `model` of a JSON body; the rest of it is for the model's own application to check."""
    try:
        model = json.loads(body)["model"]
    except (KeyError, TypeError) as error:
        raise RequestError("the request body must be an object with a `model`", "model") from error
    if not isinstance(model, str):
        raise RequestError("`model` must be a string", "model")
    if not model.isprintable():  # half a surrogate pair, say, which no answer could name
        raise RequestError("`model` must be printable", "model")
    return model


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    """The whole answer. Raises EngineError when it breaks off."""
    try:
        return await answer.read()
    except aiohttp.ClientError as error:
        raise EngineError(_WENT_AWAY) from error


async def _relay(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The stream as it comes. A replica that dies in the middle becomes an error event, and no [DONE]."""
    chunk = b""
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    except aiohttp.ClientError:
        unfinished = b"" if chunk.endswith(b"\n\n") else b"\n\n"
        yield unfinished + event(error_body(EngineError(_WENT_AWAY)))
    finally:
        answer.close()


def _refusal(model: GatewayModel, status: int, text: str) -> LLMServeError:
    """What an answer of Ray's own means; they are plain text."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return OverloadedError(f"the model `{model.id}` has more requests than it can take; try again shortly")
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.REQUEST_TIMEOUT):
        return ModelUnavailableError(f"the model `{model.id}` cannot answer now ({status}: {text[:200].strip()})")
    return EngineError(f"the model `{model.id}` failed ({status})")
