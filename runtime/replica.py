"""One replica: an engine, its text, its limits. Knows nothing of Ray."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice

from runtime.access.visit import current_visit
from runtime.admission import Admission
from runtime.api.requests import Border, ValidRequest
from runtime.api.responses import Delta
from runtime.application import ModelArguments, ModelDetails, ModelSettings
from runtime.deadline import Deadline
from runtime.engines.contract import Batching, Engine, Tokenizer
from runtime.errors import ConfigError, EngineError, GrammarError, RequestError
from runtime.loading import load_model
from runtime.meter import Meter, Observed
from runtime.metrics import CACHE_USE, MODEL_METRICS, Metrics
from runtime.phases import STARTED
from runtime.text.prompt import ChatTemplate
from runtime.text.transcript import Transcript
from runtime.warmup import LIMIT_GPU_S, LIMIT_S, warm_up

_SLOTS = "model_config.generation.max_batch_size"

Load = Callable[[ModelArguments, Batching], Awaitable[Engine]]
"""Loads the model somewhere. Raises ConfigError."""


async def load_here(arguments: ModelArguments, batching: Batching) -> Engine:
    """The model in this process."""
    return await asyncio.to_thread(load_model, arguments, batching)


class Replica:
    """A model that answers. `api.routes.create_app` makes it an HTTP service."""

    def __init__(self, arguments: ModelArguments, load: Load = load_here, metrics: Metrics | None = None) -> None:
        self.model_id = arguments.model_id
        self.adapters = arguments.initialization.initializer.adapters
        self.metrics = metrics or Metrics(MODEL_METRICS)
        self._meter = Meter(self.model_id, self.metrics)
        self._load = load
        self._arguments = arguments
        self._engine: Engine | None = None
        self._template: ChatTemplate | None = None
        self._settings: ModelSettings | None = None
        self._admission = Admission(0)

    @property
    def card(self) -> ModelDetails:
        """What /v1/models says of the model."""
        engine, settings = self._loaded()
        return ModelDetails(
            **dict(settings.card),
            engine=self._arguments.initialization.engine.name,
            max_input_words=settings.max_input_words,
            context_length=engine.limits.context_length,
        )

    async def configure(self, settings: ModelSettings) -> None:
        """Take new settings; the first ones load the model. Raises ConfigError."""
        generation = settings.generation
        batching = Batching(generation.max_batch_size, generation.batch_wait_timeout_s)
        if self._engine is None:
            engine = await self._load(self._arguments, batching)
            if self._arguments.warmup:
                with STARTED.phase("warm_up"):
                    await self._warm_up(engine, batching.max_size)
            STARTED.log(self.model_id)
            self._meter.started(STARTED.seconds)
            self._template = _template_of(engine.tokenizer)
            self._engine = engine
        else:
            await self._reconfigure(self._engine, batching)
        self._settings = settings
        self._admission.limit = batching.max_size + settings.max_waiting_requests

    async def _reconfigure(self, engine: Engine, batching: Batching) -> None:
        try:
            await engine.configure(batching)
        except EngineError as error:
            raise ConfigError(_SLOTS, self._arguments.declared_in, str(error)) from error

    async def _warm_up(self, engine: Engine, slots: int) -> None:
        on_gpu = bool(self._arguments.scaling_config.num_gpus_per_worker)
        try:
            await warm_up(engine, slots, LIMIT_GPU_S if on_gpu else LIMIT_S)
        except EngineError as error:
            await engine.close()
            problem = f"the warm-up with as many answers at once, one of them as long as the context, failed: {error}"
            raise ConfigError(_SLOTS, self._arguments.declared_in, problem) from error

    def border(self) -> Border:
        """What parses requests, under the settings of this moment."""
        engine, settings = self._loaded()
        return Border(engine.tokenizer, self._template, engine.limits, settings, self.adapters)

    async def answer(self, *requests: ValidRequest) -> AsyncGenerator[Delta, None]:
        """The answers in pieces; closing frees their slots.

        They take a place each, but no more than there are slots: those beyond wait for the first to end. Raises
        OverloadedError and RequestError at the first, EngineError and DeadlineError at any.
        """
        _, settings = self._loaded()
        deadline = Deadline(settings.request_timeout_s)
        wanted = [(request, number) for request in requests for number in range(request.n)]
        places, meter = min(len(wanted), settings.generation.max_batch_size), self._meter
        with meter.errors(), self._admission.admit(places), meter.request(*requests) as observed:
            current_visit().take(prompt=sum(len(request.prompt) for request in requests))
            async with deadline.kept():
                await self._check(requests[0])
            answers = (
                self._one_answer(request.sampled(number), index, observed)
                for index, (request, number) in enumerate(wanted)
            )
            async with aclosing(next(answers) if len(wanted) == 1 else _merged(answers, places)) as deltas:
                async for delta in deadline.pieces(deltas):
                    observed.piece(delta)
                    yield delta

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[Sequence[float]]:
        """Their vectors. All of a request take one place. Raises OverloadedError, EngineError, DeadlineError."""
        engine, settings = self._loaded()
        tokens = sum(map(len, prompts))
        with self._meter.errors(), self._admission.admit(), self._meter.embedding(tokens):
            current_visit().take(prompt=tokens)
            vectors = [asyncio.ensure_future(engine.embed(prompt)) for prompt in prompts]
            try:
                async with Deadline(settings.request_timeout_s).kept():
                    return await asyncio.gather(*vectors)
            finally:
                for each in vectors:
                    each.cancel()

    async def _check(self, request: ValidRequest) -> None:
        """Raises RequestError where its constraint cannot be kept."""
        if constraint := request.sampling.constraint:
            try:
                await self._loaded()[0].check(constraint)
            except GrammarError as error:
                raise RequestError(f"{constraint.source}: {error}", constraint.source) from error

    async def _one_answer(self, request: ValidRequest, index: int, observed: Observed) -> AsyncGenerator[Delta, None]:
        engine, _ = self._loaded()
        sampling = request.sampling
        transcript = Transcript(engine.tokenizer, request.stops, sampling.min_new_tokens, request.marks, request.echo)
        text = request.echo.text
        async with aclosing(engine.generate(request.prompt, sampling)) as batches:
            async for tokens in batches:
                observed.in_slot(index)
                for token in tokens:
                    text += transcript.feed(token)
                    if transcript.stopped:
                        break
                if transcript.stopped:
                    break
                if text:
                    yield Delta(text, transcript.tokens, None, transcript.scores(), index)
                    text = ""
        text += transcript.flush()
        at_its_length = transcript.tokens >= sampling.max_new_tokens and not transcript.stopped
        yield Delta(text, transcript.tokens, "length" if at_its_length else "stop", transcript.scores(), index)

    async def measure(self) -> None:
        """Bring the metrics up to date that nobody counts as it happens. Raises EngineError."""
        engine, _ = self._loaded()
        use = await engine.cache_use()
        if use is not None:
            self._meter.add(CACHE_USE, use)

    async def check_health(self) -> None:
        """Raises EngineError when the engine does not answer."""
        engine, _ = self._loaded()
        await engine.check_health()

    async def close(self) -> None:
        """Free the engine."""
        if self._engine is not None:
            await self._engine.close()

    def _loaded(self) -> tuple[Engine, ModelSettings]:
        assert self._engine is not None and self._settings is not None  # Ray configures before it sends requests
        return self._engine, self._settings


def _template_of(tokenizer: Tokenizer) -> ChatTemplate | None:
    if tokenizer.chat_template is None:
        return None
    return ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens, tokenizer.tool_template)


async def _merged(answers: Iterator[AsyncGenerator[Delta, None]], at_a_time: int) -> AsyncGenerator[Delta, None]:
    """What all of them yield, as it comes. The first so many begin at once, each other one when one has ended. An error
    of one ends them all, and so does closing.
    """
    awaited = {asyncio.ensure_future(anext(answer)): answer for answer in islice(answers, at_a_time)}
    try:
        while awaited:
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                answer = awaited.pop(task)
                try:
                    delta = task.result()
                except StopAsyncIteration:
                    awaited |= {asyncio.ensure_future(anext(answer)): answer for answer in islice(answers, 1)}
                    continue
                awaited[asyncio.ensure_future(anext(answer))] = answer
                yield delta
    finally:
        for task in awaited:
            task.cancel()
        await asyncio.gather(*awaited, return_exceptions=True)
        for answer in awaited.values():
            await answer.aclose()
