"""The wire: answers as OpenAI's clients read them."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

from runtime.application import ModelCard
from runtime.errors import LLMServeError, RateLimitError, RequestError, http_error
from runtime.text.transcript import Score

Finish = Literal["stop", "length"]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. The last one has `finish`."""

    text: str
    tokens: int
    """Tokens of the answer so far."""
    finish: Finish | None = None
    scores: tuple[Score, ...] = ()
    """Tokens of the text, where the request asked for logprobs."""
    index: int = 0
    """Which of the request's answers."""


def joined(pieces: Sequence[Delta]) -> Delta:
    """All pieces of one answer."""
    text, scores = "".join(each.text for each in pieces), tuple(chain.from_iterable(each.scores for each in pieces))
    return replace(pieces[-1], text=text, scores=scores)


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
    logprobs: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Delta], usage: Usage) -> Body:
        """The answers, each in one piece, to a request without `stream`."""
        choices = []
        for each in answers:
            content: Body = (
                {"message": {"role": "assistant", "content": each.text}} if self.chat else {"text": each.text}
            )
            choices.append(self._choice(each, content, with_logprobs=self.logprobs))
        return {**self._head(streamed=False), "choices": choices, "usage": usage.body()}

    def opening(self, index: int) -> Body:
        """A chat stream's first chunk for each answer, which says who speaks."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        return {**self._head(streamed=True), "choices": [self._choice(Delta("", 0, index=index), delta)]}

    def chunk(self, delta: Delta) -> Body:
        """One piece of a stream."""
        text: Body = {"text": delta.text}
        if self.chat:
            text = {"delta": {"content": delta.text} if delta.text else {}}
        choice = self._choice(delta, text, with_logprobs=bool(delta.scores))
        return {**self._head(streamed=True), "choices": [choice]}

    def usage_chunk(self, usage: Usage) -> Body:
        """A stream's last chunk, where the client asked for it."""
        return {**self._head(streamed=True), "choices": [], "usage": usage.body()}

    def _choice(self, delta: Delta, content: Body, *, with_logprobs: bool = False) -> Body:
        logprobs = None
        if with_logprobs:
            logprobs = _chat_logprobs(delta.scores) if self.chat else _completion_logprobs(delta.scores)
        return {"index": delta.index, **content, "logprobs": logprobs, "finish_reason": delta.finish}

    def _head(self, *, streamed: bool) -> Body:
        if not self.chat:
            prefix, name = "cmpl", "text_completion"
        else:
            prefix, name = "chatcmpl", "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}


def _chat_logprobs(scores: Sequence[Score]) -> Body:
    content = [
        _token(score.label, score.logprob) | {"top_logprobs": [_token(*each) for each in score.top]} for score in scores
    ]
    return {"content": content, "refusal": None}


def _token(label: bytes, logprob: float) -> Body:
    return {"token": label.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(label)}


def _completion_logprobs(scores: Sequence[Score]) -> Body:
    tops = []
    for score in scores:
        top: dict[str, float] = {}
        for label, logprob in (*score.top, (score.label, score.logprob)):  # pieces of characters may look the same
            top.setdefault(label.decode("utf-8", "replace"), _finite(logprob))
        tops.append(top)
    return {
        "tokens": [score.label.decode("utf-8", "replace") for score in scores],
        "token_logprobs": [_finite(score.logprob) for score in scores],
        "top_logprobs": tops,
        "text_offset": [score.offset for score in scores],
    }


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes this instead."""
    return max(logprob, -9999.0)


def model_entry(model_id: str, card: ModelCard, parent: str | None = None) -> Body:
    """A model in /v1/models: OpenAI's fields and ours. `parent`: the model that it is an adapter of."""
    entry: Body = {"id": model_id, "object": "model", "created": 0, "owned_by": (parent or model_id).partition("/")[0]}
    return entry | card.model_dump(exclude_none=True) | ({"parent": parent} if parent else {})


def error_body(error: LLMServeError) -> Body:
    """An error in OpenAI's shape."""
    row = http_error(error)
    param = error.param if isinstance(error, RequestError) else None
    return {"error": {"message": str(error), "type": row.type, "param": param, "code": row.code}}


def error_headers(error: LLMServeError) -> Mapping[str, str]:
    """When to come back, where that makes sense."""
    seconds = error.retry_after_s if isinstance(error, RateLimitError) else http_error(error).retry_after_s
    return {} if seconds is None else {"retry-after": str(seconds)}
