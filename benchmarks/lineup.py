"""The sides of a table: engines in this process, libraries and servers in others."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.answers import TOKENS, Answer, Side, collect
from benchmarks.bare import Library, Tokens
from benchmarks.servers import Command, UnavailableError, free_port, http_side, running, serving
from demo.model import REPOSITORY
from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, Sampling, Tokenizer, load
from runtime.text.prompt import ChatTemplate, Message

AnswerTokens = Callable[[Sequence[list[int]], Tokenizer], Awaitable[list[Answer]]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about the sides."""

    threads: int
    quantised: bool
    gpu: bool
    """Every side computes on one."""
    dtype: str
    """Of what is not llama.cpp."""

    @property
    def device(self) -> str:
        """As PyTorch calls it."""
        return "cuda" if self.gpu else "cpu"


class Lineup:
    """Collects sides; all of them end with the stack."""

    def __init__(self, stack: AsyncExitStack, options: Options) -> None:
        self.stack, self.options = stack, options
        self.sides: list[Side] = []

    def engine(self, name: str, initializer: Mapping[str, Any], folder: Path, slots: int, workers: int = 1) -> Engine:
        """Our engine in this process."""
        print(f"loading {name}", flush=True)
        engine = load(self.arguments(initializer, workers), folder, Batching(slots))
        self.stack.push_async_callback(engine.close)

        async def answer(prompts: Sequence[list[int]], tokenizer: Tokenizer) -> list[Answer]:
            asked = time.perf_counter()
            return await asyncio.gather(*(collect(asked, _pieces(engine, tokenizer, prompt)) for prompt in prompts))

        self._takes_tokens(name, answer, engine.tokenizer)
        return engine

    def library(
        self, name: str, make: Callable[[], Library], tokenizer: Tokenizer, ours: str, most: int | None = None
    ) -> None:
        """What `make` makes, in a process of its own."""
        spawn = get_context("spawn")
        process = self.stack.enter_context(
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_make, initargs=(make,))
        )

        async def answer(prompts: Sequence[list[int]], tokenizer: Tokenizer) -> list[Answer]:
            asked = time.perf_counter()
            answers = await asyncio.get_running_loop().run_in_executor(process, _answers, prompts)
            return [Answer(_text(tokens, tokenizer), asked, times) for tokens, times in answers]

        self._takes_tokens(name, answer, tokenizer, ours, most)

    def _takes_tokens(
        self, name: str, answer: AnswerTokens, tokenizer: Tokenizer, ours: str | None = None, most: int | None = None
    ) -> None:
        template = ChatTemplate(tokenizer.chat_template or "", tokenizer.special_tokens)

        async def answer_questions(questions: Sequence[str]) -> list[Answer]:
            prompts = [tokenizer.encode(template.render([Message("user", question)])) for question in questions]
            return await answer(prompts, tokenizer)

        self.sides.append(Side(name, answer_questions, ours, most))

    async def replica(self, name: str, initializer: Mapping[str, Any], folder: Path, slots: int) -> None:
        """Our engine behind our replica's own HTTP, in another process."""
        settings = {"generation": {"max_batch_size": slots}, "max_waiting_requests": 64}
        arguments = self.arguments(initializer).model_dump(mode="json", by_alias=True, exclude_unset=True)
        options = {"folder": str(folder), "arguments": arguments, "settings": settings}
        await self._server(name, None, lambda port: serving("ours", port, options))

    async def peer(self, name: str, ours: str, start: Callable[[int], Command]) -> None:
        """A server of others, that `start` gives the command of; one that cannot be had is left out, and it says so."""
        try:
            await self._server(name, ours, start)
        except UnavailableError as error:
            print(f"skipped {name}: {error}", flush=True)

    async def _server(self, name: str, ours: str | None, start: Callable[[int], Command]) -> None:
        print(f"starting {name}", flush=True)
        port = free_port()
        command = start(port)
        url = await self.stack.enter_async_context(running(name, command, port))
        await self.address(name, url, ours, command.body)

    async def address(self, name: str, url: str, ours: str | None = None, more: Mapping[str, Any] = {}) -> None:
        """A server that runs."""
        self.sides.append(await self.stack.enter_async_context(http_side(name, url, ours, more)))

    def arguments(self, initializer: Mapping[str, Any], workers: int = 1) -> ModelArguments:
        """Of a model with this `initializer` section."""
        return ModelArguments.model_validate(
            {
                "name": "benchmark",
                "declared_in": "benchmarks/sections.py",
                "model_id": REPOSITORY,
                "initialization": {"initializer": dict(initializer)},
                "scaling_config": {
                    "num_workers": workers,
                    "num_cpus_per_worker": max(1, self.options.threads // workers),
                    "num_gpus_per_worker": int(self.options.gpu),
                },
            }
        )


async def _pieces(engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int]) -> AsyncIterator[tuple[str, int]]:
    """Text and tokens so far of an answer, as they come."""
    tokens: list[int] = []
    async with aclosing(engine.generate(prompt, Sampling(max_new_tokens=TOKENS, temperature=0))) as batches:
        async for batch in batches:
            if batch:  # an empty one says that the request has a slot
                tokens += batch
                yield "", len(tokens)
    yield _text(tokens, tokenizer), len(tokens)


def _text(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    return b"".join(map(tokenizer.piece, tokens)).decode("utf-8", "replace")


_made: list[Library] = []
"""The library, in its process."""


def _make(make: Callable[[], Library]) -> None:
    _made.append(make())


def _answers(prompts: Sequence[Sequence[int]]) -> list[Tokens]:
    return _made[0].answer(prompts)
