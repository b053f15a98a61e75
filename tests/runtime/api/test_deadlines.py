"""Deadlines: an answer that takes longer than the model's `request_timeout_s` ends, and frees its slot."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest

from runtime.api.routes import create_app
from tests.runtime.support import events, settings_for
from tests.runtime.test_meter import number

ASKED = {"prompt": "Once", "max_tokens": 50}
PATH = "/v1/completions"
TIMEOUT_S = 20.0


@pytest.fixture
async def replica(make_replica):
    replica = await make_replica()
    await replica.configure(settings_for().model_copy(update={"request_timeout_s": TIMEOUT_S}))
    return replica


@pytest.fixture
def client(replica) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(replica)), base_url="http://test")


async def ask_until_late(client, engine, advance, **more) -> httpx.Response:
    asking = asyncio.create_task(client.post(PATH, json=ASKED | more))
    while not engine.running:
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    advance(TIMEOUT_S - 1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not asking.done()
    advance(1.5)
    return await asking


async def test_an_answer_that_takes_too_long_is_a_504(client, replica, engine, advance) -> None:
    engine.script = [b"Hel", asyncio.Event()]
    response = await ask_until_late(client, engine, advance)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (504, "server_error", "timeout")
    assert "20 s" in error["message"]
    assert engine.running == replica._admission.inside == 0
    assert number(replica.metrics, "answers_total", "timeout") == 1
    assert number(replica.metrics, "errors_total", "timeout") == 1


async def test_a_stream_that_takes_too_long_ends_with_an_error_event(client, replica, engine, advance) -> None:
    engine.script = [b"Hel", asyncio.Event()]
    response = await ask_until_late(client, engine, advance, stream=True)
    assert response.status_code == 200
    found = events(response)
    assert found[0]["choices"][0]["text"] == "Hel"
    assert found[-1]["error"]["code"] == "timeout"
    assert engine.running == replica._admission.inside == 0
    assert number(replica.metrics, "answers_total", "timeout") == 1
    assert number(replica.metrics, "errors_total", "timeout") == 1
    assert number(replica.metrics, "answers_total", "cancelled") is None


async def test_vectors_that_take_too_long_are_a_504(client, replica, engine, advance) -> None:
    async def embed(_: Sequence[int]) -> Sequence[float]:
        engine.running += 1
        await asyncio.Event().wait()
        raise AssertionError

    engine.embed, engine.limits = embed, replace(engine.limits, embeds=True)
    asking = asyncio.create_task(client.post("/v1/embeddings", json={"input": "a"}))
    while not engine.running:
        await asyncio.sleep(0)
    advance(TIMEOUT_S + 0.5)
    assert (await asking).status_code == 504
    assert number(replica.metrics, "errors_total", "timeout") == 1


async def test_a_new_deadline_holds_for_the_next_request(client, replica, engine, advance) -> None:
    settings = settings_for().model_copy(update={"request_timeout_s": None})
    await replica.configure(settings)
    engine.script = [gate := asyncio.Event(), b"Hello"]
    asking = asyncio.create_task(client.post(PATH, json=ASKED))
    while not engine.running:
        await asyncio.sleep(0)
    advance(1e6)
    for _ in range(50):
        await asyncio.sleep(0)
    gate.set()
    assert (await asking).status_code == 200
