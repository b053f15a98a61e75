"""Text to tokens and back over HTTP, under the names and in the shapes of vLLM's server."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, FastAPI

from runtime.api.protocol import DetokenizeRequest, ModelRequest, TokenizeRequest
from runtime.api.requests import Border


def add_token_routes(app: FastAPI, border: Callable[[], Border], check: Callable[[ModelRequest], None]) -> None:
    """POST /tokenize, POST /detokenize, GET /tokenizer_info, under the settings of the moment.

    `check` raises RequestError where the request is for another model, or for what is not offered.
    """

    @app.post("/tokenize")
    async def tokenize(body: Annotated[TokenizeRequest, Body()]) -> dict[str, Any]:
        check(body)
        return await asyncio.to_thread(_tokenized, border(), body)  # the model's template takes its time

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, str | None]:
        tokenizer = border().tokenizer
        return {**tokenizer.special_tokens, "chat_template": tokenizer.chat_template}

    @app.post("/detokenize")
    async def detokenize(body: Annotated[DetokenizeRequest, Body()]) -> dict[str, Any]:
        check(body)
        here = border()
        here.check_tokens(body.tokens, "tokens")
        return {"prompt": here.tokenizer.decode(body.tokens)}


def _tokenized(border: Border, body: TokenizeRequest) -> dict[str, Any]:
    """Raises RequestError."""
    text = body.prompt if body.prompt is not None else border.prompt_of(body.messages or [])
    tokens = border.tokenizer.encode(text, start=body.add_special_tokens)
    labels = None
    if body.return_token_strs:
        labels = [border.tokenizer.label(token).decode("utf-8", "replace") for token in tokens]
    length = border.limits.context_length
    return {"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": labels}
