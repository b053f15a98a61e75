"""Events on the wire: whatever is in the text and however it is cut, clients read what was said, and when it failed."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from runtime.api import pump, sse
from runtime.api.pump import Pump
from runtime.api.requests import ValidRequest
from runtime.api.responses import Delta, Shape
from runtime.api.routes import _events, create_app
from runtime.api.sse import HEARTBEAT, EventStream
from runtime.engines.contract import Sampling
from runtime.errors import EngineError
from tests.conftest import at_size

SENTINEL = "[DONE]"
MESSAGES = [{"role": "user", "content": "Hi"}]
nasty = st.text(st.sampled_from('ab\n\r\0:\t\x0b\x0c\x1c\x85\u2028\u2029\ufeff é日😀"\\')) | st.sampled_from(
    ["data: [DONE]\n\n", "\n\ndata: {}", "event: error", ": comment\n", "\r\n\r\n", "id: 1"]
)


async def stream_of(texts: Sequence[str], error: Exception | None = None) -> bytes:
    """A chat's stream, a heartbeat before each of its pieces."""

    async def pieces():
        for number, text in enumerate(texts):
            yield []
            yield [Delta(text, number + 1, "stop" if number == len(texts) - 1 and not error else None)]
        if error:
            raise error

    valid = ValidRequest((1,), Sampling(50), ())
    return b"".join([each async for each in _events(pieces(), Shape("acme/model", chat=True, usage=True), [valid])])


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[a:b] for a, b in pairwise([0, *sorted(min(place, len(data)) for place in places), len(data)])]


def text_of(events: Sequence[dict]) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@settings(max_examples=at_size(100, 1_000))
@given(st.lists(nasty, min_size=1, max_size=5), st.lists(st.lists(st.integers(0, 2_000), max_size=30), min_size=5))
def test_any_text_in_any_chunks_is_what_was_said(texts: list[str], cuts: list[list[int]]) -> None:
    whole = asyncio.run(stream_of(texts))
    for places in cuts:
        *found, done = [event.data for event in SSEDecoder().iter_bytes(iter(cut(whole, places)))]
        assert done == SENTINEL and SENTINEL not in found
        assert text_of([json.loads(each) for each in found]) == "".join(texts)
    lines = [line.removeprefix("data: ") for line in whole.decode().splitlines() if line.startswith("data: ")]
    assert text_of([json.loads(line) for line in lines[:-1]]) == "".join(texts)  # as careless clients split it


@given(st.lists(nasty, min_size=1, max_size=4), nasty, st.lists(st.integers(0, 2_000), max_size=20))
def test_a_fault_is_the_last_event_in_any_chunks(texts: list[str], problem: str, places: list[int]) -> None:
    whole = asyncio.run(stream_of(texts, EngineError(problem)))
    *found, last = [json.loads(event.data) for event in SSEDecoder().iter_bytes(iter(cut(whole, places)))]
    assert text_of(found) == "".join(texts)
    assert last["error"]["message"] == problem
    assert not any("error" in each for each in found)


async def test_a_heartbeat_is_no_event(make_client, engine, monkeypatch) -> None:
    """One that comes before anything else begins the response; what fails after it is an event."""
    monkeypatch.setattr(pump, "HEARTBEAT_S", 0)
    asked = {"messages": MESSAGES, "stream": True}
    for outcome in (b"Hello", EngineError("boom")):
        gate = asyncio.Event()
        engine.script = [gate, outcome]
        asking = asyncio.create_task((await make_client()).post("/v1/chat/completions", json=asked))
        while not engine.running:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        gate.set()
        response = await asking
        assert response.status_code == 200 and response.content.startswith(HEARTBEAT)
        events = [event.data for event in SSEDecoder().iter_bytes(iter([response.content]))]
        if isinstance(outcome, bytes):
            assert events[-1] == SENTINEL and text_of([json.loads(each) for each in events[:-1]]) == "Hello"
        else:
            assert [json.loads(each)["error"]["message"] for each in events] == ["boom"]


@pytest.mark.parametrize("count", range(5))
async def test_openais_client_raises_what_failed_after_any_number_of_tokens(make_replica, engine, count: int) -> None:
    engine.script = [*(b"x",) * count, EngineError("boom")]
    transport = httpx.ASGITransport(create_app(await make_replica()))
    client = openai.AsyncOpenAI(
        base_url="http://test/v1", api_key="none", http_client=httpx.AsyncClient(transport=transport), max_retries=0
    )
    said = ""
    with pytest.raises(openai.APIError, match="boom"):
        stream = await client.chat.completions.create(model="acme/model", messages=MESSAGES, stream=True)
        async for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert said == "x" * count
    assert engine.running == 0


async def test_a_client_that_does_not_read_is_cut_after_a_while(advance, caplog) -> None:
    closed, reading = [], asyncio.Event()

    async def events():
        try:
            for _ in range(100):
                yield b"x"
        finally:
            closed.append(True)

    async def receive():
        await asyncio.Event().wait()

    sent = []

    async def send(message) -> None:
        sent.append(message)
        if len(sent) > 3:
            await reading.wait()

    sending = asyncio.create_task(EventStream(events())({"type": "http"}, receive, send))
    while len(sent) < 4:
        await asyncio.sleep(0)
    advance(sse.STALL_S - 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not sending.done()
    advance(2)
    await sending
    assert closed and len(sent) == 4
    assert sent[-1]["more_body"]  # it was not ended as if it were whole
    assert "has read nothing for 60 s" in caplog.text


async def test_a_client_that_reads_slowly_but_does_is_not_cut(advance) -> None:
    async def answer():
        for number in range(5):
            yield Delta("x", number)
            await asyncio.sleep(0)

    async def events():
        async for deltas in Pump().pieces(answer()):
            yield b"".join(delta.text.encode() for delta in deltas)

    async def receive():
        await asyncio.Event().wait()

    sent = []

    async def send(message) -> None:
        advance(sse.STALL_S - 1)
        await asyncio.sleep(0)
        sent.append(message)

    await EventStream(events())({"type": "http"}, receive, send)
    assert b"".join(each.get("body", b"") for each in sent) == b"xxxxx"
    assert not sent[-1]["more_body"]
