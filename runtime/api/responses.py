"""The wire: answers as OpenAI's clients read them."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.application import ModelCard
from runtime.errors import LLMServeError, RequestError, http_error

Finish = Literal["stop", "length"]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. The last one has `finish`."""

    text: str
    tokens: int
    """Tokens of the answer so far."""
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request."""

    prompt: int
    answer: int

    def body(self) -> Body:
        """As OpenAI writes it."""
        total = self.prompt + self.answer
        return {"prompt_tokens": self.prompt, "completion_tokens": self.answer, "total_tokens": total}


@dataclass(frozen=True, slots=True)
class Shape:
    """How one route writes answers: its object names, and where a choice keeps its text."""

    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish: Finish | None, usage: Usage) -> Body:
        """The answer to a request without `stream`."""
        content: Body = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {**self._head(streamed=False), "choices": [choice], "usage": usage.body()}

    def opening(self) -> Body:
        """A chat stream's first chunk, which says who speaks."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def chunk(self, delta: Delta) -> Body:
        """One piece of a stream."""
        if not self.chat:
            return self._chunk({"text": delta.text}, delta.finish)
        return self._chunk({"delta": {"content": delta.text} if delta.text else {}}, delta.finish)

    def usage_chunk(self, usage: Usage) -> Body:
        """A stream's last chunk, where the client asked for it."""
        return {**self._head(streamed=True), "choices": [], "usage": usage.body()}

    def _chunk(self, content: Body, finish: Finish | None) -> Body:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {**self._head(streamed=True), "choices": [choice]}

    def _head(self, *, streamed: bool) -> Body:
        if not self.chat:
            prefix, name = "cmpl", "text_completion"
        else:
            prefix, name = "chatcmpl", "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}


def model_entry(model_id: str, card: ModelCard) -> Body:
    """A model in /v1/models: OpenAI's fields and ours."""
    entry: Body = {"id": model_id, "object": "model", "created": 0, "owned_by": model_id.partition("/")[0]}
    return entry | card.model_dump(exclude_none=True)


def error_body(error: LLMServeError) -> Body:
    """An error in OpenAI's shape."""
    row = http_error(error)
    param = error.param if isinstance(error, RequestError) else None
    return {"error": {"message": str(error), "type": row.type, "param": param, "code": row.code}}


def error_headers(error: LLMServeError) -> Mapping[str, str]:
    """When to come back, where that makes sense."""
    seconds = http_error(error).retry_after_s
    return {} if seconds is None else {"retry-after": str(seconds)}
