"""POST /v1/embeddings: texts in, vectors out.

Source: OpenAI API reference, "Embeddings".
"""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from runtime.api.protocol import ModelRequest, Text, TokenIds, each_of, kind_of, params_of
from runtime.api.requests import Border
from runtime.api.wire import variant, variant_by
from runtime.errors import ContextLengthError

MAX_INPUTS = 2048
MAX_TOTAL_TOKENS = 300_000
"""Of all inputs of a request (OpenAI's limits)."""

Input = Annotated[
    Annotated[Text, variant("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True), variant("texts")]
    | Annotated[TokenIds, variant("tokens")]
    | Annotated[list[TokenIds], Field(max_length=MAX_INPUTS, fail_fast=True), variant("token_lists")],
    variant_by(kind_of),
]


class EmbeddingRequest(ModelRequest):
    """One input or several, as texts or as token ids."""

    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    """Shorter vectors are not offered: few models are trained for them."""

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        """Each by itself."""
        return each_of(self.input)


def prompts_of(request: EmbeddingRequest, border: Border) -> list[tuple[int, ...]]:
    """What the engine reads. Raises RequestError."""
    border.check_makes("embeddings")
    most, inputs = border.limits.context_length, request.inputs
    params = params_of("input", inputs)
    prompts = [border.tokens_of(given, param) for given, param in zip(inputs, params, strict=True)]
    for prompt, param in zip(prompts, params, strict=True):
        if len(prompt) > most:
            raise ContextLengthError(f"this model reads {most} tokens at most; one input has {len(prompt)}", param)
    if (total := sum(map(len, prompts))) > MAX_TOTAL_TOKENS:
        raise ContextLengthError(f"the inputs have {total} tokens; at most {MAX_TOTAL_TOKENS} go together", "input")
    return prompts


def embeddings_body(request: EmbeddingRequest, model: str, vectors: Sequence[Sequence[float]], tokens: int) -> Any:
    """As OpenAI writes it."""
    as_text = request.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_text else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    """Little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
