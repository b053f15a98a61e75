"""Batching in flight, seen from the event loop: a model's scheduler has a thread, and its news become streams."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from runtime.engines.contract import Batching, Constraint, Engine, Sampling, Tokenizer
from runtime.engines.grammar.matcher import Grammars
from runtime.engines.scheduler import Admitted, Cancel, Close, Configure, News, Ping, Request, Runner, Scheduler
from runtime.errors import EngineError


class BatchingEngine(Engine):
    """The event loop's side: turns calls into messages, and what the thread posts into streams."""

    def __init__(self, runner: Runner, tokenizer: Tokenizer, batching: Batching) -> None:
        self.tokenizer = tokenizer
        self.limits = runner.limits
        self._grammars = Grammars(tokenizer, runner.limits.vocabulary_size, runner.end_tokens)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduler = Scheduler(runner, batching, self._post)
        self._thread = threading.Thread(target=self._scheduler.run, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        matcher = await self._grammars.matcher(sampling.constraint) if sampling.constraint else None
        request = Request(prompt, sampling, asyncio.Queue(), matcher)
        self._running_loop()
        self._scheduler.send(request)
        try:
            while True:
                items = [await request.answer.get()]
                while not request.answer.empty():  # whatever else is ready goes along
                    items.append(request.answer.get_nowait())
                tokens = [item for item in items if isinstance(item, int)]
                if tokens or isinstance(items[0], Admitted):
                    yield tokens
                if isinstance(items[-1], EngineError):
                    raise items[-1]
                if items[-1] is None:
                    return
        finally:
            with suppress(EngineError):  # a thread that has stopped has forgotten it already
                self._scheduler.send(Cancel(request))

    async def check(self, constraint: Constraint) -> None:
        await self._grammars.matcher(constraint)

    async def configure(self, batching: Batching) -> None:
        await self._ask(Configure(batching, self._running_loop().create_future()))

    async def cache_use(self) -> float | None:
        return self._scheduler.cache_use()

    async def check_health(self) -> None:
        await self._ask(Ping(self._running_loop().create_future()))

    async def close(self) -> None:
        with suppress(EngineError):
            self._scheduler.send(Close())
        await asyncio.to_thread(self._grammars.close)  # it reads the model's vocabulary
        await asyncio.to_thread(self._thread.join)

    async def _ask(self, message: Configure | Ping) -> None:
        self._scheduler.send(message)
        await message.done

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _post(self, news: list[News]) -> None:
        """Called on the thread: hand its news to the event loop."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, news)


def _deliver(news: list[News]) -> None:
    for receiver, item in news:
        if isinstance(receiver, asyncio.Queue):
            receiver.put_nowait(item)
        elif not receiver.done():
            if isinstance(item, EngineError):
                receiver.set_exception(item)
            else:
                receiver.set_result(None)
