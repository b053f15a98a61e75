"""What a replica's requests leave in the metrics, by a clock of the test's own."""

import asyncio
from contextlib import aclosing, suppress

import httpx
import pytest

from runtime.api.requests import ValidRequest
from runtime.api.responses import Delta
from runtime.api.routes import create_app
from runtime.engines.contract import Sampling
from runtime.errors import EngineError, OverloadedError
from runtime.meter import TELL_S, Meter
from runtime.metrics import MODEL_METRICS, Metrics
from tests.runtime.test_metrics import samples

MODEL = "acme/model"
REQUEST = ValidRequest((1, 2, 3), Sampling(max_new_tokens=8), ())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(MODEL_METRICS)


@pytest.fixture
def meter(metrics: Metrics, clock: Clock) -> Meter:
    return Meter(MODEL, metrics, clock)


def number(metrics: Metrics, name: str, *labels: str) -> float | None:
    return samples(metrics).get((f"llm_serve_{name}", (MODEL, *labels)))


def test_the_times_of_a_request(meter, metrics, clock) -> None:
    with meter.request(REQUEST) as observed:
        assert (meter.running, meter.waiting) == (0, 1)
        clock.now = 2.0
        observed.in_slot(0)
        assert (meter.running, meter.waiting) == (1, 0)
        clock.now = 5.0
        observed.in_slot(0)
        observed.piece(Delta("a", 1))
        clock.now = 6.0
        observed.piece(Delta("bc", 3))
        clock.now = 8.0
        observed.piece(Delta("", 3, "stop"))
    assert (meter.running, meter.waiting) == (0, 0)
    assert number(metrics, "queue_time_seconds_sum") == 2
    assert number(metrics, "time_to_first_token_seconds_sum") == 5
    assert number(metrics, "inter_token_latency_seconds_sum") == 0.5
    assert number(metrics, "inter_token_latency_seconds_count") == 1
    assert number(metrics, "request_duration_seconds_sum") == 8
    assert number(metrics, "prompt_tokens_total") == 3
    assert number(metrics, "generation_tokens_total") == 3
    assert number(metrics, "answers_total", "stop") == 1
    assert number(metrics, "requests_running") == number(metrics, "requests_waiting") == 0


def test_each_answer_of_a_request_counts_and_the_request_once(meter, metrics, clock) -> None:
    request = ValidRequest((1,), Sampling(max_new_tokens=8), (), n=2)
    with meter.request(request) as observed:
        assert meter.waiting == 2
        observed.in_slot(1)
        observed.piece(Delta("a", 1, "stop", index=1))
        clock.now = 3.0
        observed.in_slot(0)
        observed.piece(Delta("a", 2, "length"))
    assert number(metrics, "answers_total", "stop") == number(metrics, "answers_total", "length") == 1
    assert number(metrics, "generation_tokens_total") == 3
    assert number(metrics, "prompt_tokens_total") == 1
    assert number(metrics, "request_duration_seconds_count") == 1
    assert number(metrics, "request_duration_seconds_sum") == 3


def test_an_echo_is_no_first_token(meter, metrics, clock) -> None:
    with meter.request(REQUEST) as observed:
        observed.in_slot(0)
        observed.piece(Delta("the prompt", 0))
        clock.now = 3.0
        observed.piece(Delta("a", 1))
        clock.now = 4.0
        observed.piece(Delta("b", 2, "stop"))
    assert number(metrics, "time_to_first_token_seconds_sum") == 3
    assert number(metrics, "time_to_first_token_seconds_count") == 1
    assert number(metrics, "inter_token_latency_seconds_sum") == 1


def test_an_answer_without_tokens_begins_when_it_ends(meter, metrics, clock) -> None:
    with meter.request(REQUEST) as observed:
        observed.in_slot(0)
        observed.piece(Delta("the prompt", 0))
        clock.now = 3.0
        observed.piece(Delta("", 0, "stop"))
    assert number(metrics, "time_to_first_token_seconds_sum") == 3
    assert number(metrics, "inter_token_latency_seconds_count") is None


