"""What is measured: one table, and the numbers of one process.

Two readers see the same numbers: whoever asks for `GET /metrics`, and Ray's own export (`runtime.node_metrics`), which
has every replica of a node. Nothing that a client writes becomes a label, except through `Names`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, with the time of its first number
CONTENT_TYPE = CONTENT_TYPE_LATEST
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 600.0)
_FORWARD_S = (0.001, 0.0025, 0.005, *_FIRST_TOKEN_S[1:])


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """A row of the table."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    says: str
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()
    """Upper bounds, where it is a histogram."""


TIME_TO_FIRST_TOKEN = Metric(
    "llm_serve_time_to_first_token_seconds",
    "histogram",
    "From a request's arrival in the replica to the first token of each of its answers.",
    buckets=_FIRST_TOKEN_S,
)
INTER_TOKEN_LATENCY = Metric(
    "llm_serve_inter_token_latency_seconds",
    "histogram",
    "Between two pieces of an answer, for each token of the second.",
    buckets=_TOKEN_S,
)
REQUEST_DURATION = Metric(
    "llm_serve_request_duration_seconds",
    "histogram",
    "From a request's arrival in the replica to the end of its last answer.",
    buckets=_REQUEST_S,
)
QUEUE_TIME = Metric(
    "llm_serve_queue_time_seconds",
    "histogram",
    "From a request's arrival in the replica until the engine takes each of its answers into a slot.",
    buckets=_FIRST_TOKEN_S,
)
PROMPT_TOKENS = Metric("llm_serve_prompt_tokens_total", "counter", "Tokens of the prompts of requests that were taken.")
ANSWER_TOKENS = Metric("llm_serve_generation_tokens_total", "counter", "Tokens of answers.")
RUNNING = Metric("llm_serve_requests_running", "gauge", "Answers in a slot of the engine.")
WAITING = Metric("llm_serve_requests_waiting", "gauge", "Answers that wait for a slot.")
CACHE_USE = Metric(
    "llm_serve_kv_cache_usage_ratio", "gauge", "Share of the KV cache that running answers have filled, 0 to 1."
)
ANSWERS = Metric(
    "llm_serve_answers_total",
    "counter",
    "Answers by what ended them: stop, length and the like; error; timeout; cancelled where the client went.",
    ("model", "reason"),
)
ERRORS = Metric(
    "llm_serve_errors_total",
    "counter",
    "Valid requests that failed, by their error's code: overloaded, timeout, engine_error, out_of_memory, and so on.",
    ("model", "code"),
)
RESPONSES = Metric(
    "llm_serve_http_responses_total", "counter", "Responses of the model's own routes by status.", ("model", "status")
)
IGNORED_FIELDS = Metric(
    "llm_serve_ignored_fields_total",
    "counter",
    "Unknown fields of requests, which were ignored. The first names are kept, the rest count as `other`.",
    ("model", "field"),
)
START_SECONDS = Metric(
    "llm_serve_model_start_seconds",
    "gauge",
    "What the replica's start took: `fetch` and `verify` of its files, `load` of its engine, `warm_up`.",
    ("model", "phase"),
)
GATEWAY_RESPONSES = Metric(
    "llm_serve_gateway_responses_total",
    "counter",
    "Responses of the gateway by status. `model` is empty where the request named none that is there.",
    ("model", "status"),
)
GATEWAY_FIRST_BYTE = Metric(
    "llm_serve_gateway_first_byte_seconds",
    "histogram",
    "From a request's arrival in the gateway to the beginning of the response.",
    buckets=_FORWARD_S,
)
GATEWAY_WAITING = Metric(
    "llm_serve_gateway_requests_waiting", "gauge", "Requests in the gateway that wait for a model to start.", ()
)

MODEL_METRICS = (
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_LATENCY,
    REQUEST_DURATION,
    QUEUE_TIME,
    PROMPT_TOKENS,
    ANSWER_TOKENS,
    RUNNING,
    WAITING,
    CACHE_USE,
    ANSWERS,
    ERRORS,
    RESPONSES,
    IGNORED_FIELDS,
    START_SECONDS,
)
"""Those of a replica."""
GATEWAY_METRICS = (GATEWAY_RESPONSES, GATEWAY_FIRST_BYTE, GATEWAY_WAITING)
METRICS = (*MODEL_METRICS, *GATEWAY_METRICS)

Record = Callable[[Metric, float, tuple[str, ...]], None]
"""(metric, value, a value for each of its labels): adds to a counter, sets a gauge, puts into a histogram."""


class Metrics:
    """What this process has measured. `also` hears of every number too."""

    def __init__(self, metrics: Sequence[Metric], also: Record | None = None) -> None:
        self._registry = CollectorRegistry()
        self._collectors = {metric: _collector(metric, self._registry) for metric in metrics}
        self._recorders: dict[tuple[Metric, tuple[str, ...]], Callable[[float], None]] = {}
        self._also = also

    def record(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a counter, set a gauge, put into a histogram. `labels`: a value for each of the metric's."""
        recorder = self._recorders.get((metric, labels))
        if recorder is None:
            recorder = self._recorders[metric, labels] = self._recorder(metric, labels)
        recorder(value)
        if self._also is not None:
            self._also(metric, value, labels)

    def _recorder(self, metric: Metric, labels: tuple[str, ...]) -> Callable[[float], None]:
        collector = self._collectors[metric]
        child = collector.labels(*labels) if metric.labels else collector
        recorder: Callable[[float], None] = getattr(
            child, {"counter": "inc", "gauge": "set", "histogram": "observe"}[metric.kind]
        )
        return recorder

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


def _collector(metric: Metric, registry: CollectorRegistry) -> Any:
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.says, metric.labels, registry=registry, buckets=metric.buckets)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.says, metric.labels, registry=registry)


class Names:
    """Names that clients wrote, as labels: the first so many, if they look like names; `other` for the rest."""

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        """The label for `name`."""
        if name in self._known:
            return name
        if len(self._known) >= self._most or len(name) > 40 or not (name.isascii() and name.isidentifier()):
            return "other"
        self._known.add(name)
        return name
