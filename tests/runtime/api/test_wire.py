"""A replica behind a real server and real sockets: clients that leave, that do not read, and far too many of them."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from random import Random

import httpx
import psutil
import pytest
import uvicorn

from runtime.api import sse
from runtime.api.routes import create_app
from runtime.engines.contract import Limits
from runtime.replica import Replica
from tests.conftest import at_size

HOST = "127.0.0.1"
PATH = "/v1/completions"
STREAMS = at_size(40, 100)
ASKED = {"prompt": "Once", "max_tokens": 1 << 20}


@pytest.fixture
async def port(served: Replica) -> AsyncIterator[int]:
    """Where the replica listens. The kernel holds little of what a client does not read."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        listener.bind((HOST, 0))
        server = uvicorn.Server(uvicorn.Config(create_app(served), log_level="critical", lifespan="off"))
        server.capture_signals = nullcontext  # they are the tests' own
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0)
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


@pytest.fixture
async def served(make_replica, engine) -> Replica:
    engine.limits = Limits(context_length=1 << 21, vocabulary_size=256)
    return await make_replica(max_batch_size=1, max_waiting_requests=8)


async def ask(port: int, *, stream: bool, room: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request over a connection of its own, whose end takes in so many bytes unread."""
    own = socket.socket()
    if room:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    own.setblocking(False)
    await asyncio.get_running_loop().sock_connect(own, (HOST, port))
    reader, writer = await asyncio.open_connection(sock=own, limit=room or 1 << 16)
    body = json.dumps(ASKED | {"stream": stream}).encode()
    writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\n" % PATH.encode())
    writer.write(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    return reader, writer


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


def open_sockets() -> int:
    return len(psutil.Process().net_connections("tcp"))


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_leave_at_any_point_leave_nothing_behind(port, served, engine, stream: bool) -> None:
    random, before = Random(stream), Counter()
    for number in range(STREAMS):
        tokens = random.randrange(6)
        engine.script = [*[b"x"] * tokens, asyncio.Event(), b"never"]
        reader, writer = await ask(port, stream=stream)
        await until(lambda: engine.running == 1)
        if stream and tokens:
            await reader.readuntil(b"data: ")
        for _ in range(random.randrange(20)):
            await asyncio.sleep(0)
        assert served._admission.inside == 1
        if random.random() < 0.5:
            writer.transport.abort()  # a reset, not a goodbye
        writer.close()
        await until(lambda: engine.running == 0 and served._admission.inside == 0)
        if number == 0:
            before.update(tasks=len(asyncio.all_tasks()), sockets=open_sockets())
    await until(lambda: len(asyncio.all_tasks()) <= before["tasks"] and open_sockets() <= before["sockets"])
    assert len(engine.requests) == STREAMS


async def test_200_at_once_are_refused_at_once_but_for_nine(port, served, engine) -> None:
    """Nobody who is refused waits for one who is not: all refusals are there before any answer can be."""
    engine.script = [gate := asyncio.Event(), b"Hello"]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", limits=limits, timeout=60) as client:
        asked = [
            asyncio.create_task(client.post(PATH, json=ASKED | {"stream": number % 2 == 0})) for number in range(200)
        ]
        await until(lambda: sum(each.done() for each in asked) == 191)
        assert engine.running == 9
        assert (await client.get("/health")).status_code == 200  # a full queue is healthy
        gate.set()
        responses = await asyncio.gather(*asked)
    assert Counter(response.status_code for response in responses) == {200: 9, 429: 191}
    for response in responses:
        if response.status_code == 429:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "overloaded"
            assert response.json()["error"]["type"] == "rate_limit_error"
    assert served._admission.inside == 0


async def test_clients_that_do_not_read_hold_little_and_nobody_up(port, served, engine, leap) -> None:
    """Eight of them, each with a long answer; the ninth place serves others. In the end they are cut."""
    pulled, pieces = Counter(), 2_000
    engine.tokenizer.piece = lambda token: bytes([token]) * 1_000

    class Long(list):
        def __init__(self, name: int) -> None:
            self.name = name

        def __iter__(self):
            for _ in range(pieces):
                pulled[self.name] += 1
                yield b"x"

    engine.scripts = {number: Long(number) for number in range(8)}
    engine.script = [b"Hello"]
    slow = [await ask(port, stream=True, room=1 << 12) for _ in range(8)]
    await until(lambda: len(pulled) == 8)
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        for _ in range(at_size(5, 20)):
            response = await client.post(PATH, json=ASKED | {"stream": True})
            assert response.text.endswith("data: [DONE]\n\n")
    assert engine.running == served._admission.inside == 8
    assert max(pulled.values()) < pieces  # nobody has taken in all of an answer that nobody reads
    for reader, _ in slow:
        assert len(await reader.read(100)) > 0  # a byte now and then is reading
    leap(sse.STALL_S + 1)
    await until(lambda: engine.running == served._admission.inside == 0)
    for _, writer in slow:
        writer.transport.abort()
