"""An OpenAI API as a client sees it."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

KEY_VARIABLE = "LLM_SERVE_API_KEY"
"""The environment variable that holds the API key, where the server wants one."""
_CONNECT_S = 10
_SILENCE_S = 600
"""Longest time without a byte in the middle of an answer."""
_LINE_BYTES = 1 << 20

Body = dict[str, Any]


class ServerError(Exception):
    """The server cannot be reached, refuses, or breaks off. `status` is HTTP's where there is one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the server counts them."""

    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of a stream brings."""

    text: str = ""
    usage: Usage | None = None


class Server:
    """Use as an async context manager. `url` is that of the API, with or without `/v1`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0),
            read_bufsize=_LINE_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def models(self) -> list[str]:
        """Ids of the models. Raises ServerError."""
        url = f"{self.url}/v1/models"
        try:
            async with self._session.get(url) as response:
                await _check(response)
                found = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise ServerError(f"{url} does not answer in JSON: is it an OpenAI API?") from error
        try:
            return [str(model["id"]) for model in found["data"]]
        except (KeyError, TypeError) as error:
            raise ServerError(f"{url} has no list of models: is it an OpenAI API?") from error

    async def one_model(self) -> str:
        """The model, where there is only one. Raises ServerError."""
        models = await self.models()
        if len(models) != 1:
            there = ", ".join(models) or "none"
            raise ServerError(f"{self.url} serves {len(models)} models, so name one of them: {there}")
        return models[0]

    async def chat(self, body: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """A streamed answer; the last piece has the usage. Raises ServerError, also in its middle."""
        whole = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._session.post(f"{self.url}/v1/chat/completions", json=whole) as response:
                await _check(response)
                async for line in response.content:
                    if line.startswith(b"data: [DONE]"):
                        return
                    if line.startswith(b"data:"):
                        yield _piece(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except HttpProcessingError as error:  # a line beyond all bounds
            raise ServerError(f"the stream holds what is no event: {error}") from error
        raise ServerError("the answer broke off in the middle")

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, aiohttp.InvalidURL):
            return ServerError(f"`{self.url}` is no address; write one such as http://127.0.0.1:8000")
        if isinstance(error, aiohttp.ClientConnectorError):
            return ServerError(f"nothing answers at {self.url} ({error.os_error.strerror or error.os_error})")
        return ServerError(f"the connection to {self.url} broke: {error or type(error).__name__}")


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raises ServerError with the server's own words."""
    if response.ok:
        return
    text = (await response.read()).decode("utf-8", "replace")
    try:
        message = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = text[:200].strip() or str(response.reason)
    if response.status == 401:
        message += f" (the key is taken from the environment variable {KEY_VARIABLE})"
    raise ServerError(message, response.status)


def _piece(line: bytes) -> Piece:
    """Raises ServerError when the event tells of one, or is no JSON."""
    try:
        chunk: Body = json.loads(line.removeprefix(b"data:"))
        error = chunk.get("error")
        usage = chunk.get("usage")
        text = "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))
        counted = Usage(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        raise ServerError(f"the stream holds what is no chunk of an answer: {line[:80]!r}") from problem
    if error:
        raise ServerError(str(error.get("message", error) if isinstance(error, dict) else error))
    return Piece(text, counted)
