"""The routes of the first llm-serve, for clients that were written for it: thin shims over the OpenAI API.

A prompt becomes an ordinary request of its model, with the same bounds, limits and errors. Source of the shapes: the
query and metadata routes of llm-serve before it had a /v1.
"""

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, JsonValue

from runtime.access.visit import current_visit
from runtime.api.protocol import MAX_STOPS, Stop, StopTokens
from runtime.api.responses import Body
from runtime.api.sse import while_connected
from runtime.api.wire import Wire

MAX_PROMPTS = 128
"""Prompts of a batch."""
AT_A_TIME = 8
"""Prompts of a batch that are with the model at a time."""
PATIENCE_S = 60.0
"""How long a prompt of a batch waits for a place in the model."""

_OTHER_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}


class Prompt(Wire):
    """A prompt and how to answer it."""

    prompt: str
    use_prompt_format: bool = True
    """Whether `prompt` is an instruction for the model's prompt format or chat template, or goes to it as it is."""
    parameters: dict[str, JsonValue] = {}
    """As `generate_kwargs` in the registry; they go over the model's own."""
    stopping_sequences: Annotated[list[Stop | int | StopTokens], Field(max_length=MAX_STOPS)] = []

    def request(self, model: str) -> tuple[str, dict[str, Any]]:
        """Route and body that ask the same of the OpenAI API."""
        parameters: dict[str, Any] = {_OTHER_NAMES.get(name, name): value for name, value in self.parameters.items()}
        if parameters.pop("do_sample", True) is False:
            parameters["temperature"] = 0
        stops = [stop for stop in self.stopping_sequences if isinstance(stop, str)]
        ids = [stop for stop in self.stopping_sequences if not isinstance(stop, str)]
        body: dict[str, Any] = {**parameters, "model": model, "stream": False}
        if stops:
            body["stop"] = stops
        if ids:
            body["stop_token_ids"] = ids
        if self.use_prompt_format:
            return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": self.prompt}]}
        return "/v1/completions", {**body, "prompt": self.prompt}


class Asked(Protocol):
    """The models, as these routes need them."""

    def ids(self) -> Sequence[str]:
        """All of them."""

    def named(self, name: str) -> str:
        """The id of a model by its id, or with `--` for `/`. Raises ModelNotFoundError."""

    def details(self, model_id: str) -> Mapping[str, Any]:
        """What is known of it, by the names of `/v1/models`."""

    async def ask(self, request: Request, model_id: str, path: str, body: bytes) -> Response:
        """The whole answer of a model to a request to the OpenAI API. Raises LLMServeError."""


def add_query_routes(app: FastAPI, asked: Asked) -> None:
    """All of them."""

    @app.get("/models")
    async def models() -> list[str]:
        return list(asked.ids())

    @app.get("/metadata/{model:path}")
    async def metadata(model: str) -> dict[str, Any]:
        model_id = asked.named(model)
        details = asked.details(model_id)
        named = {f"model_{name}": details.get(name) for name in ("task", "url", "description")}
        model_config = {"model_id": model_id, **named, "max_input_words": details.get("max_input_words")}
        return {"metadata": {"model_config": model_config}}

    @app.post("/query/batch/{model:path}")
    async def query_batch(
        model: str,
        prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS)],
        request: Request,
    ) -> Response:
        model_id, places = asked.named(model), asyncio.Semaphore(AT_A_TIME)
        current_visit().count_more(len(prompts) - 1)

        async def one(prompt: Prompt) -> Body:
            async with places:
                return await _query(asked, request, model_id, prompt, PATIENCE_S)

        return await _respond(request, model_id, _all([one(prompt) for prompt in prompts]))

    @app.post("/query/{model:path}")
    async def query(model: str, prompt: Prompt, request: Request) -> Response:
        model_id = asked.named(model)
        return await _respond(request, model_id, _query(asked, request, model_id, prompt))


class _RefusedError(Exception):
    """The model's own refusal, which passes as it is."""

    def __init__(self, response: Response) -> None:
        self.response = response


async def _respond(request: Request, model_id: str, work: Coroutine[Any, Any, Body | list[Body]]) -> Response:
    try:
        return JSONResponse({model_id: await while_connected(request, work)})
    except _RefusedError as refusal:
        return refusal.response


async def _all(work: Sequence[Coroutine[Any, Any, Body]]) -> list[Body]:
    """What all of it gives; the first error ends the rest."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _query(asked: Asked, request: Request, model_id: str, prompt: Prompt, patience_s: float = 0.0) -> Body:
    """`patience_s`: for so long it is asked again while the model is full, as a batch alone may make it."""
    path, body = prompt.request(model_id)
    begin = time.monotonic()
    whole = json.dumps(body, ensure_ascii=False).encode()
    response = await asked.ask(request, model_id, path, whole)
    while _is_full(response) and time.monotonic() - begin < patience_s:
        await asyncio.sleep(float(response.headers.get("retry-after", 1)))
        response = await asked.ask(request, model_id, path, whole)
    if response.status_code != HTTPStatus.OK:
        raise _RefusedError(response)
    return _answer(json.loads(bytes(response.body)), time.monotonic() - begin)


def _is_full(response: Response) -> bool:
    return response.status_code == HTTPStatus.TOO_MANY_REQUESTS and b'"overloaded"' in bytes(response.body)


def _answer(body: Mapping[str, Any], seconds: float) -> Body:
    """Times in seconds. A batch is no unit of work any more: what was said of it is said of the prompt."""
    choice, usage = body["choices"][0], body["usage"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    total = usage["total_tokens"]
    return {
        "generated_text": text,
        "num_input_tokens": usage["prompt_tokens"],
        "num_input_tokens_batch": usage["prompt_tokens"],
        "num_generated_tokens": usage["completion_tokens"],
        "num_generated_tokens_batch": usage["completion_tokens"],
        "preprocessing_time": 0.0,
        "generation_time": seconds,
        "postprocessing_time": 0.0,
        "total_time": seconds,
        "num_total_tokens": total,
        "num_total_tokens_batch": total,
        "total_time_per_token": seconds / total,
        "total_time_per_token_batch": seconds / total,
        "generation_time_per_token": seconds / total,
        "generation_time_per_token_batch": seconds / total,
    }
