"""What is measured of each request to a replica. It looks on: nothing here changes an answer."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from runtime import metrics, tracing
from runtime.api.requests import ValidRequest
from runtime.api.responses import Delta
from runtime.errors import DeadlineError, LLMServeError, http_error
from runtime.metrics import Metrics

TELL_S = 0.01
"""Tokens of one answer that come sooner after each other are told of together: to tell costs more than to make them."""

Clock = Callable[[], float]


class Meter:
    """Counts for one model."""

    def __init__(self, model: str, counts: Metrics, clock: Clock = time.monotonic) -> None:
        self._model = model
        self._counts = counts
        self._clock = clock
        self.running = self.waiting = 0
        """Answers."""
        self.show_load()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Counts what goes wrong with a valid request, being refused included."""
        try:
            yield
        except LLMServeError as error:
            row = http_error(error)
            self.add(metrics.ERRORS, 1, row.code or row.type)
            raise

    @contextmanager
    def request(self, *prompts: ValidRequest) -> Iterator["Observed"]:
        """A request that was admitted, with all its prompts, from its beginning to its end, however it comes."""
        tokens, answers = sum(len(each.prompt) for each in prompts), sum(each.n for each in prompts)
        self.add(metrics.PROMPT_TOKENS, tokens)
        observed = Observed(self, tokens, answers, self._clock)
        try:
            yield observed
        except LLMServeError as error:
            observed.end("timeout" if isinstance(error, DeadlineError) else "error")
            raise
        finally:
            observed.end("cancelled")

    @contextmanager
    def embedding(self, tokens: int) -> Iterator[None]:
        """A request for vectors that was admitted."""
        begin = self._clock()
        self.add(metrics.PROMPT_TOKENS, tokens)
        tracing.annotate({"gen_ai.usage.input_tokens": tokens})
        yield
        self.add(metrics.REQUEST_DURATION, self._clock() - begin)

    def add(self, metric: metrics.Metric, value: float, *labels: str) -> None:
        """Record it for this model."""
        self._counts.record(metric, value, self._model, *labels)

    def show_load(self) -> None:
        """The numbers of answers that run and wait."""
        self.add(metrics.RUNNING, self.running)
        self.add(metrics.WAITING, self.waiting)

    def started(self, phases: Mapping[str, float]) -> None:
        """What the parts of the replica's start took, in seconds."""
        for phase, seconds in phases.items():
            self.add(metrics.START_SECONDS, seconds, phase)


class Observed:
    """One request under way."""

    def __init__(self, meter: Meter, prompt_tokens: int, answers: int, clock: Clock) -> None:
        self._meter = meter
        self._clock = clock
        self._begin = clock()
        self._prompt_tokens = prompt_tokens
        self._open = set(range(answers))
        self._waiting = set(range(answers))
        self._tokens: dict[int, int] = {}
        """Those of each answer so far."""
        self._told: dict[int, tuple[float, int]] = {}
        """When each answer was told of, and how many tokens it had then."""
        self._reasons: list[str] = []
        meter.waiting += answers
        meter.show_load()

    def in_slot(self, index: int) -> None:
        """The engine has taken an answer into a slot. May be said again."""
        if index in self._waiting:
            self._leave_queue(index)
            self._meter.running += 1
            self._meter.show_load()
            self._meter.add(metrics.QUEUE_TIME, self._clock() - self._begin)

    def piece(self, delta: Delta) -> None:
        """A piece of an answer is there."""
        if not delta.tokens and delta.finish is None:
            return  # the echo of a prompt
        now, told = self._clock(), self._told.get(delta.index)
        self._tokens[delta.index] = delta.tokens
        if told is None:
            self._meter.add(metrics.TIME_TO_FIRST_TOKEN, now - self._begin)
            tracing.annotate({"gen_ai.server.time_to_first_token": now - self._begin})
        elif delta.finish is None and now - told[0] < TELL_S:
            return
        elif tokens := delta.tokens - told[1]:
            self._meter.add(metrics.INTER_TOKEN_LATENCY, (now - told[0]) / tokens)
        self._count_tokens(delta.index)
        self._told[delta.index] = (now, delta.tokens)
        if delta.finish is not None:
            self._end_one(delta.index, delta.finish)

    def _count_tokens(self, index: int) -> None:
        """Those that nobody was told of."""
        _, before = self._told.get(index, (0.0, 0))
        self._meter.add(metrics.ANSWER_TOKENS, self._tokens.get(index, 0) - before)

    def end(self, reason: str) -> None:
        """The request is over; the answers that have not ended by themselves end for this reason."""
        for index in sorted(self._open):
            self._count_tokens(index)
            self._end_one(index, reason)

    def _end_one(self, index: int, reason: str) -> None:
        if index in self._waiting:
            self._leave_queue(index)
        else:
            self._meter.running -= 1
        self._open.discard(index)
        self._reasons.append(reason)
        self._meter.show_load()
        self._meter.add(metrics.ANSWERS, 1, reason)
        if not self._open:
            self._meter.add(metrics.REQUEST_DURATION, self._clock() - self._begin)
            tracing.annotate(
                {
                    "gen_ai.usage.input_tokens": self._prompt_tokens,
                    "gen_ai.usage.output_tokens": sum(self._tokens.values()),
                    "gen_ai.response.finish_reasons": self._reasons,
                }
            )

    def _leave_queue(self, index: int) -> None:
        self._waiting.discard(index)
        self._meter.waiting -= 1
