"""Which models can answer: what Ray says of their applications, and waiting for one that starts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple

from runtime.application import GatewayModel
from runtime.errors import ModelUnavailableError

LOOK_AGE_S = 2.0
"""How old the knowledge may be of which applications run; twice as old while somebody looks again."""
LOOK_TIMEOUT_S = 2.0
"""How long a request waits for Ray's answer before it makes do with the last one."""
WAKE_TIMEOUT_S = 600.0
"""How long a model that has scaled to zero is asked for, for nobody but itself."""
MAX_WAITING = 256
"""Requests that wait for models to start, each with its body."""

_log = logging.getLogger(__name__)

State = Literal["ready", "starting", "scaled_to_zero", "failed"]


class Condition(NamedTuple):
    """How an application is."""

    state: State
    reason: str = ""
    """Why, where it is not ready."""


Look = Callable[[], Mapping[str, Condition]]
"""The condition of every application that Ray knows. Blocks."""
Wake = Callable[[GatewayModel], Awaitable[None]]
"""Ask a model for nothing, so that Ray starts it; ends when it has answered."""


class Availability:
    """The conditions of the cluster's applications, as they were some seconds ago."""

    def __init__(self, look: Look, wake: Wake, show_waiting: Callable[[int], None]) -> None:
        self._look = look
        self._wake = wake
        self._show_waiting = show_waiting
        self._conditions: Mapping[str, Condition] = {}
        self._seen_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._late: asyncio.Task[None] | None = None
        """A look that somebody has waited for in vain: nobody else does."""
        self._waking: dict[str, asyncio.Task[None]] = {}
        self.waiting = 0
        """Requests that wait for a model."""

    async def conditions(self, age_s: float | None = None) -> Mapping[str, Condition]:
        """By application. One of which nothing is known is not there; it may well answer.

        `age_s`: how old it may be; twice LOOK_AGE_S when left out, so that who comes often does not wait for a look.
        """
        age_s = 2 * LOOK_AGE_S if age_s is None else age_s
        age = asyncio.get_running_loop().time() - self._seen_at
        if age > LOOK_AGE_S and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_again())
            self._looking.add_done_callback(_tell_failure)
        if age > age_s and self._looking is not None and self._looking is not self._late:
            _, late = await asyncio.wait([self._looking], timeout=LOOK_TIMEOUT_S)
            self._late = self._looking if late else None
        return self._conditions

    async def _look_again(self) -> None:
        now = asyncio.get_running_loop().time()
        self._conditions = await asyncio.to_thread(self._look)
        self._seen_at = now

    async def wait_for(self, model: GatewayModel, seconds: float) -> None:
        """Return when the model may answer. Raises ModelUnavailableError; at once if it has failed or too many wait."""
        until = asyncio.get_running_loop().time() + seconds
        condition = await self._condition(model)
        if condition.state == "ready":
            return
        if self.waiting >= MAX_WAITING:
            raise _unavailable(model, condition)
        self._wait(1)
        try:
            while True:
                left = until - asyncio.get_running_loop().time()
                if left <= 0 or condition.state == "failed":
                    raise _unavailable(model, condition)
                await asyncio.sleep(min(left, LOOK_AGE_S))
                condition = await self._condition(model, LOOK_AGE_S)
                if condition.state == "ready":
                    return
        finally:
            self._wait(-1)

    def _wait(self, change: int) -> None:
        self.waiting += change
        self._show_waiting(self.waiting)

    async def _condition(self, model: GatewayModel, age_s: float | None = None) -> Condition:
        condition = (await self.conditions(age_s)).get(model.application, Condition("ready"))
        if condition.state == "scaled_to_zero" and model.application not in self._waking:
            waking = asyncio.create_task(self._ask_for(model))
            self._waking[model.application] = waking
            waking.add_done_callback(lambda _: self._waking.pop(model.application))
        return condition

    async def _ask_for(self, model: GatewayModel) -> None:
        """Ray's autoscaler sees the request that this is, for as long as it takes the model to start."""
        try:
            await asyncio.wait_for(self._wake(model), WAKE_TIMEOUT_S)
        except (ModelUnavailableError, TimeoutError) as error:
            _log.warning("asking for the model %s, which has scaled to zero: %s", model.id, error)

    async def close(self) -> None:
        """End what goes on in the background."""
        tasks = [*self._waking.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell_failure(look: "asyncio.Task[None]") -> None:
    """What was known before goes on to hold."""
    if not look.cancelled() and (error := look.exception()):
        _log.error("cannot find out which applications run", exc_info=error)


def _unavailable(model: GatewayModel, condition: Condition) -> ModelUnavailableError:
    return ModelUnavailableError(f"the model `{model.id}` cannot answer: {condition.reason or condition.state}")
