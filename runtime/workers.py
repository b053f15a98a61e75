"""An engine in Ray actors: a placement group of workers, and the replica's end of the wire to them.

The worker sends what all its answers have to say in one stream, as it comes: a message of Ray's a step, however many
requests run.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Constraint, Engine, Limits, Sampling, Tokenizer, meeting_place
from runtime.errors import ConfigError, EngineDeadError, EngineError, LLMServeError
from runtime.loading import follow_model, load_model
from runtime.phases import STARTED

_log = logging.getLogger(__name__)

_REQUESTS = 10_000
"""Calls that a worker takes at a time; how many requests run is the engine's business."""

Item = list[int] | EngineError | None
"""News of an answer: tokens, the error that ended it, or None at its end."""


class Worker:
    """The actor that holds the engine."""

    def __init__(self, arguments: ModelArguments) -> None:
        self._arguments = arguments
        self._engine: Engine | None = None
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._news: list[tuple[int, Item]] = []
        self._has_news = asyncio.Event()

    def meeting_place(self) -> str:
        """Where the other workers find this one."""
        return meeting_place(ray.util.get_node_ip_address())

    async def start(self, batching: Batching, meeting: str | None) -> tuple[Tokenizer, Limits, Mapping[str, float]]:
        """Load the model; what its phases took, besides. Raises ConfigError."""
        self._engine = await asyncio.to_thread(load_model, self._arguments, batching, meeting)
        return self._engine.tokenizer, self._engine.limits, STARTED.seconds

    async def begin(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """An answer, by its number in the news."""
        answer = asyncio.create_task(self._answer(number, prompt, sampling))
        self._answers[number] = answer
        answer.add_done_callback(partial(self._ended, number))

    async def cancel(self, number: int, _begun: None) -> None:
        """Nobody waits for this answer any more. `_begun`: what `begin` returns, which Ray waits for."""
        if answer := self._answers.get(number):
            answer.cancel()

    async def _answer(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        async with aclosing(self._loaded().generate(prompt, sampling)) as batches:
            async for tokens in batches:
                self._tell(number, tokens)

    def _ended(self, number: int, answer: asyncio.Task[None]) -> None:
        """The replica hears of it, whatever has ended the answer."""
        del self._answers[number]
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None or isinstance(error, EngineError):
            self._tell(number, error)
        else:
            _log.error("an answer has failed in a way that nobody thought of", exc_info=error)
            self._tell(number, EngineError(f"the engine failed: {error!r}"))

    def _tell(self, number: int, item: Item) -> None:
        self._news.append((number, item))
        self._has_news.set()

    async def news(self) -> AsyncGenerator[list[tuple[int, Item]], None]:
        """What all answers say from now on."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            news, self._news = self._news, []
            yield news

    async def embed(self, prompt: Sequence[int]) -> Sequence[float]:
        """As the engine's."""
        return await self._loaded().embed(prompt)

    async def check(self, constraint: Constraint) -> None:
        """As the engine's."""
        await self._loaded().check(constraint)

    async def configure(self, batching: Batching) -> None:
        """As the engine's."""
        await self._loaded().configure(batching)

    async def cache_use(self) -> float | None:
        """As the engine's."""
        return await self._loaded().cache_use()

    async def check_health(self) -> None:
        """As the engine's."""
        await self._loaded().check_health()

    async def close(self) -> None:
        """As the engine's."""
        if self._engine is not None:
            await self._engine.close()

    def _loaded(self) -> Engine:
        assert self._engine is not None  # nothing is sent before `start` has answered
        return self._engine


class Follower:
    """An actor that computes with the one that holds the engine."""

    def __init__(self, arguments: ModelArguments) -> None:
        self._arguments = arguments

    def follow(self, rank: int, meeting: str) -> None:
        """Until the engine is closed. Raises ConfigError; RuntimeError when the other one is gone."""
        follow_model(self._arguments, rank, meeting)


@dataclass
class RemoteEngine(Engine):
    """An engine in a worker. It ends with the worker, and cannot come back: the replica starts anew."""

    group: PlacementGroup
    worker: Any
    followers: Sequence[Any]
    tokenizer: Tokenizer
    limits: Limits
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _answers: dict[int, asyncio.Queue[Item]] = field(default_factory=dict)
    _gone: EngineDeadError | None = None

    def __post_init__(self) -> None:
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """Hand out the news, until there is no worker any more."""
        try:
            async for reference in self.worker.news.options(num_returns="streaming").remote():
                for number, item in await reference:
                    if answer := self._answers.get(number):
                        answer.put_nowait(item)
        except RayError as error:
            _log.error("the worker is gone: %s", error)
        finally:
            self._die("the worker that computes has died; the replica starts anew")

    def _die(self, reason: str) -> None:
        """Whoever waits for an answer, or asks for one, hears of it."""
        if self._gone is None:
            self._gone = EngineDeadError(reason)
            for answer in self._answers.values():
                answer.put_nowait(self._gone)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        if self._gone:
            raise self._gone
        number, answer = next(self._numbers), asyncio.Queue[Item]()
        self._answers[number] = answer
        begun = self.worker.begin.remote(number, prompt, sampling)
        try:
            while (item := await answer.get()) is not None:
                if isinstance(item, EngineError):
                    raise item
                yield item
        finally:
            del self._answers[number]
            if not self._gone:
                self.worker.cancel.remote(number, begun)

    def follower_ended(self, following: "asyncio.Future[None]") -> None:
        """Without it there are no answers. The others wait for it as long as its process keeps its connections."""
        if not following.cancelled() and (error := following.exception()):
            _log.error("a worker has ended: %s", str(error).strip().splitlines()[-1])
        self._die("a worker has died; the replica starts anew")
        for follower in self.followers:
            ray.kill(follower)

    async def embed(self, prompt: Sequence[int]) -> Sequence[float]:
        if self._gone:
            raise self._gone
        vector: Sequence[float] = await self._ask(self.worker.embed.remote(prompt))
        return vector

    async def check(self, constraint: Constraint) -> None:
        await self._ask(self.worker.check.remote(constraint))

    async def configure(self, batching: Batching) -> None:
        await self._ask(self.worker.configure.remote(batching))

    async def cache_use(self) -> float | None:
        if self._gone:
            raise self._gone
        use: float | None = await self._ask(self.worker.cache_use.remote())
        return use

    async def check_health(self) -> None:
        if self._gone:
            raise self._gone
        await self._ask(self.worker.check_health.remote())

    async def _ask(self, reference: Any) -> Any:
        try:
            return await reference
        except RayTaskError as error:
            raise _said(error) from error
        except RayError as error:
            raise EngineDeadError("the worker that computes has died") from error

    async def close(self) -> None:
        self._die("the engine has stopped")
        try:
            with suppress(EngineError):
                await self._ask(self.worker.close.remote())
        finally:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
            _end(self.group, [self.worker, *self.followers])


async def start(arguments: ModelArguments, batching: Batching) -> Engine:
    """The model in workers of its own, placed as `scaling_config` says. Raises ConfigError."""
    group = await asyncio.to_thread(_place, arguments)
    worker = _actor(Worker, arguments, group, 0)
    ranks = range(1, arguments.scaling_config.num_workers) if arguments.initialization.engine.follower else ()
    followers = [_actor(Follower, arguments, group, rank) for rank in ranks]
    try:
        meeting = await worker.meeting_place.remote() if followers else None
        following = [_future(each.follow.remote(rank, meeting)) for rank, each in enumerate(followers, 1)]
        tokenizer, limits, phases = await _first(_future(worker.start.remote(batching, meeting)), following)
    except RayTaskError as error:
        _end(group, [worker, *followers])
        raise _said(error) from error
    except RayError as error:
        _end(group, [worker, *followers])
        problem = f"a worker died while it loaded the model: {str(error).strip().splitlines()[0]}"
        raise ConfigError("model_config.initialization.initializer", arguments.declared_in, problem) from error
    STARTED.seconds.update(phases)
    engine = RemoteEngine(group, worker, followers, tokenizer, limits)
    for each in following:
        each.add_done_callback(engine.follower_ended)
    return engine


def _future(reference: Awaitable[Any]) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(reference)


async def _first(loading: "asyncio.Future[Any]", following: Sequence["asyncio.Future[Any]"]) -> Any:
    """What `loading` gives; raises what one that follows raises, which never ends before it otherwise."""
    done, _ = await asyncio.wait([loading, *following], return_when=asyncio.FIRST_COMPLETED)
    if loading not in done:
        loading.cancel()
        await done.pop()
    return await loading


def _end(group: PlacementGroup, actors: Sequence[Any]) -> None:
    for actor in actors:
        ray.kill(actor)
    remove_placement_group(group)


def _said(error: RayTaskError) -> LLMServeError:
    """Our own error, as the worker raised it; any other is a bug, and goes its way."""
    if isinstance(error.cause, LLMServeError):
        return error.cause
    raise error


def _bundle(arguments: ModelArguments) -> dict[str, float]:
    """What one worker asks for. Ray refuses a bundle that asks for nothing of something, or for nothing at all."""
    scaling = arguments.scaling_config
    asked = {"CPU": scaling.num_cpus_per_worker, "GPU": scaling.num_gpus_per_worker, **scaling.resources_per_worker}
    return {name: amount for name, amount in asked.items() if amount} or {"CPU": 0.001}


def _place(arguments: ModelArguments) -> PlacementGroup:
    """A place for every worker. Blocks; raises ConfigError that says what is missing."""
    scaling = arguments.scaling_config
    bundle = _bundle(arguments)
    group = placement_group([bundle] * scaling.num_workers, scaling.placement_strategy)
    if group.wait(scaling.pg_timeout_s):
        return group
    remove_placement_group(group)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    problem = f"no place for {scaling.num_workers} x {_shown(bundle)} ({scaling.placement_strategy}) within"
    problem += f" {scaling.pg_timeout_s:g} s: {_what_is_missing(bundle, nodes)}"
    raise ConfigError("scaling_config", arguments.declared_in, problem)


def _shown(bundle: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in bundle.items()) + "}"


def _what_is_missing(bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """Why no node, or not enough of them, can take the bundle."""
    for name, amount in bundle.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if most < amount:
            return f"no node has {amount:g} of `{name}`" + (f", the most is {most:g}" if most else "")
    if not any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes):
        return "no node has all of that"
    return "the nodes that have all of that are too few, or taken"


def _actor(kind: type, arguments: ModelArguments, group: PlacementGroup, index: int) -> Any:
    """An actor in a bundle of the group, with all that the bundle has.

    An engine whose library puts actors of its own into the bundles leaves them all to it.
    """
    places_itself = arguments.initialization.engine.places_workers and arguments.scaling_config.num_workers > 1
    bundle = {} if places_itself else _bundle(arguments)
    options = {
        "num_cpus": bundle.pop("CPU", 0),
        "num_gpus": bundle.pop("GPU", 0),
        "resources": bundle,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, index, True),
    }
    if kind is Worker:
        options["max_concurrency"] = _REQUESTS
    return ray.remote(kind).options(**options).remote(arguments)
