"""How prompts share calls of an encoder, with one that is scripted."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from runtime.engines.contract import Batching, Limits
from runtime.engines.embedding import EmbeddingEngine, Encoder
from runtime.errors import EngineDeadError, EngineError
from tests.runtime.support import ByteTokenizer


class LengthEncoder(Encoder):
    """A prompt's vector is its length. Waits for `go` before each call; a prompt [0] makes it fail."""

    step_tokens = 20

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.called, self.go = threading.Event(), threading.Semaphore(0)
        self.closed = False

    def encode(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        self.called.set()
        assert self.go.acquire(timeout=30)
        self.calls.append([len(prompt) for prompt in prompts])
        if [0] in prompts:
            raise EngineError("it broke")
        return [[float(len(prompt))] for prompt in prompts]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def encoder() -> LengthEncoder:
    return LengthEncoder()


@pytest.fixture
async def engine(encoder: LengthEncoder):
    engine = EmbeddingEngine(encoder, ByteTokenizer(), Limits(100, 256, embeds=True), Batching(3))
    yield engine
    encoder.go.release(100)
    await engine.close()


def asked(engine: EmbeddingEngine, *lengths: int) -> list[asyncio.Future[list[float]]]:
    return [asyncio.ensure_future(engine.embed([1] * length)) for length in lengths]


async def test_those_who_wait_go_together_up_to_the_batch_size(engine, encoder) -> None:
    answers = asked(engine, 1, 2, 3, 4, 5)
    encoder.go.release(2)
    assert await asyncio.gather(*answers) == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    assert encoder.calls == [[1, 2, 3], [4, 5]]


async def test_padding_counts_towards_the_tokens_of_a_call(engine, encoder) -> None:
    answers = asked(engine, 1, 9, 9, 50)
    encoder.go.release(3)
    await asyncio.gather(*answers)
    assert encoder.calls == [[1, 9], [9], [50]]


async def test_the_batch_size_may_change(engine, encoder) -> None:
    await engine.configure(Batching(1))
    answers = asked(engine, 1, 2)
    encoder.go.release(2)
    await asyncio.gather(*answers)
    assert encoder.calls == [[1], [2]]


async def test_an_error_ends_those_of_its_call_and_nobody_else(engine, encoder) -> None:
    failing = [*asked(engine, 1), asyncio.ensure_future(engine.embed([0])), *asked(engine, 2)]
    others = asked(engine, 4)
    encoder.go.release(2)
    assert all(isinstance(each, EngineError) for each in await asyncio.gather(*failing, return_exceptions=True))
    assert await others[0] == [4.0]


async def test_who_has_given_up_is_not_encoded(engine, encoder) -> None:
    answers = asked(engine, 1, 2, 3, 4, 5, 6)
    await asyncio.sleep(0)
    answers[4].cancel()
    encoder.go.release(2)
    await asyncio.gather(*answers, return_exceptions=True)
    assert encoder.calls == [[1, 2, 3], [4, 6]]


async def test_a_call_that_hangs_is_not_healthy(engine, encoder) -> None:
    asked(engine, 1)
    assert await asyncio.to_thread(encoder.called.wait, 30)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.check_health(), 0.2)
    encoder.go.release()
    await engine.check_health()


async def test_closing_ends_those_who_wait_and_frees_the_model(engine, encoder) -> None:
    answers = asked(engine, 1, 2, 3, 4)
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(engine.close())
    encoder.go.release()
    await closing
    ends = await asyncio.gather(*answers, return_exceptions=True)
    assert ends[:3] == [[1.0], [2.0], [3.0]]
    assert isinstance(ends[3], EngineDeadError)
    assert encoder.closed
    with pytest.raises(EngineDeadError):
        await engine.embed([1])
