"""The pump: what is there goes out at once, what piles up as one piece, silence as a heartbeat, and nothing is lost."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.api import pump as pump_module
from runtime.api.pump import HEARTBEAT_S, MAX_PENDING, Pump
from runtime.api.responses import Delta, joined
from runtime.errors import EngineError

Step = Delta | Exception | asyncio.Event


class Answer:
    """A scripted answer that says how far it has come."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.made = 0
        self.closed = False

    async def pieces(self) -> AsyncGenerator[Delta, None]:
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                    continue
                self.made += 1
                yield step
        finally:
            self.closed = True


async def turns(count: int = 20) -> None:
    """Let everybody else do what they can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_while_there_is_time_each_piece_goes_out_by_itself_and_at_once() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    deltas = [Delta(text, n) for n, text in enumerate("abc")]
    answer = Answer(deltas[0], gates[0], deltas[1], gates[1], deltas[2])
    pieces = Pump().pieces(answer.pieces())
    for delta, gate in zip(deltas, gates, strict=True):
        assert await anext(pieces) == [delta]
        gate.set()
    end = asyncio.ensure_future(anext(pieces))
    await turns()
    assert isinstance(end.exception(), StopAsyncIteration)  # without waiting for anything
    assert answer.closed


async def test_what_comes_while_the_client_does_not_read_is_one_piece_an_answer() -> None:
    rest = [Delta("b", 2), Delta("x", 1, index=1), Delta("c", 3, "stop"), Delta("y", 2, "length", index=1)]
    gate = asyncio.Event()
    answer = Answer(Delta("a", 1), gate, *rest)
    async with aclosing(Pump().pieces(answer.pieces())) as pieces:
        assert await anext(pieces) == [Delta("a", 1)]
        gate.set()
        await turns()
        assert answer.made == 5
        assert [each async for each in pieces] == [[Delta("bc", 3, "stop"), Delta("xy", 2, "length", index=1)]]


async def test_so_many_pieces_wait_and_no_more() -> None:
    answer = Answer(*(Delta("x", n) for n in range(3 * MAX_PENDING)))
    async with aclosing(Pump().pieces(answer.pieces())) as pieces:
        text = "".join(delta.text for delta in await anext(pieces))
        await turns(4 * MAX_PENDING)
        assert answer.made <= len(text) + MAX_PENDING
        text += "".join([delta.text async for each in pieces for delta in each])
    assert text == "x" * 3 * MAX_PENDING


async def test_silence_is_a_heartbeat_each_time(advance) -> None:
    gate = asyncio.Event()
    async with aclosing(Pump().pieces(Answer(gate, Delta("a", 1)).pieces())) as pieces:
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(pieces))
            await turns()
            advance(HEARTBEAT_S - 1)
            await turns()
            assert not waiting.done()
            advance(1.1)
            assert await waiting == []
        gate.set()
        advance(0.1)  # the next write's turn has come
        assert await anext(pieces) == [Delta("a", 1)]


async def test_an_error_comes_after_all_that_came_before_it() -> None:
    answer = Answer(Delta("a", 1), Delta("b", 2), EngineError("boom"))
    pieces, text = Pump().pieces(answer.pieces()), ""
    with pytest.raises(EngineError, match="boom"):
        async for each in pieces:
            text += "".join(delta.text for delta in each)
            await turns()
    assert text == "ab" and answer.closed


async def test_an_error_before_anything_is_raised_at_once() -> None:
    with pytest.raises(EngineError, match="boom"):
        await anext(Pump().pieces(Answer(EngineError("boom")).pieces()))


@pytest.mark.parametrize("began", [False, True])
async def test_closing_closes_the_answer_wherever_it_is(began: bool) -> None:
    answer, pump = Answer(*([Delta("a", 1)] if began else []), asyncio.Event()), Pump()
    pieces = pump.pieces(answer.pieces())
    waiting = asyncio.ensure_future(anext(pieces))
    await turns()
    assert pump.streams == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await pieces.aclose()
    assert answer.closed and pump.streams == 0


async def test_many_streams_share_what_can_be_written(advance, monkeypatch) -> None:
    """The first piece of each goes out at once; the next ones wait for their turn, and grow."""
    monkeypatch.setattr(pump_module, "WRITES_PER_S", 0.1)
    pump, gates = Pump(), [asyncio.Event() for _ in range(3)]
    streams = [pump.pieces(Answer(Delta("a", 1), gate, *(Delta("b", 2),) * 5).pieces()) for gate in gates]
    for stream in streams:
        assert await anext(stream) == [Delta("a", 1)]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    for gate in gates:
        gate.set()
    await turns()
    advance(9.9)
    await turns()
    assert not any(each.done() for each in waiting)
    advance(30)
    assert await asyncio.gather(*waiting) == [[Delta("bbbbb", 2)]] * 3
    for stream in streams:
        await stream.aclose()


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2)), max_size=12), st.randoms())
def test_nothing_is_lost_or_moved_however_the_client_reads(made: list[tuple[str, int]], random) -> None:
    deltas = [Delta(text, n, index=index) for n, (text, index) in enumerate(made)]

    async def read() -> Sequence[Delta]:
        found = []
        async with aclosing(Pump().pieces(Answer(*deltas).pieces())) as pieces:
            async for each in pieces:
                assert len({delta.index for delta in each}) == len(each)
                found += each
                await turns(random.randint(0, 5))
        return found

    found = asyncio.run(read())
    for index in {delta.index for delta in deltas}:
        mine = [[delta for delta in each if delta.index == index] for each in (deltas, found)]
        assert joined(mine[0]) == joined(mine[1])
