"""The llamaCpp engine: the event loop's side of the thread that decodes.

It talks to the thread through an inbox; the thread answers through `call_soon_threadsafe`, once a decode however
many sequences run.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import llama_cpp

from runtime.application import ModelArguments
from runtime.engines.contract import Engine, Limits, Sampling
from runtime.engines.llama_cpp import LlamaCpp, LlamaKwargs
from runtime.engines.llama_cpp.model import Context, GgufTokenizer, Model
from runtime.engines.llama_cpp.worker import Cancel, Close, News, Ping, Request, Resize, Worker
from runtime.errors import ConfigError, EngineError
from runtime.weights.sources import model_file

_INITIALIZER = "model_config.initialization.initializer"


def load(arguments: ModelArguments, folder: Path, max_batch_size: int) -> Engine:
    """The engine table's loader."""
    config = arguments.initialization.initializer
    assert isinstance(config, LlamaCpp)
    field_ = f"{_INITIALIZER}.model_filename"
    path = model_file(folder, config.model_filename, ".gguf", field_, arguments.declared_in)
    options = config.model_init_kwargs
    if options.n_gpu_layers and not llama_cpp.llama_supports_gpu_offload():
        problem = "this node's llama-cpp-python was built without GPU support"
        raise ConfigError(f"{_INITIALIZER}.model_init_kwargs.n_gpu_layers", arguments.declared_in, problem)
    threads = options.n_threads or max(1, round(arguments.scaling_config.num_cpus_per_worker))
    try:
        model = Model(path, options)
    except EngineError as error:
        raise ConfigError(field_, arguments.declared_in, str(error)) from error
    try:
        return LlamaCppEngine(model, options, max_batch_size, threads)
    except EngineError as error:
        model.close()
        raise ConfigError(f"{_INITIALIZER}.model_init_kwargs.n_ctx", arguments.declared_in, str(error)) from error


class LlamaCppEngine(Engine):
    """Turns calls into messages, and what the thread posts into streams."""

    def __init__(self, model: Model, options: LlamaKwargs, slots: int, threads: int) -> None:
        self._model = model
        self._loop: asyncio.AbstractEventLoop | None = None
        make_context = partial(Context, model, options, threads)
        self._worker = Worker(model, make_context, slots, self._post)
        self.tokenizer = GgufTokenizer(model)
        self.limits = Limits(self._worker.context.length, model.vocabulary_size)
        self._thread = threading.Thread(target=self._worker.run, name="llama.cpp", daemon=True)
        self._thread.start()

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        request = Request(prompt, sampling, asyncio.Queue())
        self._running_loop()
        self._worker.send(request)
        try:
            while True:
                items = [await request.answer.get()]
                while not request.answer.empty():  # whatever else is ready goes along
                    items.append(request.answer.get_nowait())
                if tokens := [item for item in items if isinstance(item, int)]:
                    yield tokens
                if isinstance(items[-1], EngineError):
                    raise items[-1]
                if items[-1] is None:
                    return
        finally:
            with suppress(EngineError):  # a thread that has stopped has forgotten it already
                self._worker.send(Cancel(request))

    async def resize(self, max_batch_size: int) -> None:
        await self._ask(Resize(max_batch_size, self._running_loop().create_future()))

    async def check_health(self) -> None:
        await self._ask(Ping(self._running_loop().create_future()))

    async def close(self) -> None:
        with suppress(EngineError):
            self._worker.send(Close())
        await asyncio.to_thread(self._thread.join)
        self._model.close()

    async def _ask(self, message: Resize | Ping) -> None:
        self._worker.send(message)
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
