"""Load: so many clients, or so many requests a second, and what each answer's tokens took."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from client.server import Server, ServerError, Usage

_WORDS = (
    "amber",
    "anchor",
    "autumn",
    "basket",
    "beacon",
    "bridge",
    "candle",
    "canyon",
    "cedar",
    "chapel",
    "cloud",
    "cobalt",
    "copper",
    "coral",
    "cotton",
    "desert",
    "ember",
    "falcon",
    "feather",
    "forest",
    "garden",
    "glacier",
    "granite",
    "harbor",
)


@dataclass(frozen=True, slots=True)
class Work:
    """What every request asks for."""

    model: str
    prompt_words: int
    tokens: int
    """Tokens of an answer: both `max_tokens` and `min_tokens`, which OpenAI's own API does not know."""
    seed: int = 0

    def body(self, number: int) -> dict[str, object]:
        """The request of that number. No two begin alike, so that no cache of prefixes helps."""
        words = random.Random(f"{self.seed}/{number}").choices(_WORDS, k=self.prompt_words)  # noqa: S311 (no secret)
        question = f"Tell a long story with the number {number} and these words: {' '.join(words)}"
        limits = {"max_tokens": self.tokens, "min_tokens": self.tokens, "temperature": 0}
        return {"model": self.model, "messages": [{"role": "user", "content": question}], **limits}


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's times, in seconds."""

    begin: float
    first: float | None
    """Of the first piece of text; None where there was none."""
    end: float
    gaps: tuple[float, ...]
    """Between one piece of text and the next; a piece may hold several tokens."""
    usage: Usage
    error: str | None = None
    """Why it is no answer."""

    @property
    def first_token_s(self) -> float | None:
        """From the request to the first piece of text."""
        return None if self.first is None else self.first - self.begin

    @property
    def token_s(self) -> float | None:
        """Mean time of a token after the first one."""
        if self.first is None or self.usage.answer < 2:
            return None
        return (self.end - self.first) / (self.usage.answer - 1)

    @property
    def duration_s(self) -> float:
        """From the request to the end."""
        return self.end - self.begin


async def ask(server: Server, work: Work, number: int) -> Answer:
    """One request, from its first byte to its last."""
    begin = last = time.perf_counter()
    first: float | None = None
    gaps, usage, error = [], Usage(0, 0), None
    try:
        async with aclosing(server.chat(work.body(number))) as pieces:
            async for piece in pieces:
                now = time.perf_counter()
                if piece.text and first is None:
                    first = now
                elif piece.text:
                    gaps.append(now - last)
                last = now if piece.text else last
                usage = piece.usage or usage
    except ServerError as failure:
        error = f"{failure.status}: {failure}" if failure.status else str(failure)
    return Answer(begin, first, time.perf_counter(), tuple(gaps), usage, error)


async def closed(server: Server, work: Work, clients: int, requests: int, done: Callable[[], object]) -> list[Answer]:
    """`clients` that each ask again as soon as they are answered, until there were so many requests."""
    numbers = iter(range(requests))
    answers: list[Answer] = []

    async def client() -> None:
        for number in numbers:
            answers.append(await ask(server, work, number))
            done()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def opened(
    server: Server, work: Work, per_second: float, requests: int, done: Callable[[], object]
) -> list[Answer]:
    """Requests that come by chance, so many a second on average (Poisson), whether others are answered or not."""

    async def one(number: int) -> Answer:
        answer = await ask(server, work, number)
        done()
        return answer

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) async for number in _arrivals(work.seed, per_second, requests)]
    return [task.result() for task in tasks]


async def _arrivals(seed: int, per_second: float, requests: int) -> AsyncIterator[int]:
    """Numbers of requests, each when its time has come."""
    chance, due = random.Random(seed), time.perf_counter()  # noqa: S311 (no secret)
    for number in range(requests):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield number
        due += chance.expovariate(per_second)
