"""What the scheduler decides and its engine tells, with a runner that takes a known time for each step and token."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace

import pytest

from runtime.engines.batching import BatchingEngine
from runtime.engines.contract import Batching, Constraint, EndToken, Limits, Sampling, ScoredToken
from runtime.engines.scheduler import Request, Runner
from runtime.errors import EngineDeadError, EngineError, EngineMemoryError, GrammarError
from tests.runtime.support import ByteTokenizer, first_token

TOKEN_S = 0.001


class Clockwork(Runner):
    """Sees a token each millisecond, after `step_s` of each step; always says 7."""

    step_tokens = 1024
    end_tokens = frozenset[int]()
    limits = Limits(100_000, 256)
    step_s = 0.0

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.steps: list[dict[Request, int]] = []
        self.now, self.sleep_s = 0.0, TOKEN_S
        self.refuses: EngineError | None = None
        self.wait: Callable[[], object] = lambda: None

    def admit(self, request: Request) -> int:
        if self.refuses:
            raise self.refuses
        return 0

    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int]:
        self.steps.append(dict(shares))
        time.sleep(sum(shares.values()) * self.sleep_s)
        self.now += self.step_s + sum(shares.values()) * TOKEN_S
        self.wait()
        return {request: 7 for request, share in shares.items() if share == len(request.pending)}

    def forget(self, request: Request) -> None: ...

    def resize(self, slots: int) -> None:
        self.slots = slots

    def close(self) -> None: ...


async def answer(engine: BatchingEngine, prompt: int, length: int, constraint: Constraint | None = None) -> list[int]:
    sampling = Sampling(length, constraint=constraint)
    return [token async for batch in engine.generate([1] * prompt, sampling) for token in batch]


async def ask_during_a_step(
    engine: BatchingEngine, runner: Clockwork, *answers: Awaitable[list[int]], slow_s: float = 0.0
) -> list[list[int]]:
    """All of them are there when it is over, and it takes so much longer."""
    begun, over = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        over.wait(30)

    runner.wait = wait
    assert await asyncio.to_thread(begun.wait, 30)
    asking = asyncio.gather(*answers)
    while engine._scheduler.inbox.qsize() < len(answers) and not asking.done():
        await asyncio.sleep(0)
    runner.now += slow_s
    runner.wait = lambda: None
    over.set()
    return await asking


@pytest.fixture
def clockwork(monkeypatch) -> Clockwork:
    """With two slots, and the scheduler by its clock, so that a busy machine changes nothing."""
    runner = Clockwork(2)
    runner.sleep_s = TOKEN_S / 10
    monkeypatch.setattr("runtime.engines.scheduler.time", SimpleNamespace(monotonic=lambda: runner.now))
    return runner


@pytest.mark.parametrize("step_s", [0.0, 0.07])
async def test_a_long_prompt_does_not_hold_up_answers_under_way(clockwork: Clockwork, step_s: float) -> None:
    """What a step takes without it does not count."""
    runner = clockwork
    runner.step_s = step_s
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(2))
    running = engine.generate([1] * 4, Sampling(50_000))
    await first_token(running)
    assert await ask_during_a_step(engine, runner, answer(engine, 2000, 2)) == [[7, 7]]
    await running.aclose()
    await engine.close()
    beside = [sum(shares.values()) for shares in runner.steps if len(shares) == 2]
    assert beside[0] == 17  # nothing is known yet of how long a prompt takes
    parts = beside[1 : beside.index(2)]
    assert sum(beside[: beside.index(2)]) == 2000 + 1 + len(parts)
    assert all(200 <= size <= 201 for size in parts[:-1])  # a fifth of a second


async def test_one_slow_step_does_not_make_prompts_seem_fast(clockwork: Clockwork) -> None:
    runner = clockwork
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(2))
    running = engine.generate([1] * 40, Sampling(50_000))
    await first_token(running)
    assert await ask_during_a_step(engine, runner, answer(engine, 2000, 2), slow_s=60) == [[7, 7]]
    await running.aclose()
    await engine.close()
    beside = [sum(shares.values()) for shares in runner.steps if len(shares) == 2]
    assert beside[0] == 201 and all(size <= 202 for size in beside)


async def test_a_prompt_begins_with_more_than_a_crumb(clockwork: Clockwork) -> None:
    """Where another one has left little room: a small part takes nearly as long as a whole one."""
    runner = clockwork
    runner.slots = 4
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(4))
    running = engine.generate([1] * 40, Sampling(50_000))
    await first_token(running)
    answers = (answer(engine, length, 1) for length in (190, 30, 14))
    assert await ask_during_a_step(engine, runner, *answers) == [[7]] * 3
    await running.aclose()
    await engine.close()
    read = [[share for request, share in shares.items() if len(request.prompt) != 40] for shares in runner.steps]
    assert [shares for shares in read if shares] == [[190], [30, 14]]


async def test_a_prompt_alone_takes_whole_steps() -> None:
    runner = Clockwork(2)
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(2))
    await answer(engine, 2000, 1)
    assert [sum(shares.values()) for shares in runner.steps] == [1024, 976]
    await engine.close()


class Echoes(Clockwork):
    """Scores the tokens of echoed prompts, each with its own number; ends after `length` tokens."""

    step_tokens = 16
    end_tokens = frozenset({0})

    def __init__(self, slots: int, length: int) -> None:
        super().__init__(slots)
        self.length = length

    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int]:
        for request, share in shares.items():
            request.scored += (ScoredToken(token, -token, ()) for token in request.to_score(share))
        found = super().step(shares)
        return {each: ScoredToken(7 if each.generated < self.length else 0, -0.5, ()) for each in found}


@pytest.mark.parametrize("longest", [0, 1, 2, 3])
async def test_an_echo_gives_the_prompt_before_the_answer_and_the_end_token_after_it(longest: int) -> None:
    """Also where the prompt takes several steps, and none of it is told twice."""
    engine = BatchingEngine(Echoes(2, length=2), ByteTokenizer(), Batching(2))
    sampling = Sampling(longest, logprobs=0, echo=True)
    for prompt in ([1], [3, 4], list(range(40, 80))):
        found = [token async for batch in engine.generate(prompt, sampling) for token in batch]
        assert found == [*prompt[1:], *[7, 7, 0][:longest]]
        assert [token.logprob for token in found[: len(prompt) - 1]] == [-token for token in prompt[1:]]
        assert [isinstance(token, EndToken) for token in found] == [token == 0 for token in found]
    await engine.close()


async def test_no_answer_and_no_echo_is_nothing() -> None:
    engine = BatchingEngine(Echoes(2, length=2), ByteTokenizer(), Batching(2))
    assert await answer(engine, 40, 0) == []
    await engine.close()


async def test_an_echo_reads_its_prompt_beside_answers_under_way_and_can_be_cancelled() -> None:
    runner = Echoes(2, length=1000)
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(2))
    running = engine.generate([1] * 4, Sampling(50_000))
    await first_token(running)
    echo = engine.generate([1] * 50_000, Sampling(1, logprobs=0, echo=True))
    await first_token(echo)
    assert len(runner.steps[-1]) == 2
    await echo.aclose()
    await engine.check_health()  # an answer to what came after
    begun = len(runner.steps)
    await anext(running)
    await anext(running)
    assert all(len(shares) == 1 for shares in runner.steps[begun + 1 :])
    await running.aclose()
    await engine.close()


async def test_a_step_that_hangs_is_not_healthy() -> None:
    runner = Clockwork(1)
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(1))
    begun, hang = threading.Event(), threading.Event()
    runner.wait = lambda: begun.set() or hang.wait(30)
    asking = asyncio.ensure_future(answer(engine, 4, 2))
    assert await asyncio.to_thread(begun.wait, 30)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.check_health(), 0.3)
    hang.set()
    await engine.check_health()
    assert await asking == [7, 7]
    await engine.close()


async def test_an_answer_ends_with_its_grammar_or_with_an_error_of_its_own() -> None:
    """The one that says what it may needs no end token, and the one that does not is stopped at the next step."""
    runner = Clockwork(3)
    runner.end_tokens = frozenset({0})
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(3))
    fits, never, fits_not = (Constraint("lark", f"start: /{said}/") for said in ("\\x07{3}", "x(?!y)", "x{3}"))
    free, whole = await asyncio.gather(answer(engine, 4, 9), answer(engine, 4, 9, fits))
    assert (free, whole) == ([7] * 9, [7] * 3)
    for bad in (never, fits_not):
        free, error = await asyncio.gather(answer(engine, 4, 9), answer(engine, 4, 9, bad), return_exceptions=True)
        assert free == [7] * 9 and isinstance(error, GrammarError)
    await engine.close()
    with pytest.raises(EngineDeadError):
        await engine.check(Constraint("lark", "start: /another/"))


async def test_what_needs_no_other_slots_holds_at_once() -> None:
    """Nobody waits for answers under way because somebody edits a number."""
    engine = BatchingEngine(Clockwork(2), ByteTokenizer(), Batching(2))
    running = engine.generate([1] * 4, Sampling(50_000))
    await first_token(running)
    await asyncio.wait_for(engine.configure(Batching(2, 0.5)), 10)
    assert len(await answer(engine, 4, 2)) == 2
    await engine.close()
    with pytest.raises(EngineDeadError):
        while await anext(running):
            pass


async def test_an_answer_hears_of_its_slot_before_its_first_step() -> None:
    runner = Clockwork(1)
    runner.limits = Limits(100, 256)
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(1))
    steps = threading.Semaphore(0)
    runner.wait = steps.acquire
    first, second = engine.generate([1] * 10, Sampling(50)), engine.generate([1] * 10, Sampling(50))
    assert await anext(first) == []
    waiting = asyncio.ensure_future(anext(second))
    steps.release()
    await first_token(first)
    assert await engine.cache_use() == 0.1
    assert not waiting.done()
    await first.aclose()
    steps.release(1000)
    assert await waiting == []
    await second.aclose()
    await engine.close()


async def test_who_cannot_be_admitted_hears_of_it() -> None:
    runner = Clockwork(2)
    engine = BatchingEngine(runner, ByteTokenizer(), Batching(2))
    runner.refuses = EngineMemoryError("out of memory")
    with pytest.raises(EngineMemoryError):
        await answer(engine, 4, 2)
    runner.refuses = None
    assert await answer(engine, 4, 2) == [7, 7]
    runner.refuses = EngineDeadError("gone")
    with pytest.raises(EngineDeadError, match="gone"):
        await answer(engine, 4, 2)
    with pytest.raises(EngineDeadError, match="gone"):
        await engine.check_health()
    await engine.close()
