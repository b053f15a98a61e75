"""Deadlines: pieces end by then, and nobody else's work is cut."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from runtime.deadline import Deadline
from runtime.errors import DeadlineError


async def numbers(count: int, gate: asyncio.Event, ended: list[BaseException]) -> AsyncGenerator[int, None]:
    """So many numbers, and then a wait."""
    try:
        for number in range(count):
            yield number
        await gate.wait()
    except BaseException as error:
        ended.append(error)
        raise


async def turns() -> None:
    """Let everybody else do what they can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 2])
async def test_pieces_end_at_the_deadline_whether_they_have_begun_or_not(advance, count: int) -> None:
    ended: list[BaseException] = []
    async with aclosing(Deadline(5).pieces(numbers(count, asyncio.Event(), ended))) as pieces:
        assert [await anext(pieces) for _ in range(count)] == list(range(count))
        waiting = asyncio.ensure_future(anext(pieces))
        await turns()
        advance(4.9)
        await turns()
        assert not waiting.done()
        advance(0.2)
        with pytest.raises(DeadlineError, match="after 5 s"):
            await waiting
    assert [type(each) for each in ended] == [asyncio.CancelledError]


async def test_pieces_that_never_wait_end_too(advance) -> None:
    async with aclosing(Deadline(5).pieces(numbers(100, asyncio.Event(), []))) as pieces:
        await anext(pieces)
        advance(5.1)
        await turns()  # the reader's own work is not cut
        with pytest.raises(DeadlineError):
            await anext(pieces)


async def test_without_a_deadline_there_is_none(advance) -> None:
    async with Deadline(None).kept():
        advance(1e6)
        await turns()


@pytest.mark.parametrize("seconds", [None, 5])
async def test_somebody_elses_timeout_is_no_deadline(seconds: float | None) -> None:
    with pytest.raises(TimeoutError):
        async with Deadline(seconds).kept():
            raise TimeoutError
