"""Waiting for models, by a clock of the test's own."""

import asyncio
import threading
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from runtime import availability
from runtime.application import GatewayModel
from runtime.availability import LOOK_AGE_S, Availability, Condition
from runtime.errors import ModelUnavailableError

MODEL = GatewayModel(id="acme/model", application="acme--model", route_prefix="/acme--model")
OTHER = GatewayModel(id="acme/other", application="acme--other", route_prefix="/acme--other")
READY, STARTING = Condition("ready"), Condition("starting", "DEPLOYING")
ASLEEP, FAILED = Condition("scaled_to_zero", "it starts when asked for"), Condition("failed", "no weights")


class Cluster:
    """Ray, whose application is in one condition after the other at each look; a second passes as one is slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *conditions: Condition) -> None:
        self.conditions = list(conditions)
        self.looks = 0
        self.woken: list[str] = []
        self.awake = asyncio.Event()
        self.slept: list[float] = []
        self.shown: list[int] = []
        self.skipped = 0.0
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now + self.skipped)
        # Its own, not everybody's: servers of other tests sleep on threads of theirs.
        self.asyncio = SimpleNamespace(**{**vars(asyncio), "sleep": self.sleep})
        monkeypatch.setattr(availability, "asyncio", self.asyncio)
        self.availability = Availability(self.look, self.wake, self.shown.append)

    def look(self) -> dict[str, Condition]:
        self.looks += 1
        return {MODEL.application: self.conditions.pop(0) if len(self.conditions) > 1 else self.conditions[0]}

    async def wake(self, model: GatewayModel) -> None:
        self.woken.append(model.id)
        await self.awake.wait()

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        self.slept.append(seconds)
        self.skipped += seconds + 0.001

        async def nothing() -> None:
            await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(int))])

        return nothing()


async def test_who_has_waited_for_a_look_in_vain_is_the_last_who_does(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, READY)
    await cluster.availability.wait_for(MODEL, 0)
    blocked = threading.Event()
    monkeypatch.setattr(cluster.availability, "_look", lambda: blocked.wait(30))
    monkeypatch.setattr(availability, "LOOK_TIMEOUT_S", 0)
    waits = []

    async def counted(tasks, **more):
        waits.append(more)
        return await asyncio.wait(tasks, **more)

    cluster.asyncio.wait = counted
    cluster.skipped += 100
    for _ in range(5):
        await cluster.availability.wait_for(MODEL, 0)
    blocked.set()
    assert len(waits) == 1
    await cluster.availability.close()


async def test_a_look_that_fails_leaves_what_was_known(monkeypatch, caplog) -> None:
    cluster = Cluster(monkeypatch, FAILED)
    await cluster.availability.conditions()

    def broken() -> dict[str, Condition]:
        raise KeyError("what?")

    monkeypatch.setattr(cluster.availability, "_look", broken)
    cluster.skipped += 100
    assert await cluster.availability.conditions() == {MODEL.application: FAILED}
    assert "cannot find out" in caplog.text


async def test_what_is_ready_or_unknown_waits_for_nothing(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, READY)
    await cluster.availability.wait_for(MODEL, 0)
    await cluster.availability.wait_for(OTHER, 0)
    assert (cluster.looks, cluster.slept, cluster.woken, cluster.shown) == (1, [], [], [])


async def test_without_a_wait_a_model_that_starts_is_refused_at_once(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, STARTING)
    with pytest.raises(ModelUnavailableError, match=r"acme/model.*DEPLOYING"):
        await cluster.availability.wait_for(MODEL, 0)
    assert (cluster.slept, cluster.woken) == ([], [])


async def test_a_wait_ends_when_the_model_is_ready(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, STARTING, STARTING, READY)
    await cluster.availability.wait_for(MODEL, 60)
    assert (cluster.looks, len(cluster.slept)) == (3, 2)
    assert cluster.shown == [1, 0] and cluster.availability.waiting == 0


async def test_a_wait_is_not_longer_than_it_was_set(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, STARTING)
    with pytest.raises(ModelUnavailableError):
        await cluster.availability.wait_for(MODEL, 2.5 * LOOK_AGE_S)
    assert sum(cluster.slept) == pytest.approx(2.5 * LOOK_AGE_S, abs=0.5)
    assert len(cluster.slept) == 3


async def test_what_has_failed_is_not_waited_for(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, STARTING, FAILED)
    with pytest.raises(ModelUnavailableError, match="no weights"):
        await cluster.availability.wait_for(MODEL, 600)
    assert len(cluster.slept) == 1


async def test_what_has_scaled_to_zero_is_asked_for_once_however_many_want_it(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, ASLEEP)
    for _ in range(3):
        with pytest.raises(ModelUnavailableError, match="it starts when asked for"):
            await cluster.availability.wait_for(MODEL, 0)
    await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(int))])
    assert cluster.woken == ["acme/model"]
    cluster.awake.set()
    while cluster.availability._waking:
        await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(int))])
    cluster.conditions = [READY]
    cluster.skipped += 3 * LOOK_AGE_S
    await cluster.availability.wait_for(MODEL, 0)
    assert cluster.woken == ["acme/model"]


async def test_only_so_many_wait(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, STARTING)
    cluster.availability.waiting = availability.MAX_WAITING
    with pytest.raises(ModelUnavailableError):
        await cluster.availability.wait_for(MODEL, 60)
    assert cluster.slept == [] and cluster.availability.waiting == availability.MAX_WAITING


async def test_closing_ends_what_goes_on_in_the_background(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, ASLEEP)
    with pytest.raises(ModelUnavailableError):
        await cluster.availability.wait_for(MODEL, 0)
    await asyncio.wait_for(cluster.availability.close(), 5)
    assert not cluster.availability._waking
