"""The ASGI application of one model. It runs under Ray Serve or any other ASGI server."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from opentelemetry.trace import Tracer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from runtime import tracing
from runtime.access.visit import current_visit
from runtime.api.calls import with_calls
from runtime.api.embeddings import EmbeddingRequest, embeddings_body, prompts_of
from runtime.api.journal import counted
from runtime.api.observed import CLIENT_CLOSED, Watch
from runtime.api.openapi import STREAMED
from runtime.api.protection import ProtectedApp
from runtime.api.protocol import ChatRequest, CompletionRequest, GenerateRequest, ModelRequest
from runtime.api.pump import Pump
from runtime.api.refusal import error_response
from runtime.api.requests import Border, ValidRequest
from runtime.api.responses import INTERNAL_ERROR, Delta, Shape, Usage, error_body, joined, model_entry
from runtime.api.sse import DONE, HEARTBEAT, EventStream, event, while_connected
from runtime.api.tokens import add_token_routes
from runtime.api.wire import field_of
from runtime.application import ModelDetails
from runtime.errors import EngineDeadError, EngineError, LLMServeError, ModelNotFoundError, RequestError
from runtime.metrics import CONTENT_TYPE, IGNORED_FIELDS, RESPONSES, Metrics, Names

HEALTH_TIMEOUT_S = 10.0
"""How long an engine may take to say that it is well: about the longest step of one."""

_log = logging.getLogger(__name__)


class Served(Protocol):
    """A loaded model, as the routes need it."""

    model_id: str
    metrics: Metrics

    adapters: tuple[str, ...]
    """Other names for it, each of which answers with an adapter."""

    @property
    def card(self) -> ModelDetails:
        """What /v1/models says of the model."""

    def border(self) -> Border:
        """What parses requests, under the settings of this moment."""

    def answer(self, *requests: ValidRequest) -> AsyncGenerator[Delta, None]:
        """The answers in pieces, those of a request one after the other by their index. Raises OverloadedError at the
        first piece, EngineError and DeadlineError at any.
        """

    async def embed(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Their vectors. Raises OverloadedError, EngineError, DeadlineError."""

    async def measure(self) -> None:
        """Bring up to date what of `metrics` nobody counts as it happens. Raises EngineError."""

    async def check_health(self) -> None:
        """Raises EngineError when the model cannot answer."""


def create_app(served: Served, tracer: Tracer = tracing.NOBODY) -> FastAPI:
    """The model's own /v1."""

    def count(model: str, status: int, _: float) -> None:
        served.metrics.record(RESPONSES, 1, model, str(status))

    check = _Intake(served).check
    names, title = (served.model_id, *served.adapters), f"llm-serve: {served.model_id}"
    app = ProtectedApp(names, watch=Watch(tracer, count), title=title, docs_url="/docs", redoc_url=None)
    add_error_handlers(app)
    app.state.pump = Pump()

    @app.get("/health")
    async def health() -> dict[str, str]:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await served.check_health()
        except TimeoutError as error:
            raise EngineDeadError(f"the engine has not answered within {HEALTH_TIMEOUT_S:g} s") from error
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def numbers() -> Response:
        with suppress(EngineError):  # what was counted is told all the same
            await served.measure()
        return Response(served.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [_entry(served, name) for name in _open(served)]}

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> dict[str, Any]:
        _check_model(served, model_id)
        return _entry(served, model_id)

    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat(body: Annotated[ChatRequest, Body()], request: Request) -> Response:
        check(body)
        valid = await asyncio.to_thread(served.border().chat, body)  # the model's template takes its time
        return await _respond(request, served, body, [valid], chat=True)

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(body: Annotated[CompletionRequest, Body()], request: Request) -> Response:
        check(body)
        valid = await asyncio.to_thread(served.border().completion, body)
        return await _respond(request, served, body, valid, chat=False)

    @app.post("/v1/embeddings")
    async def embeddings(body: Annotated[EmbeddingRequest, Body()], request: Request) -> Response:
        check(body)
        prompts = await asyncio.to_thread(prompts_of, body, served.border())
        vectors = await while_connected(request, served.embed(prompts))
        return JSONResponse(embeddings_body(body, body.model or served.model_id, vectors, sum(map(len, prompts))))

    add_token_routes(app, served.border, check)
    return app


