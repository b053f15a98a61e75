"""A scripted engine: exact tokens, delays and faults, without a model."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import httpx

from runtime.application import ModelArguments, ModelSettings
from runtime.engines.contract import Batching, Constraint, EndToken, Engine, Limits, Sampling, ScoredToken, Tokenizer
from runtime.errors import EngineError, GrammarError

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


class ByteTokenizer(Tokenizer):
    """A token is a byte."""

    chat_template = TEMPLATE
    special_tokens = {"bos_token": "<s>"}

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.label, tokens)).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def label(self, token: int) -> bytes:
        return self.piece(token)


class ScriptedEngine(Engine):
    """Answers with `script`, in batches as written; an exception in it is raised there.

    Each token's logprob is minus a hundredth of it, and the most likely ones are those below it.
    """

    def __init__(self) -> None:
        self.tokenizer = ByteTokenizer()
        self.limits = Limits(context_length=100, vocabulary_size=256)
        self.script: list[bytes | Exception | asyncio.Event] = [b"Hello", b" world"]
        self.scripts: dict[int, list[bytes | Exception | asyncio.Event]] = {}
        """Those of single requests, by their number."""
        self.requests: list[tuple[Sequence[int], Sampling]] = []
        self.checked: list[Constraint] = []
        self.grammar_problem = ""
        self.ends_with: int | None = None
        """The end token, where answers with an echo tell of it."""
        self.running = 0
        self.slots = 0
        self.healthy = True

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        script = self.scripts.get(len(self.requests), self.script)
        self.requests.append((prompt, sampling))
        self.running += 1
        left = sampling.max_new_tokens
        try:
            if sampling.echo:
                yield [_scored(token, sampling.logprobs) for token in prompt[1:]]
            for step in script if left else ():
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                    continue
                yield [_scored(token, sampling.logprobs) for token in step[:left]]
                left -= len(step)
                if left <= 0:
                    return
            if left and sampling.echo and self.ends_with is not None:
                yield [EndToken(self.ends_with, -1.0, ())]
        finally:
            self.running -= 1

    async def check(self, constraint: Constraint) -> None:
        self.checked.append(constraint)
        if self.grammar_problem:
            raise GrammarError(self.grammar_problem)

    async def configure(self, batching: Batching) -> None:
        self.slots = batching.max_size

    async def cache_use(self) -> float:
        return 0.25

    async def check_health(self) -> None:
        if not self.healthy:
            raise EngineError("the engine has stopped")

    async def close(self) -> None:
        self.healthy = False


def _scored(token: int, count: int | None) -> int:
    if count is None:
        return token
    return ScoredToken(token, -token / 100, tuple((token - n, -n / 100) for n in range(1, count + 1)))


def arguments_for(initializer: dict, **more) -> ModelArguments:
    """Arguments of a model `acme/model` declared in `registry/acme--model.yaml`."""
    plain = {
        "name": "acme--model",
        "declared_in": "registry/acme--model.yaml",
        "model_id": "acme/model",
        "initialization": {"initializer": initializer, **more.pop("initialization", {})},
        "scaling_config": {"num_cpus_per_worker": 1.0, "num_gpus_per_worker": 0.0},
    }
    return ModelArguments.model_validate(plain | more)


def settings_for(max_waiting_requests: int = 2, max_input_words: int | None = None, **generation) -> ModelSettings:
    """Settings with the given generation config."""
    generation = {"max_batch_size": 2, **generation}
    plain = {"generation": generation, "max_waiting_requests": max_waiting_requests}
    return ModelSettings.model_validate(plain | {"max_input_words": max_input_words})


async def first_token(answer: AsyncGenerator[list[int], None]) -> None:
    """Wait for its first token."""
    while not await anext(answer):
        pass


def events(response: httpx.Response) -> list:
    """The events of a stream, [DONE] as it stands; heartbeats are none."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line and line[0] != ":"]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
