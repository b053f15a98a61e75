"""Fixtures over the scripted engine."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from runtime.replica import Replica
from tests.runtime.support import ScriptedEngine, arguments_for, settings_for


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def make_replica(engine, monkeypatch, tmp_path):
    """Makes a replica on the scripted engine, with settings as `settings_for` takes them."""

    async def make(**settings) -> Replica:
        monkeypatch.setattr("runtime.loading.load", lambda *_: engine)
        mirror = {"s3_mirror_config": {"bucket_uri": str(tmp_path)}}
        replica = Replica(arguments_for({"type": "llamaCpp"}, initialization=mirror))
        await replica.configure(settings_for(**settings))
        return replica

    return make


@pytest.fixture
async def advance() -> AsyncIterator[Callable[[float], None]]:
    """Puts the event loop's clock forward by so many seconds, for good: what is due by then happens next.

    Between two calls it stands still, so that what has a second left has it on a slow machine too. No `asyncio.timeout`
    ends then.
    """
    loop = asyncio.get_running_loop()
    real, now = loop.time, loop.time()
    loop.time = lambda: now

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds
        loop.call_soon(lambda: None)  # so that the loop, should it wait, looks at its clock

    yield advance
    ahead = now - real()
    loop.time = lambda: real() + ahead  # it goes on, for what has to end


@pytest.fixture
async def leap() -> Callable[[float], None]:
    """As `advance`, with a clock that goes on between two calls, for tests with a real server, which goes by it."""
    loop, shift = asyncio.get_running_loop(), 0.0
    real = loop.time
    loop.time = lambda: real() + shift

    def leap(seconds: float) -> None:
        nonlocal shift
        shift += seconds
        loop.call_soon(lambda: None)

    return leap
