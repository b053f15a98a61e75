"""What an engine is to the rest of the runtime. Engines speak tokens; text, stops and HTTP exist once, above them."""

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self, cast

from runtime.application import ModelArguments
from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the text of an answer must match, from its beginning to its end. Control tokens are no part of it."""

    kind: Literal["json_schema", "lark"]
    """How `text` says it: as a JSON schema (with llguidance's `x-guidance`), or as a grammar in its dialect of Lark."""
    text: str
    source: str = field(default="response_format", compare=False)
    """The field of the request that it comes from, for errors."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the tokens of one answer. Every value is in range; ranges are the border's business."""

    max_new_tokens: int
    """0: the prompt is read, and that is all."""
    min_new_tokens: int = 0
    temperature: float = 1.0
    """0: always the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens, and what is added to their logits before anything else."""
    logprobs: int | None = None
    """Give each token as a ScoredToken with so many of the most likely ones; None: as a plain number."""
    owner: str = ""
    """Whose request it is. What an engine has kept of one owner's is of no use to another: that would show in the
    time of an answer who has asked what."""
    constraint: Constraint | None = None
    """Only tokens that keep to it are chosen, and the end token only where it allows an end: so no `min_new_tokens`."""
    adapter: str | None = None
    """One of the initializer's `adapters`, which the model answers with."""
    echo: bool = False
    """Give the prompt's tokens too, from the second on (nothing comes before the first), and an EndToken, all scored;
    needs `logprobs`."""


class ScoredToken(int):
    """A token with natural log-probabilities by the model alone: before biases, penalties, temperature and cuts.

    vLLM's are after its constraint.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely tokens, the best one first."""

    def __new__(cls, token: int, logprob: float, top: tuple[tuple[int, float], ...]) -> Self:
        scored = super().__new__(cls, token)
        scored.logprob, scored.top = logprob, top
        return scored

    def __getnewargs__(self) -> tuple[int, float, tuple[tuple[int, float], ...]]:  # type: ignore[override]
        return int(self), self.logprob, self.top


class EndToken(ScoredToken):
    """The model's end token: the last of an answer that echoes its prompt, where there is room for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded model can take."""

    context_length: int
    """Tokens of prompt and answer together."""
    vocabulary_size: int
    """Token ids are below this."""
    embeds: bool = False
    """It turns prompts into vectors, and answers nothing; all others answer, and make no vectors."""
    logprobs: int = 20
    """The most likely tokens that can be told of at each place."""
    least_new_tokens: int = 0
    """What the context must have room for behind a prompt, though no answer is asked for."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests share the model."""

    max_size: int
    """Slots: sequences that are generated at the same time."""
    wait_s: float = 0.0
    """How long an idle engine waits for more of them before it starts."""


class Tokenizer(ABC):
    """Text to tokens and back, as the model was trained."""

    chat_template: str | None
    """The model's own Jinja2 template; None where it has none."""
    tool_template: str | None = None
    """The one for conversations with tools, of models that have two."""
    special_tokens: dict[str, str]
    """Names that chat templates know (`bos_token`, `eos_token`) and their text."""

    @abstractmethod
    def encode(self, text: str, *, start: bool = True) -> list[int]:
        """Tokens of a prompt. Special tokens in it are recognised; `start` adds those that the model wants."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a prompt, control tokens by their names. What is not UTF-8 becomes U+FFFD."""

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """UTF-8 bytes of one token: perhaps a part of a character; empty for control tokens."""

    @abstractmethod
    def label(self, token: int) -> bytes:
        """As `piece`, but control tokens by their names, such as `<|im_end|>`."""


class Engine(ABC):
    """A loaded model. All methods are called on one event loop.

    `limits.embeds` says whether it has `embed` or else `generate`.
    """

    tokenizer: Tokenizer
    limits: Limits

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        """The tokens of an answer as they are ready, one or more at a time, without the end token unless it echoes.

        The first list may be empty: it says that the answer has a slot now.
        It ends at the model's end token or after `max_new_tokens`. Closing it frees the slot. Requests beyond
        the slots wait. Raises EngineError.
        """
        raise NotImplementedError

    async def embed(self, prompt: Sequence[int]) -> Sequence[float]:
        """The vector of a prompt. Prompts that wait at the same time are read together. Raises EngineError."""
        raise NotImplementedError

    async def check(self, constraint: Constraint) -> None:
        """Return when answers can be made to match it, in time that is bounded. Raises GrammarError."""
        raise NotImplementedError

    @abstractmethod
    async def configure(self, batching: Batching) -> None:
        """Batch like this, once running answers allow it; requests that come meanwhile wait. Raises EngineError."""

    async def cache_use(self) -> float | None:
        """Share of the KV cache that running answers have filled, 0 to 1; None: nobody knows. Raises EngineError."""
        return None

    @abstractmethod
    async def check_health(self) -> None:
        """Return when the engine's loop has answered. Raises EngineError when it never will."""

    @abstractmethod
    async def close(self) -> None:
        """End running answers with EngineError and free the memory. May be called twice."""


def load(arguments: ModelArguments, folder: Path, batching: Batching, meeting: str | None = None) -> Engine:
    """Load the model with the engine that its registry file names. Blocks. Raises ConfigError.

    `folder`: the model's files. `meeting`: the address at which the engine's other workers join this one, which follow
    it; where there is none, an engine that has others starts them in this machine's processes.
    """
    engine = arguments.initialization.engine
    met = {"meeting": meeting} if meeting else {}
    loaded: Engine = _imported(engine.loader, arguments)(arguments, folder, batching, **met)
    return loaded


def follow(arguments: ModelArguments, folder: Path, rank: int, meeting: str) -> None:
    """Be a worker besides the first, until that one closes the engine. Raises RuntimeError when it is gone."""
    follower = arguments.initialization.engine.follower
    assert follower is not None
    _imported(follower, arguments)(arguments, folder, rank, meeting)


def meeting_place(host: str) -> str:
    """An address of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind((host, 0))
        return f"{host}:{free.getsockname()[1]}"


def _imported(name: str, arguments: ModelArguments) -> Callable[..., Any]:
    """`module:function`. Raises ConfigError where a library is missing."""
    module, _, function = name.partition(":")
    for variable, value in arguments.initialization.engine.environment:
        os.environ.setdefault(variable, value)
    try:
        return cast(Callable[..., Any], getattr(import_module(module), function))
    except ModuleNotFoundError as error:
        engine = arguments.initialization.engine.name
        problem = f"{engine} needs the package {error.name!r}, which this node does not have"
        raise ConfigError("model_config.initialization.initializer.type", arguments.declared_in, problem) from error
