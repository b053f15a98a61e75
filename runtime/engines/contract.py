"""What an engine is to the rest of the runtime. Engines speak tokens; text, stops and HTTP exist once, above them."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from runtime.application import ModelArguments
from runtime.engines.spec import EngineSpec
from runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the tokens of one answer. Every value is in range; ranges are the border's business."""

    max_new_tokens: int
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


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded model can take."""

    context_length: int
    """Tokens of prompt and answer together."""
    vocabulary_size: int
    """Token ids are below this."""


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
    special_tokens: dict[str, str]
    """Names that chat templates know (`bos_token`, `eos_token`) and their text."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Tokens of a prompt. Special tokens in it are recognised; a start token that the model wants is added."""

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """UTF-8 bytes of one token: perhaps a part of a character; empty for control tokens."""


class Engine(ABC):
    """A loaded model. All methods are called on one event loop."""

    tokenizer: Tokenizer
    limits: Limits

    @abstractmethod
    def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        """The tokens of an answer as they are ready, one or more at a time, without the end token.

        It ends at the model's end token or after `max_new_tokens`. Closing it frees the slot. Requests beyond
        the slots wait. Raises EngineError.
        """

    @abstractmethod
    async def configure(self, batching: Batching) -> None:
        """Batch like this, once running answers allow it; requests that come meanwhile wait. Raises EngineError."""

    @abstractmethod
    async def check_health(self) -> None:
        """Return when the engine's loop has answered. Raises EngineError when it never will."""

    @abstractmethod
    async def close(self) -> None:
        """End running answers with EngineError and free the memory. May be called twice."""


Loader = Callable[[ModelArguments, Path, Batching], Engine]
"""(arguments, folder with the model's files, batching) -> a loaded engine. Blocks. Raises ConfigError."""


def load(arguments: ModelArguments, folder: Path, batching: Batching) -> Engine:
    """Load the model with the engine that its registry file names."""
    engine = arguments.initialization.engine
    return _loader(engine, arguments)(arguments, folder, batching)


def _loader(engine: EngineSpec, arguments: ModelArguments) -> Loader:
    field = "model_config.initialization.initializer.type"
    if engine.loader is None:
        raise ConfigError(field, arguments.declared_in, f"this version cannot run {engine.name} yet")
    module, function = engine.loader.split(":")
    try:
        return cast(Loader, getattr(import_module(module), function))
    except ModuleNotFoundError as error:
        problem = f"{engine.name} needs the package {error.name!r}, which this node does not have"
        raise ConfigError(field, arguments.declared_in, problem) from error
