"""Embedding: prompts that wait at the same time go through the model together, on one thread."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from runtime.engines.contract import Batching, Engine, Limits, Tokenizer
from runtime.errors import EngineDeadError, EngineError

Vector = list[float]


class Encoder(ABC):
    """A loaded model. One thread calls it."""

    step_tokens: int
    """Most tokens of one call, those that fill up shorter prompts included."""

    @abstractmethod
    def encode(self, prompts: Sequence[Sequence[int]]) -> list[Vector]:
        """A vector for each prompt. Raises EngineError."""

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory."""


class EmbeddingEngine(Engine):
    """Encodes batches of `max_size` prompts at the most, in the order in which they came."""

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, limits: Limits, batching: Batching) -> None:
        self.tokenizer, self.limits = tokenizer, limits
        self._encoder = encoder
        self._size = batching.max_size
        self._thread = ThreadPoolExecutor(1, "engine")
        self._waiting: deque[tuple[Sequence[int], asyncio.Future[Vector]]] = deque()
        self._work: asyncio.Task[None] | None = None
        self._closed = False

    async def embed(self, prompt: Sequence[int]) -> Vector:
        self._check_open()
        vector: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, vector))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._encode_all())
        return await vector

    async def _encode_all(self) -> None:
        """Until nobody waits."""
        while self._waiting:
            batch = self._take()
            vectors = [vector for _, vector in batch]
            try:
                made = await self._on_thread([prompt for prompt, _ in batch])
            except EngineError as error:
                for vector in vectors:
                    if not vector.done():
                        vector.set_exception(error)
                continue
            for vector, value in zip(vectors, made, strict=True):
                if not vector.done():
                    vector.set_result(value)

    def _take(self) -> list[tuple[Sequence[int], asyncio.Future[Vector]]]:
        """The next batch; whoever has given up is left out."""
        batch: list[tuple[Sequence[int], asyncio.Future[Vector]]] = []
        longest = 0
        while self._waiting and len(batch) < self._size:
            prompt, vector = self._waiting[0]
            longest = max(longest, len(prompt))
            if batch and longest * (len(batch) + 1) > self._encoder.step_tokens:
                break
            self._waiting.popleft()
            if not vector.done():
                batch.append((prompt, vector))
        return batch

    async def _on_thread(self, prompts: Sequence[Sequence[int]]) -> list[Vector]:
        if not prompts:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.encode, prompts)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine has stopped")

    async def configure(self, batching: Batching) -> None:
        self._size = batching.max_size

    async def check_health(self) -> None:
        self._check_open()
        await asyncio.get_running_loop().run_in_executor(self._thread, int)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._waiting:
            _, vector = self._waiting.popleft()
            if not vector.done():
                vector.set_exception(EngineDeadError("the engine has stopped"))
        if self._work is not None:
            await self._work
        await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.close)
        self._thread.shutdown()
