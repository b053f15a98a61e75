"""The gateway: one /v1 for every model of the cluster.

It forwards the bytes of a request to the model's own route over HTTP, through the proxy that the request came
from. A stream through a Ray deployment handle would cost ten times as much a token.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from opentelemetry.trace import Tracer

from runtime import metrics, tracing
from runtime.access.visit import current_visit
from runtime.api.embeddings import EmbeddingRequest
from runtime.api.gate import path_of
from runtime.api.observed import Watch
from runtime.api.openapi import STREAMED, request_of
from runtime.api.protection import ProtectedApp
from runtime.api.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from runtime.api.query import add_query_routes
from runtime.api.responses import error_body, model_entry
from runtime.api.routes import add_error_handlers
from runtime.api.sse import EventStream, event, while_connected
from runtime.api.wire import Wire
from runtime.application import GatewayModel, GatewaySettings
from runtime.availability import Availability, Look
from runtime.errors import (
    EngineError,
    LLMServeError,
    ModelNotFoundError,
    ModelUnavailableError,
    OverloadedError,
    RequestError,
)
from runtime.metrics import GATEWAY_METRICS, Metrics


class Forwarded(NamedTuple):
    """What a forwarded route takes."""

    body: type[Wire]
    streams: bool = False
    """Whether its answer may be a stream."""


FORWARDED: Mapping[str, Forwarded] = {
    "/v1/chat/completions": Forwarded(ChatRequest, streams=True),
    "/v1/completions": Forwarded(CompletionRequest, streams=True),
    "/v1/embeddings": Forwarded(EmbeddingRequest),
    "/tokenize": Forwarded(TokenizeRequest),
    "/detokenize": Forwarded(DetokenizeRequest),
}
"""Routes of each model's own application that the gateway has too: the request's `model` says which is meant."""
OWN_ENTRY_S = 2.0
"""How long a client that asks about a model waits for what the model says of itself."""

_log = logging.getLogger(__name__)

_PASSED_ON = ("authorization", "content-type", "traceparent", "tracestate", "x-request-id")
_TOKEN_LIMITS = tuple(f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset"))
_PASSED_BACK = ("content-type", "retry-after", *_TOKEN_LIMITS)
_WENT_AWAY = "the model's replica went away in the middle of the answer"


class Gateway:
    """The models of the cluster, and the way to them."""

    def __init__(self, look: Look, counts: Metrics | None = None, tracer: Tracer = tracing.NOBODY) -> None:
        self.models: dict[str, GatewayModel] = {}
        self.availability = Availability(look, self._wake, self._show_waiting)
        self._settings = GatewaySettings(upstream="", models=[])
        self._names: dict[str, str] = {}
        self._counts = counts or Metrics(GATEWAY_METRICS)
        self._tracer = tracer
        self._session: aiohttp.ClientSession | None = None

    def configure(self, settings: GatewaySettings) -> None:
        """Take a new list of models."""
        self.models = {model.id: model for model in settings.models}
        self._names = {name.replace("/", "--"): name for name in self.models} | {name: name for name in self.models}
        self._settings = settings

    def create_app(self) -> FastAPI:
        """The ASGI application."""

        @asynccontextmanager
        async def session(_: FastAPI) -> AsyncGenerator[None, None]:
            unlimited = aiohttp.TCPConnector(limit=0)
            endless = aiohttp.ClientTimeout(total=None, connect=10)
            async with aiohttp.ClientSession(connector=unlimited, timeout=endless) as self._session:
                yield
                await self.availability.close()

        watch = Watch(self._tracer, self._count)
        app = ProtectedApp(watch=watch, title="llm-serve gateway", docs_url="/docs", redoc_url=None, lifespan=session)
        add_error_handlers(app)
        add_query_routes(app, self)

        @app.get("/health")
        async def health() -> dict[str, str]:
            return {"status": "ok"}

        @app.get("/v1/models")
        async def models() -> dict[str, object]:
            return {"object": "list", "data": await self._entries(self._open())}

        @app.get("/v1/models/{model_id:path}")
        async def model(model_id: str, request: Request) -> dict[str, Any]:
            model = self._find(model_id)
            (entry,) = await self._entries([model])
            return await self._own_entry(request, model) | entry if entry.get("status") == "ready" else entry

        @app.get("/metrics", response_class=PlainTextResponse)
        async def numbers() -> Response:
            return Response(self._counts.text(), media_type=metrics.CONTENT_TYPE)

        for path, route in FORWARDED.items():
            body, answers = request_of(route.body), STREAMED if route.streams else None
            app.add_api_route(path, self._forward, methods=["POST"], name=path, responses=answers, openapi_extra=body)
        return app

    def ids(self) -> Sequence[str]:
        """The names of the models that the request's key opens."""
        return [model.id for model in self._open()]

    def named(self, name: str) -> str:
        """The id of a model by its id, or with `--` for `/`. Raises ModelNotFoundError."""
        return self._find(self._names.get(name, name)).id

    def details(self, model_id: str) -> Mapping[str, Any]:
        """What the settings say of it."""
        return self.models[model_id].card.model_dump()

    async def ask(self, request: Request, model_id: str, path: str, body: bytes) -> Response:
        """The whole answer of a model. `request`: whose headers go along. Raises LLMServeError."""
        model = self._find(model_id)
        return await self._respond(model, await self._post(request, model, path, body))

    async def _forward(self, request: Request) -> Response:
        path = path_of(request.scope)
        body = await request.body()
        model = self._find(_model_of(body))
        answer = await while_connected(request, self._post(request, model, path, body))
        if answer.content_type == "text/event-stream":
            return EventStream(_relay(answer), answer.status, _passed_back(answer))
        return await while_connected(request, self._respond(model, answer))

    async def _respond(self, model: GatewayModel, answer: aiohttp.ClientResponse) -> Response:
        """An answer that is no stream."""
        content = await _content(answer)
        if answer.content_type != "application/json":  # not from the replica, but from Ray on its way there
            raise _refusal(model, answer.status, content.decode("utf-8", "replace"))
        return Response(content, answer.status, _passed_back(answer))

    async def _post(self, request: Request, model: GatewayModel, path: str, body: bytes) -> aiohttp.ClientResponse:
        """The beginning of the answer, once the model is there. Raises ModelUnavailableError."""
        await self.availability.wait_for(model, self._settings.wait_for_model_s)
        headers = _passed_on(request)
        tracing.pass_on(headers)
        return await self._send("POST", model, path, body, headers)

    async def _send(
        self, method: str, model: GatewayModel, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> aiohttp.ClientResponse:
        assert self._session is not None  # the lifespan has made it
        url = self._settings.upstream + model.route_prefix + path
        try:
            return await self._session.request(method, url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ClientError as error:
            raise ModelUnavailableError(f"the model `{model.id}` cannot be reached: {error}") from error

    async def _wake(self, model: GatewayModel) -> None:
        (await self._send("GET", model, "/health")).release()

    async def _entries(self, models: Sequence[GatewayModel]) -> list[dict[str, Any]]:
        conditions = await self.availability.conditions()
        states = [conditions[each.application].state if each.application in conditions else None for each in models]
        entries = [model_entry(each.id, each.card, each.parent) for each in models]
        return [entry | ({"status": state} if state else {}) for entry, state in zip(entries, states, strict=True)]

    async def _own_entry(self, request: Request, model: GatewayModel) -> dict[str, Any]:
        """What a model says of itself, such as its context's length; nothing where it does not say so soon."""
        try:
            async with asyncio.timeout(OWN_ENTRY_S):
                answer = await self._send("GET", model, f"/v1/models/{model.id}", headers=_passed_on(request))
                content = await self._respond(model, answer)
        except (LLMServeError, TimeoutError) as error:
            _log.warning("the model %s does not say what it is: %s", model.id, error)
            return {}
        entry: dict[str, Any] = json.loads(bytes(content.body)) if answer.status == HTTPStatus.OK else {}
        return entry

    def _show_waiting(self, waiting: int) -> None:
        self._counts.record(metrics.GATEWAY_WAITING, waiting)

    def _count(self, model: str, status: int, seconds: float) -> None:
        self._counts.record(metrics.GATEWAY_RESPONSES, 1, model, str(status))
        if model:
            self._counts.record(metrics.GATEWAY_FIRST_BYTE, seconds, model)

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


def _passed_on(request: Request) -> dict[str, str]:
    """The headers that the model sees too."""
    return {name: request.headers[name] for name in _PASSED_ON if name in request.headers}


def _passed_back(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The headers that the client sees too."""
    return {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}


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
