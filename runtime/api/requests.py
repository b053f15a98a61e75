"""The border: wire requests become valid requests, and nothing else reaches an engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from runtime.access.visit import current_visit
from runtime.api.calls import calls_asked_for, forced_by, known_format, messages_of
from runtime.api.formats import constraint_of
from runtime.api.messages import ChatMessage
from runtime.api.protocol import (
    MAX_ANSWERS_TOGETHER,
    MAX_SCORED_TOKENS,
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    ModelRequest,
    params_of,
)
from runtime.application import ModelSettings
from runtime.engines.contract import Limits, Sampling, Tokenizer
from runtime.errors import ContextLengthError, RequestError
from runtime.schema.generation import SEEDS, GenerateKwargs, StopSequence
from runtime.text.calls import Calls
from runtime.text.prompt import ChatTemplate, format_instructions
from runtime.text.tools import Tool
from runtime.text.transcript import NO_ECHO, Echo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """A prompt that the engine can answer."""

    prompt: tuple[int, ...]
    sampling: Sampling
    stops: tuple[StopSequence, ...]
    n: int = 1
    """Answers."""
    echo: Echo = NO_ECHO
    """What each begins with."""
    calls: Calls | None = None
    """The tool calls that they may be."""

    @property
    def marks(self) -> frozenset[bytes]:
        """Control tokens that are a part of what is read."""
        return frozenset() if self.calls is None else self.calls.format.marks

    def sampled(self, number: int) -> "ValidRequest":
        """One of the answers: with the same seed, all would be the same."""
        if self.sampling.seed is None:
            return self
        return replace(self, sampling=replace(self.sampling, seed=(self.sampling.seed + number) % SEEDS))


@dataclass(frozen=True, slots=True)
class Border:
    """Parses for one loaded model under its present settings."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    limits: Limits
    settings: ModelSettings
    adapters: tuple[str, ...] = ()

    def check_offered(self, request: ModelRequest) -> None:
        """Raises RequestError where a field asks for what is not offered."""
        if name := request.refused():
            raise RequestError(f"{name}: this server does not offer it; leave it out", name)

    def check_makes(self, asked: Literal["answers", "embeddings"]) -> None:
        """Raises RequestError when the model is of the other kind."""
        if self.limits.embeds and asked == "answers":
            raise RequestError("this model makes embeddings and answers nothing: use /v1/embeddings", "model")
        if not self.limits.embeds and asked == "embeddings":
            raise RequestError("this model makes no embeddings: use /v1/chat/completions or /v1/completions", "model")

    def chat(self, request: ChatRequest) -> ValidRequest:
        """Raises RequestError."""
        self.check_makes("answers")
        if request.top_logprobs is not None and not request.logprobs:
            raise RequestError("top_logprobs needs `logprobs: true`", "top_logprobs")
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        max_tokens = request.max_completion_tokens or request.max_tokens
        calls = calls_asked_for(request, self.template, self.settings.generation)
        text = self.prompt_of(request.messages, calls.tools if calls else ())
        if calls is None or not calls.forced:
            return replace(self._valid(text, request, max_tokens, logprobs, "messages"), calls=calls)
        valid = self._valid(text + calls.format.forced, request, max_tokens, logprobs, "messages")
        sampling = replace(valid.sampling, constraint=forced_by(calls), min_new_tokens=0)
        return replace(valid, calls=calls, sampling=sampling)

    def prompt_of(self, conversation: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        """The text that makes the model answer. Raises RequestError."""
        messages = messages_of(conversation, self.template, self.settings.generation)
        prompt_format = self.settings.generation.prompt_format
        if prompt_format:
            return format_instructions(prompt_format, messages)
        if self.template is None:
            problem = "this model has neither a chat template nor a `prompt_format`: use /v1/completions"
            raise RequestError(problem, "messages")
        return self.template.render(messages, tools, known_format(self.template, self.settings.generation))

    def completion(self, request: CompletionRequest) -> list[ValidRequest]:
        """One for each prompt. Raises RequestError."""
        self.check_makes("answers")
        if request.max_tokens == 0 and not request.echo:
            raise RequestError("max_tokens: 0 leaves nothing to answer without `echo: true`", "max_tokens")
        prompts = request.prompts
        if (answers := len(prompts) * (request.n or 1)) > MAX_ANSWERS_TOGETHER:
            problem = f"n: the prompts have {answers} answers together; at most {MAX_ANSWERS_TOGETHER} are given"
            raise RequestError(problem, "n")
        params = params_of("prompt", prompts)
        valid = [self._completion(prompt, request, param) for prompt, param in zip(prompts, params, strict=True)]
        if (scored := sum(each.n * len(each.echo.tokens) for each in valid)) > MAX_SCORED_TOKENS:
            problem = f"the echoes have {scored} tokens; at most {MAX_SCORED_TOKENS} are scored together"
            raise RequestError(problem, "prompt")
        return valid

    def _completion(self, prompt: str | Sequence[int], request: CompletionRequest, param: str) -> ValidRequest:
        valid = self._valid(prompt, request, request.max_tokens, request.logprobs, param)
        if not request.echo:
            return valid
        text = self.text_of(prompt)
        if request.logprobs is None:
            return replace(valid, echo=Echo(text))
        return replace(valid, sampling=replace(valid.sampling, echo=True), echo=Echo(text, valid.prompt))

    def tokens_of(self, prompt: str | Sequence[int], param: str) -> tuple[int, ...]:
        """A prompt's tokens. Raises RequestError where it has none, or some that the model does not know."""
        tokens = tuple(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        if not tokens:
            raise RequestError("the prompt is empty", param)
        self.check_tokens(tokens, param)
        return tokens

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raises RequestError where the model does not know one."""
        size, most = self.limits.vocabulary_size, max(tokens, default=0)
        if most >= size:
            raise RequestError(f"this model's tokens are below {size}, and one is {most}", param)

    def text_of(self, prompt: str | Sequence[int]) -> str:
        """A prompt as text; its tokens are the model's."""
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _valid(
        self,
        prompt: str | Sequence[int],
        request: GenerateRequest,
        max_tokens: int | None,
        logprobs: int | None,
        param: str,
    ) -> ValidRequest:
        self._check(request)
        if logprobs is not None and logprobs > (most := self.limits.logprobs):
            name = "top_logprobs" if isinstance(request, ChatRequest) else "logprobs"
            raise RequestError(f"{name}: this model gives at most {most}", name)
        tokens = self.tokens_of(prompt, param)
        words = self.settings.max_input_words
        if words is not None and (given := len(self.text_of(prompt).split())) > words:
            raise ContextLengthError(f"the prompt has {given} words; this model takes at most {words}", param)
        defaults = self.settings.generation.generate_kwargs
        room = self._room(len(tokens), max_tokens, param)
        wanted = defaults.max_new_tokens if max_tokens is None else max_tokens
        if max_tokens is not None and (request.min_tokens or 0) > max_tokens:
            problem = f"min_tokens ({request.min_tokens}) is above the answer's longest length ({max_tokens})"
            raise RequestError(problem, "min_tokens")
        sampling = _sampling(request, defaults, min(wanted, room), logprobs)
        if constraint := constraint_of(request.response_format):
            sampling = replace(sampling, constraint=constraint, min_new_tokens=0)
        requested = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return ValidRequest(
            prompt=tokens,
            sampling=replace(sampling, adapter=request.model if request.model in self.adapters else None),
            stops=(*self.settings.generation.stopping_sequences, *requested, *(request.stop_token_ids or ())),
            n=request.n or 1,
        )

    def _check(self, request: GenerateRequest) -> None:
        """What no value by itself shows. Raises RequestError."""
        if request.min_tokens and request.response_format and request.response_format.type != "text":
            problem = "min_tokens cannot go with response_format, which says where the answer may end"
            raise RequestError(problem, "min_tokens")
        if request.best_of not in (None, request.n or 1):
            raise RequestError("best_of: every answer that is made is given; make it what `n` is", "best_of")
        size = self.limits.vocabulary_size
        if any(int(token) >= size for token in request.logit_bias or ()):
            raise RequestError(f"logit_bias: this model's tokens are below {size}", "logit_bias")

    def _room(self, prompt: int, max_tokens: int | None, param: str) -> int:
        """Tokens left for the answer. Asking for more than that is refused, a default that is more is cut."""
        context = self.limits.context_length
        wanted = 1 if max_tokens is None else max(max_tokens, self.limits.least_new_tokens)
        if prompt + wanted > context:
            raise ContextLengthError(
                f"this model's maximum context length is {context} tokens; the request needs {prompt + wanted}: "
                f"{prompt} of the prompt and {wanted} of the answer",
                param,
            )
        return context - prompt


def _sampling(
    request: GenerateRequest, defaults: GenerateKwargs, max_new_tokens: int, logprobs: int | None
) -> Sampling:
    """The request's values over the registry's."""

    def chosen(requested: T | None, default: T) -> T:
        return default if requested is None else requested

    greedy = not defaults.do_sample and request.temperature is None
    return Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min(chosen(request.min_tokens, defaults.min_new_tokens), max_new_tokens),
        temperature=0.0 if greedy else chosen(request.temperature, defaults.temperature),
        top_p=chosen(request.top_p, defaults.top_p),
        top_k=chosen(request.top_k, defaults.top_k),
        min_p=chosen(request.min_p, defaults.min_p),
        repetition_penalty=chosen(request.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=chosen(request.presence_penalty, defaults.presence_penalty),
        frequency_penalty=chosen(request.frequency_penalty, defaults.frequency_penalty),
        seed=chosen(request.seed, defaults.seed),
        logit_bias=tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items()),
        logprobs=logprobs,
        owner=current_visit().owner,
    )
