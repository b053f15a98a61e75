"""POST /v1/embeddings: texts in, vectors out.

Source: OpenAI API reference, "Embeddings".
"""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from runtime.api.protocol import Text, TokenIds, each_of, kind_of
from runtime.api.requests import Border
from runtime.api.wire import Wire, variant, variant_by
from runtime.errors import ContextLengthError, RequestError

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


class EmbeddingRequest(Wire):
    """One input or several, as texts or as token ids."""

    model: Annotated[str, Field(max_length=256)] = ""
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    """Shorter vectors are not offered: few models are trained for them."""
    user: str | None = None

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        """Each by itself."""
        return each_of(self.input)


def prompts_of(request: EmbeddingRequest, border: Border) -> list[tuple[int, ...]]:
    """What the engine reads. Raises RequestError."""
    border.check_makes("embeddings")
    limits, prompts = border.limits, []
    for given in request.inputs:
        prompt = tuple(border.tokenizer.encode(given) if isinstance(given, str) else given)
        if len(prompt) > limits.context_length:
            problem = f"this model reads {limits.context_length} tokens at most; one input has {len(prompt)}"
            raise ContextLengthError(problem, "input")
        if any(token >= limits.vocabulary_size for token in prompt):
            raise RequestError(f"input: this model's tokens are below {limits.vocabulary_size}", "input")
        prompts.append(prompt)
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