class _Intake:
    """What every request for the model passes first, whatever its route."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._fields = Names()

    def check(self, body: ModelRequest) -> None:
        """Raises RequestError where the request is for another model, or for what is not offered."""
        _check_model(self._served, body.model)
        self._served.border().check_offered(body)
        for name, count in Counter(map(self._fields.label, body.ignored)).items():
            self._served.metrics.record(IGNORED_FIELDS, count, self._served.model_id, name)


def _check_model(served: Served, model: str) -> None:
    name, there = model or served.model_id, _open(served)
    if name not in there:
        here = ", ".join(f"`{each}`" for each in there)
        raise ModelNotFoundError(f"the model `{name}` is not here; this is {here}", "model")
    current_visit().model = name


def _open(served: Served) -> list[str]:
    """The names of the model that the request's key opens."""
    visit = current_visit()
    return [name for name in (served.model_id, *served.adapters) if visit.may_use(name)]


def _entry(served: Served, name: str) -> dict[str, Any]:
    """What /v1/models says of the model, or of one of its adapters."""
    if name == served.model_id:
        return model_entry(name, served.card)
    return model_entry(name, served.card.of_adapter(), served.model_id)


async def _respond(
    request: Request, served: Served, body: GenerateRequest, valid: Sequence[ValidRequest], *, chat: bool
) -> Response:
    one = valid[0]
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    shape = Shape(
        body.model or served.model_id, chat, one.sampling.logprobs is not None, one.calls is not None, usage=with_usage
    )
    answer = counted(served.answer(*valid))
    if one.calls is not None:
        answer = with_calls(answer, one.calls)
    if not body.stream:
        return JSONResponse(await while_connected(request, _whole(answer, shape, valid)))
    pump: Pump = request.app.state.pump
    events = _events(pump.pieces(answer), shape, valid)
    first = await while_connected(request, anext(events))  # until it is there, an error still has a status
    return EventStream(events, first=first)


def _prompt_tokens(valid: Sequence[ValidRequest]) -> int:
    return sum(len(each.prompt) for each in valid)


def _answers(valid: Sequence[ValidRequest]) -> int:
    return sum(each.n for each in valid)


async def _whole(answer: AsyncGenerator[Delta, None], shape: Shape, valid: Sequence[ValidRequest]) -> dict[str, object]:
    pieces: list[list[Delta]] = [[] for _ in range(_answers(valid))]
    async with aclosing(answer):
        async for delta in answer:
            pieces[delta.index].append(delta)
    answers = [joined(each) for each in pieces]
    return shape.whole(answers, Usage(_prompt_tokens(valid), sum(each.tokens for each in answers)))


async def _events(
    pieces: AsyncGenerator[Sequence[Delta], None], shape: Shape, valid: Sequence[ValidRequest]
) -> AsyncGenerator[bytes, None]:
    """The stream. A fault before it has begun is raised; after that it is one error event, and there is no [DONE]."""
    tokens: dict[int, int] = {}
    has_begun = False
    async with aclosing(pieces):
        try:
            async for deltas in pieces:
                chunks = [event(chunk) for delta in deltas for chunk in shape.chunks(delta)]
                if shape.chat and not tokens and deltas:
                    chunks = [*(event(shape.opening(index)) for index in range(_answers(valid))), *chunks]
                tokens |= {delta.index: delta.tokens for delta in deltas}
                has_begun = True
                yield b"".join(chunks) or HEARTBEAT
        except LLMServeError as error:
            if not has_begun:
                raise
            yield event(error_body(error))
            return
        except Exception:
            if not has_begun:
                raise
            _log.exception("a stream has failed in a way that nobody thought of")
            yield event(INTERNAL_ERROR)
            return
    if shape.usage:
        yield event(shape.usage_chunk(Usage(_prompt_tokens(valid), sum(tokens.values()))))
    yield DONE


def add_error_handlers(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""
    app.add_exception_handler(LLMServeError, _known_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_exception_handler(Exception, _our_bug)


async def _known_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, LLMServeError)
    return error_response(error)


async def _invalid_body(_: Request, error: Exception) -> Response:
    """The first finding; pydantic's place becomes OpenAI's `param`."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = field_of(first["loc"][1:])  # less the word `body`
    message = first["msg"].removeprefix("Value error, ")
    return error_response(RequestError(f"{param}: {message}" if param else message, param))


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    body = {"error": {"message": detail, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


async def _nobody_there(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def _our_bug(_: Request, __: Exception) -> Response:
    return JSONResponse(INTERNAL_ERROR, 500)
