"""A model whose engine costs next to nothing, for Ray Serve: what it takes is what everything around engines takes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from ray import serve
from ray.serve import Application

from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, Limits, Sampling, Tokenizer
from runtime.replica import Replica
from runtime.serve import Model

PIECE = b" tok"
"""Text of every token."""


class _Tokenizer(Tokenizer):
    chat_template = "{{ messages[0].content }}"
    special_tokens: dict[str, str] = {}

    def encode(self, text: str) -> list[int]:
        return [0] * (len(text) // 4 + 1)

    def decode(self, tokens: Sequence[int]) -> str:
        return PIECE.decode() * len(tokens)

    def piece(self, token: int) -> bytes:  # noqa: ARG002 (they are all the same)
        return PIECE

    def label(self, token: int) -> bytes:
        return self.piece(token)


class FastEngine(Engine):
    """A token every `temperature` hundredths of a second, or as soon as the event loop gets round to it."""

    def __init__(self) -> None:
        self.tokenizer, self.limits = _Tokenizer(), Limits(context_length=1 << 20, vocabulary_size=1)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:  # noqa: ARG002
        for _ in range(sampling.max_new_tokens):
            yield [0]
            await asyncio.sleep(sampling.temperature / 100)

    async def configure(self, batching: Batching) -> None:
        pass

    async def check_health(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def _load(_: ModelArguments, __: Batching) -> Engine:
    return FastEngine()


class FastModel(Model):
    """The replica that every model has, over that engine."""

    def __init__(self, arguments: ModelArguments) -> None:
        super().__init__(arguments)
        self.replica = Replica(arguments, _load, self.replica.metrics)


_Deployment = serve.deployment(serve.ingress()(FastModel), name="Model")


def model(arguments: ModelArguments) -> Application:
    """Builder of its application, in the place of `runtime.serve:model`."""
    return _Deployment.bind(arguments)
