"""What a benchmark of engines asks, what comes back, and the figures of it."""

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

TOKENS = 64
"""Tokens of each answer. No side is told of a least length, which some do not know: the questions ask for long ones."""
QUESTION = "Tell me a long story about number {}."


class BenchmarkError(Exception):
    """A side did not do what it was asked to; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and when its pieces came."""

    text: str
    asked: float
    pieces: Sequence[float]

    @property
    def gaps(self) -> list[float]:
        """Seconds between the pieces."""
        return [after - before for before, after in pairwise(self.pieces)]


@dataclass(frozen=True, slots=True)
class Side:
    """Something that answers questions, all of a list at once."""

    name: str
    answer: Callable[[Sequence[str]], Awaitable[list[Answer]]]
    ours: str | None = None
    """The side of ours that it is compared with; None for that one."""
    most: int | None = None
    """Most clients that it is measured with."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one side did in one round with so many clients."""

    answers: Sequence[Answer]

    @property
    def rate(self) -> float:
        """Tokens/s of all clients, from the first request to the last token."""
        begun = min(answer.asked for answer in self.answers)
        return len(self.answers) * TOKENS / (max(answer.pieces[-1] for answer in self.answers) - begun)

    @property
    def firsts(self) -> list[float]:
        """Seconds to each answer's first token."""
        return [answer.pieces[0] - answer.asked for answer in self.answers]

    def agreement(self, other: "Round") -> float:
        """How much of the texts is the same from their beginning: 1 is all of it."""
        return statistics.mean(
            _common(mine.text, its.text) / max(len(mine.text), len(its.text))
            for mine, its in zip(self.answers, other.answers, strict=True)
        )


def _common(one: str, other: str) -> int:
    """Characters that both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


async def collect(asked: float, texts: AsyncIterator[tuple[str, int]]) -> Answer:
    """An answer out of pieces (text, tokens so far). Raises BenchmarkError when it has another length."""
    text, pieces, tokens = "", [], 0
    async for piece, so_far in texts:
        text, tokens = text + piece, so_far
        pieces.append(time.perf_counter())
    if tokens != TOKENS:
        raise BenchmarkError(f"asked for {TOKENS} tokens, got {tokens}: {text!r}")
    return Answer(text, asked, pieces)


def questions(clients: int, round_: int) -> list[str]:
    """No question comes twice, so that nobody's cache has seen one whole."""
    first = 100 * round_ + clients  # 1, 8 or 32 clients and what lies between are apart
    return [QUESTION.format(first + number) for number in range(clients)]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    digits = 2 if max(values) < 10 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
