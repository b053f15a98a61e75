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

Finish = Literal["stop", "length", "tool_calls"]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call: first its id and name, then its arguments."""

    index: int
    """Which of the answer's calls."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""


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
    calls: tuple[CallPiece, ...] = ()


def joined(pieces: Sequence[Delta]) -> Delta:
    """All pieces of one answer."""
    text, scores = "".join(each.text for each in pieces), tuple(chain.from_iterable(each.scores for each in pieces))
    calls = tuple(chain.from_iterable(each.calls for each in pieces))
    return replace(pieces[-1], text=text, scores=scores, calls=calls)


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
    tools: bool = False
    """Whether an answer may be tool calls, and no content."""
    usage: bool = False
    """Whether a stream's last chunk tells of it: the others then say that they do not."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Delta], usage: Usage) -> Body:
        """The answers, each in one piece, to a request without `stream`."""
        choices = []
        for each in answers:
            content = {"message": _message(each)} if self.chat else {"text": each.text}
            choices.append(self._choice(each, content, with_logprobs=self.logprobs))
        return {**self._head(streamed=False), "choices": choices, "usage": usage.body()}

    def opening(self, index: int) -> Body:
        """A chat stream's first chunk for each answer, which says who speaks."""
        delta = {"delta": {"role": "assistant", "content": None if self.tools else ""}}
        return {**self._head(streamed=True), "choices": [self._choice(Delta("", 0, index=index), delta)]}

    def chunks(self, delta: Delta) -> list[Body]:
        """One piece of a stream. The end comes by itself behind calls: clients wait for it to say that one is whole."""
        if not (delta.calls and delta.finish):
            return [self._chunk(delta)]
        end = Delta("", delta.tokens, delta.finish, index=delta.index)
        return [self._chunk(replace(delta, finish=None)), self._chunk(end)]

    def _chunk(self, delta: Delta) -> Body:
        text: Body = {"text": delta.text}
        if self.chat:
            content = {"content": delta.text} if delta.text else {}
            calls = {"tool_calls": _tool_calls(delta.calls, streamed=True)} if delta.calls else {}
            text = {"delta": content | calls}
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
        later = {"usage": None} if streamed and self.usage else {}
        return {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model, **later}


def _message(answer: Delta) -> Body:
    if not answer.calls:
        return {"role": "assistant", "content": answer.text, "refusal": None}
    calls = _tool_calls(answer.calls, streamed=False)
    return {"role": "assistant", "content": answer.text or None, "refusal": None, "tool_calls": calls}


def _tool_calls(pieces: Sequence[CallPiece], *, streamed: bool) -> list[Body]:
    """The calls that the pieces are of, each of them once: clients that add up a stream want it so."""
    calls: dict[int, Body] = {}
    for piece in pieces:
        call = calls.setdefault(piece.index, {"index": piece.index} if streamed else {})
        if piece.id is not None:
            call |= {"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": ""}}
        function = call.setdefault("function", {"arguments": ""})
        function["arguments"] += piece.arguments
    return list(calls.values())


def _chat_logprobs(scores: Sequence[Score]) -> Body:
    content = [
        _token(score.label, score.logprob) | {"top_logprobs": [_token(*each) for each in score.top]}
        for score in scores
        if score.logprob is not None  # a chat echoes no prompt
    ]
    return {"content": content, "refusal": None}


def _token(label: bytes, logprob: float) -> Body:
    return {"token": label.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(label)}


def _completion_logprobs(scores: Sequence[Score]) -> Body:
    tops: list[dict[str, float] | None] = []
    for score in scores:
        if score.logprob is None:
            tops.append(None)
            continue
        top: dict[str, float] = {}
        for label, logprob in (*score.top, (score.label, score.logprob)):  # pieces of characters may look the same
            top.setdefault(label.decode("utf-8", "replace"), _finite(logprob))
        tops.append(top)
    return {
        "tokens": [score.label.decode("utf-8", "replace") for score in scores],
        "token_logprobs": [None if score.logprob is None else _finite(score.logprob) for score in scores],
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


INTERNAL_ERROR: Body = {
    "error": {"message": "internal error", "type": "server_error", "param": None, "code": "internal_error"}
}
"""What clients see of a bug of ours."""


def error_headers(error: LLMServeError) -> Mapping[str, str]:
    """When to come back, where that makes sense."""
    seconds = error.retry_after_s if isinstance(error, RateLimitError) else http_error(error).retry_after_s
    return {} if seconds is None else {"retry-after": str(seconds)}
