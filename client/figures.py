"""What a load has shown: percentiles, throughput, and the share of requests that met their goals."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from client.load import Answer

MEASURES: Mapping[str, Callable[[Answer], float | None]] = {
    "ttft": lambda answer: answer.first_token_s,
    "tpot": lambda answer: answer.token_s,
    "e2e": lambda answer: answer.duration_s,
}
"""What a goal can be set for: time to first token, mean time per token after it, the whole request."""

Goals = Mapping[str, float]
"""Name of a measure -> most seconds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    most: float


def spread(values: Sequence[float]) -> Spread | None:
    """None where there are no values. Percentiles are values that were measured (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)

    def percentile(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    mean = sum(ordered) / len(ordered)
    return Spread(mean, percentile(0.5), percentile(0.9), percentile(0.99), ordered[-1])


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one load. Rates are per second of the whole load; those of tokens and goodput count answers without error."""

    load: str
    requests: int
    seconds: float
    answer_tokens: int
    prompt_tokens: int
    errors: Mapping[str, int]
    """What went wrong -> how often."""
    ttft: Spread | None
    itl: Spread | None
    """Inter-token latency: between one piece of a stream and the next."""
    tpot: Spread | None
    e2e: Spread | None
    good: int | None
    """Requests that met every goal; None without goals."""

    @property
    def tokens_per_second(self) -> float:
        """Throughput of answers' tokens."""
        return self.answer_tokens / self.seconds

    @property
    def goodput(self) -> float | None:
        """Requests per second that met every goal."""
        return None if self.good is None else self.good / self.seconds

    def plain(self) -> dict[str, Any]:
        """For programs."""
        rates = {"tokens_per_second": self.tokens_per_second, "requests_per_second": self.requests / self.seconds}
        return {**asdict(self), **rates, "goodput": self.goodput}


def figures(load: str, answers: Sequence[Answer], goals: Goals) -> Figures:
    """Of at least one answer."""
    good = [answer for answer in answers if answer.error is None]
    measured = {
        name: [value for answer in good if (value := measure(answer)) is not None] for name, measure in MEASURES.items()
    }
    return Figures(
        load,
        len(answers),
        max(answer.end for answer in answers) - min(answer.begin for answer in answers),
        sum(answer.usage.answer for answer in good),
        sum(answer.usage.prompt for answer in good),
        Counter(answer.error for answer in answers if answer.error is not None),
        spread(measured["ttft"]),
        spread([gap for answer in good for gap in answer.gaps]),
        spread(measured["tpot"]),
        spread(measured["e2e"]),
        sum(_meets(answer, goals) for answer in good) if goals else None,
    )


def _meets(answer: Answer, goals: Goals) -> bool:
    """A time that there is none of meets no goal."""
    times = ((MEASURES[name](answer), most) for name, most in goals.items())
    return all(seconds is not None and seconds <= most for seconds, most in times)