@pytest.mark.parametrize("finish", ["stop", None])
def test_tokens_that_come_too_fast_are_told_of_together_and_none_is_forgotten(meter, metrics, clock, finish) -> None:
    with suppress(GeneratorExit), meter.request(REQUEST) as observed:
        observed.in_slot(0)
        for tokens in range(1, 10):
            observed.piece(Delta("a", tokens))
            clock.now += TELL_S / 4
        assert number(metrics, "inter_token_latency_seconds_count") == 2
        assert number(metrics, "inter_token_latency_seconds_sum") == pytest.approx(2 * TELL_S / 4)
        observed.piece(Delta("a", 10))
        if finish is None:
            raise GeneratorExit
        observed.piece(Delta("a", 11, finish))
    assert number(metrics, "generation_tokens_total") == (11 if finish else 10)


@pytest.mark.parametrize(
    ("began", "error"), [(False, None), (True, None), (False, EngineError()), (True, EngineError())]
)
def test_an_answer_that_does_not_end_by_itself(meter, metrics, began, error) -> None:
    expected = GeneratorExit if error is None else EngineError
    with pytest.raises(expected), meter.errors(), meter.request(REQUEST) as observed:
        if began:
            observed.in_slot(0)
        raise error or GeneratorExit
    assert (meter.running, meter.waiting) == (0, 0)
    assert number(metrics, "answers_total", "error" if error else "cancelled") == 1
    assert number(metrics, "errors_total", "engine_error") == (1 if error else None)


def test_what_is_refused_is_an_error_and_no_answer(meter, metrics) -> None:
    with pytest.raises(OverloadedError), meter.errors():
        raise OverloadedError("full")
    assert number(metrics, "errors_total", "overloaded") == 1
    assert not any(name == "llm_serve_answers_total" for name, _ in samples(metrics))


async def test_a_replica_tells_its_numbers(make_replica, engine) -> None:
    replica = await make_replica()
    engine.script = [b"Hello", asyncio.Event(), b" world"]
    app = create_app(replica)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        body = {"prompt": "Hi", "max_tokens": 20, "user": "u", "not a name!": 1, "tools": None}
        asked = asyncio.create_task(client.post("/v1/completions", json=body))
        async with asyncio.timeout(5):
            while number(replica.metrics, "generation_tokens_total") is None:
                await asyncio.sleep(0.001)
        assert number(replica.metrics, "requests_running") == 1
        engine.script[1].set()
        assert (await asked).status_code == 200
        assert (await client.post("/v1/completions", json={"prompt": ""})).status_code == 400
        shown = await client.get("/metrics")
    assert shown.headers["content-type"].startswith("text/plain; version=")
    assert shown.content == replica.metrics.text()
    assert number(replica.metrics, "requests_running") == 0
    assert number(replica.metrics, "prompt_tokens_total") == 2
    assert number(replica.metrics, "generation_tokens_total") == 11
    assert number(replica.metrics, "ignored_fields_total", "user") == 1
    assert number(replica.metrics, "ignored_fields_total", "other") == 1
    assert number(replica.metrics, "http_responses_total", "200") == 1
    assert number(replica.metrics, "http_responses_total", "400") == 1
    assert number(replica.metrics, "model_start_seconds", "load") is not None
    assert number(replica.metrics, "kv_cache_usage_ratio") == 0.25


async def test_a_client_that_goes_leaves_nothing_running(make_replica, engine) -> None:
    replica = await make_replica()
    engine.script = [b"Hello", asyncio.Event()]
    request = ValidRequest((1, 2), Sampling(max_new_tokens=8), ())
    async with aclosing(replica.answer(request)) as answer:
        await anext(answer)
    assert number(replica.metrics, "answers_total", "cancelled") == 1
    assert number(replica.metrics, "requests_running") == number(replica.metrics, "requests_waiting") == 0


async def test_all_prompts_of_a_request_count_as_one(make_replica, engine) -> None:
    replica = await make_replica(max_batch_size=2)
    prompts = [ValidRequest((1, 2), Sampling(max_new_tokens=3), (), n=2), ValidRequest((3,), Sampling(2), (), n=2)]
    async with aclosing(replica.answer(*prompts)) as answer:
        await anext(answer)
        assert number(replica.metrics, "requests_running") == 2
        assert number(replica.metrics, "requests_waiting") == 2
        async for _ in answer:
            pass
    assert number(replica.metrics, "prompt_tokens_total") == 3
    assert number(replica.metrics, "generation_tokens_total") == 10
    assert number(replica.metrics, "answers_total", "length") == 4
    assert number(replica.metrics, "request_duration_seconds_count") == 1
