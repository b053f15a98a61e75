"""The gateway between a real HTTP client and a scripted upstream that plays Ray's proxy and the replicas behind it."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import httpx
import pytest
import uvicorn
from aiohttp import web

from runtime.access.keys import FILE
from runtime.api import query
from runtime.api.body import MAX_BODY_BYTES
from runtime.api.query import AT_A_TIME, MAX_PROMPTS
from runtime.api.sse import STALL_S
from runtime.application import RESERVED_NAMES, GatewayModel, GatewaySettings, ModelDetails
from runtime.availability import LOOK_AGE_S, Condition
from runtime.gateway import Gateway
from tests.runtime.access.test_keys import entry

HOST = "127.0.0.1"
CHAT = {"model": "acme/model", "messages": [{"role": "user", "content": "Hi"}]}
CARD = ModelDetails(
    task="text-generation",
    url="https://acme.test/model",
    description="A model",
    engine="llamaCpp",
    max_input_words=400,
)
MODELS = [
    GatewayModel(id="acme/model", application="acme--model", route_prefix="/acme--model", card=CARD),
    GatewayModel(id="acme/other", application="acme--other", route_prefix="/acme--other"),
]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Upstream:
    """Answers each path with its handler, and what has none as Ray's proxy does."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.open = 0
        self.url = ""

    def chat(self, handler: Handler, route_prefix: str = "/acme--model") -> None:
        self.handlers[f"{route_prefix}/v1/chat/completions"] = handler

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        if request.path not in self.handlers:
            return web.Response(status=404, text=f"Path '{request.path}' not found.")
        self.open += 1
        try:
            return await self.handlers[request.path](request)
        finally:
            self.open -= 1


class Look:
    """What Ray says of the applications: `down`, once `may_answer` is set, with a count of the questions."""

    def __init__(self) -> None:
        self.down: dict[str, Condition] = {}
        self.calls = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> dict[str, Condition]:
        self.calls += 1
        assert self.may_answer.wait(60)
        return dict(self.down)


def answers(status: int = 200, headers: dict[str, str] | None = None, **content) -> Handler:
    """A handler that gives one whole answer: `text` or `body`, with its content type."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, **content)

    return handler


def streams(*steps: bytes | asyncio.Event, dies: bool = False) -> Handler:
    """A handler that sends each piece by itself, waits at each event, and then ends or breaks the connection."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for step in steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                await response.write(step)
        if dies:
            assert request.transport is not None
            request.transport.close()
        return response

    return handler


def piece(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream, app = Upstream(), web.Application(client_max_size=2 * MAX_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    upstream.url = f"http://{HOST}:{runner.addresses[0][1]}"
    yield upstream
    await runner.cleanup()


@pytest.fixture
def look() -> Look:
    return Look()


@pytest.fixture
def gateway(upstream: Upstream, look: Look, monkeypatch) -> Gateway:
    """One that is in no hurry: it waits for what comes late on a slow machine."""
    monkeypatch.setattr("runtime.availability.LOOK_TIMEOUT_S", 60)
    monkeypatch.setattr("runtime.gateway.OWN_ENTRY_S", 60)
    gateway = Gateway(look)
    gateway.configure(GatewaySettings(upstream=upstream.url, models=MODELS))
    return gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Straight to the application. Answers come whole."""
    app = gateway.create_app()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    made = httpx.AsyncClient(transport=transport, base_url="http://test", headers={"content-type": "application/json"})
    async with app.router.lifespan_context(app), made:
        yield made


@pytest.fixture
async def remote(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Over TCP, through a real server: streams come as they are sent, and a client can go."""
    with socket.create_server((HOST, 0)) as listener:
        config = uvicorn.Config(gateway.create_app(), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{listener.getsockname()[1]}", timeout=10) as made:
            yield made
        server.should_exit = True
        await serving


async def until(condition: Callable[[], bool]) -> None:
    """Whatever the loop's clock does."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        await asyncio.to_thread(time.sleep, 0.001)


def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert error["message"] and set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["type"], error["code"]


async def test_health_asks_nobody(client, upstream, look) -> None:
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert (upstream.requests, look.calls) == ([], 0)


async def test_models_are_listed_with_what_they_are(client) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["acme/model", "acme/other"]
    assert listed["data"][0]["owned_by"] == "acme"
    assert listed["data"][0].items() >= CARD.model_dump(exclude_none=True).items()
    assert "description" not in listed["data"][1]
    assert (await client.get("/v1/models/acme/model")).json() == listed["data"][0]
    assert (await client.get("/v1/models/acme%2Fother")).json() == listed["data"][1]


async def test_an_unknown_model_is_a_404_that_says_what_there_is(client, upstream) -> None:
    asked = [
        client.get("/v1/models/acme/unknown"),
        client.post("/v1/completions", json=CHAT | {"model": "acme/unknown"}),
    ]
    for response in await asyncio.gather(*asked):
        assert error_of(response) == (404, "invalid_request_error", "model_not_found")
        error = response.json()["error"]
        assert error["param"] == "model"
        assert all(name in error["message"] for name in ("acme/unknown", "acme/model", "acme/other"))
    assert upstream.requests == []


async def test_an_adapter_is_asked_for_at_its_models_route(client, gateway, upstream) -> None:
    adapter = GatewayModel(id="sql", application="acme--model", route_prefix="/acme--model", parent="acme/model")
    gateway.configure(GatewaySettings(upstream=upstream.url, models=[*MODELS, adapter]))
    upstream.chat(answers(body=b"{}", content_type="application/json"))
    assert (await client.get("/v1/models/sql")).json()["parent"] == "acme/model"
    assert (await client.post("/v1/chat/completions", json=CHAT | {"model": "sql"})).status_code == 200
    path, _, body = upstream.requests[-1]
    assert path == "/acme--model/v1/chat/completions" and json.loads(body)["model"] == "sql"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b'{"model": "acme/model"} x', None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b"[]", "model"),
        (b'"acme/model"', "model"),
        (b"null", "model"),
        (b"{}", "model"),
        (b'{"model": null}', "model"),
        (b'{"model": ["acme/model"]}', "model"),
    ],
    ids=lambda value: value[:30].decode("latin-1") if isinstance(value, bytes) else value,
)
async def test_a_body_without_a_model_is_a_400(client, upstream, body, param) -> None:
    response = await client.post("/v1/chat/completions", content=body)
    assert error_of(response) == (400, "invalid_request_error", None)
    assert response.json()["error"]["param"] == param
    assert upstream.requests == []


async def test_a_body_may_be_so_long_and_not_a_byte_longer(client, upstream) -> None:
    upstream.chat(answers(body=b"{}", content_type="application/json"))
    body = json.dumps(CHAT).encode().ljust(MAX_BODY_BYTES)
    assert (await client.post("/v1/chat/completions", content=body)).status_code == 200
    response = await client.post("/v1/chat/completions", content=body + b" ")
    assert error_of(response) == (413, "invalid_request_error", "request_too_large")
    assert str(MAX_BODY_BYTES) in response.json()["error"]["message"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
async def test_a_request_reaches_its_model_as_it_came(client, upstream, route) -> None:
    upstream.handlers[f"/acme--other{route}"] = answers(body=b"{}", content_type="application/json")
    body = b'{ "model":"acme/other",  "unknown": [1.50, "\xc3\xa9"] }'
    headers = {"authorization": "Bearer x", "content-type": "application/json", "x-request-id": "r1", "cookie": "c=1"}
    await client.post(route, content=body, headers=headers)
    ((path, arrived, sent),) = upstream.requests
    assert (path, sent) == (f"/acme--other{route}", body)
    lower = {name.lower(): value for name, value in arrived.items()}
    assert {name: lower.get(name) for name in headers} == headers | {"cookie": None}


@pytest.mark.parametrize("status", [200, 400, 404, 429, 500, 503])
async def test_json_of_a_replica_passes_unchanged(client, upstream, status) -> None:
    body = b'{"error" : {"message":"Gr\xc3\xb6\xc3\x9fe", "code":"any"}}'
    headers = {"content-type": "application/json; charset=utf-8", "retry-after": "7"}
    upstream.chat(answers(status, headers, body=body))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.content) == (status, body)
    assert {name: response.headers[name] for name in headers} == headers


@pytest.mark.parametrize(
    ("status", "text", "expected", "says"),
    [
        (429, "Request dropped due to backpressure", (429, "rate_limit_error", "overloaded"), "try again"),
        (404, "Path '/acme--model' not found.", (503, "server_error", "model_unavailable"), "not found"),
        (408, "Request timed out after 600 s.", (503, "server_error", "model_unavailable"), "timed out"),
        (503, "Service Unavailable", (503, "server_error", "model_unavailable"), "Service Unavailable"),
        (500, "Internal Server Error", (500, "server_error", "engine_error"), "500"),
        (200, "A page of somebody else", (500, "server_error", "engine_error"), "200"),
    ],
)
async def test_rays_own_answers_become_errors_in_openais_shape(client, upstream, status, text, expected, says) -> None:
    upstream.chat(answers(status, text=text))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == expected
    message = response.json()["error"]["message"]
    assert "acme/model" in message and says in message
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))


async def test_a_route_that_is_not_there_yet_is_a_503(client) -> None:
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (503, "server_error", "model_unavailable")


async def test_an_upstream_that_does_not_listen_is_a_503(client, gateway) -> None:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        gateway.configure(GatewaySettings(upstream=f"http://{HOST}:{bound.getsockname()[1]}", models=MODELS))
        response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (503, "server_error", "model_unavailable")
    assert "cannot be reached" in response.json()["error"]["message"]


async def test_an_application_that_is_down_is_a_503_with_the_reason(client, upstream, look) -> None:
    upstream.chat(answers(body=b"{}", content_type="application/json"), "/acme--other")
    look.down = {"acme--model": Condition("failed", "DEPLOY_FAILED: registry/acme--model.yaml: no weights")}
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (503, "server_error", "model_unavailable")
    assert look.down["acme--model"].reason in response.json()["error"]["message"]
    assert upstream.requests == []
    other = await client.post("/v1/chat/completions", json=CHAT | {"model": "acme/other"})
    assert other.status_code == 200


async def test_requests_share_one_look_until_it_is_old(client, look, advance) -> None:
    look.down = {"acme--model": Condition("starting", "DEPLOYING")}
    look.may_answer.clear()
    asked = [asyncio.create_task(client.post("/v1/chat/completions", json=CHAT)) for _ in range(5)]
    await until(lambda: look.calls == 1)
    assert (await client.get("/health")).status_code == 200  # looking blocks a thread, not the gateway
    look.may_answer.set()
    assert {response.status_code for response in await asyncio.gather(*asked)} == {503}
    await client.post("/v1/chat/completions", json=CHAT)
    assert look.calls == 1
    advance(2 * LOOK_AGE_S + 0.1)
    look.down = {}
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert look.calls == 2 and "DEPLOYING" not in response.text


async def test_who_comes_often_does_not_wait_for_the_next_look(client, upstream, look, advance) -> None:
    upstream.chat(answers(body=b"{}", content_type="application/json"))
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
    look.may_answer.clear()
    look.down = {"acme--model": Condition("starting", "DEPLOYING")}
    advance(1.5 * LOOK_AGE_S)
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
    await until(lambda: look.calls == 2)
    advance(LOOK_AGE_S)
    late = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not late.done()  # this one does: what is known is too old
    look.may_answer.set()
    assert (await late).status_code == 503
    assert look.calls == 2


async def test_the_next_request_uses_a_new_list(client, gateway, upstream) -> None:
    upstream.chat(answers(body=b"{}", content_type="application/json"), "/moved")
    model = GatewayModel(id="acme/new", application="acme--new", route_prefix="/moved")
    assert (await client.post("/v1/chat/completions", json=CHAT | {"model": "acme/new"})).status_code == 404
    gateway.configure(GatewaySettings(upstream=upstream.url, models=[model]))
    assert (await client.post("/v1/chat/completions", json=CHAT | {"model": "acme/new"})).status_code == 200
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 404
    assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["acme/new"]


async def test_a_stream_passes_byte_for_byte_as_it_comes(remote, upstream) -> None:
    second = asyncio.Event()
    first_part, second_part = piece("Gr") + piece("öße")[:-9], piece("öße")[-9:] + b": comment\n\ndata: [DONE]\n\n"
    upstream.chat(streams(first_part, second, second_part))
    async with remote.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks, received = response.aiter_raw(), b""
        while len(received) < len(first_part):
            received += await anext(chunks)
        assert received == first_part and upstream.open == 1
        second.set()
        received += b"".join([chunk async for chunk in chunks])
    assert received == first_part + second_part


async def test_an_upstream_that_dies_in_mid_stream_is_one_error_event_and_no_done(remote, upstream) -> None:
    death = asyncio.Event()
    upstream.chat(streams(piece("Hel"), death, dies=True))
    async with remote.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        chunks = response.aiter_raw()
        assert await anext(chunks) == piece("Hel")
        death.set()
        rest = b"".join([chunk async for chunk in chunks])
    assert rest.startswith(b"data: ") and rest.endswith(b"\n\n") and rest.count(b"data: ") == 1
    assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "engine_error"


async def test_an_upstream_that_dies_before_it_answers_is_a_503(client, upstream) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    upstream.chat(handler)
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (503, "server_error", "model_unavailable")


async def test_a_client_that_leaves_a_stream_ends_the_work_behind_it(remote, upstream) -> None:
    upstream.chat(streams(piece("Hel"), asyncio.Event()))
    async with remote.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert await anext(response.aiter_raw()) == piece("Hel")
        assert upstream.open == 1
    await until(lambda: upstream.open == 0)


async def test_a_client_that_does_not_read_is_held_back_and_then_cut(remote, upstream, leap) -> None:
    """The model behind is not read from any more either, so that it knows; another client's stream goes on."""
    sent, piece_ = [0], piece("x" * 10_000)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(piece_)
            sent[0] += len(piece_)

    upstream.chat(endless)
    upstream.chat(streams(piece("Hi")), "/acme--other")
    async with remote.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.status_code == 200
        before = -1
        while sent[0] != before:  # all that lies between is full
            before = sent[0]
            await asyncio.sleep(0.3)
        assert upstream.open == 1
        other = await remote.post("/v1/chat/completions", json=CHAT | {"model": "acme/other", "stream": True})
        assert other.content == piece("Hi")
        leap(STALL_S + 1)
        with suppress(AssertionError):  # on a slow machine, what lies between may have filled up only now
            await until(lambda: upstream.open == 0)
        leap(STALL_S + 1)
        await until(lambda: upstream.open == 0)


async def test_a_client_that_leaves_before_the_answer_ends_the_work_behind_it(remote, upstream) -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    upstream.chat(never)
    asked = asyncio.create_task(remote.post("/v1/chat/completions", json=CHAT))
    await until(lambda: upstream.open == 1)
    asked.cancel()
    await until(lambda: upstream.open == 0)


def breaks_off(content_type: str, status: int = 200) -> Handler:
    """A handler that promises more than it sends."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"content-type": content_type, "content-length": "100"})
        await response.prepare(request)
        await response.write(b'{"id":')
        assert request.transport is not None
        request.transport.close()
        return response

    return handler


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_a_whole_answer_that_breaks_off_is_an_engine_error(client, upstream, content_type) -> None:
    upstream.chat(breaks_off(content_type))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (500, "server_error", "engine_error")
    assert "went away" in response.json()["error"]["message"]


async def test_text_in_any_encoding_is_an_error_like_others(client, upstream) -> None:
    upstream.chat(answers(503, {"content-type": "text/plain"}, body="Größe".encode("latin-1")))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (503, "server_error", "model_unavailable")


async def test_a_name_that_cannot_be_printed_is_a_400(client) -> None:
    response = await client.post("/v1/chat/completions", content=b'{"model": "\\ud800"}')
    assert error_of(response) == (400, "invalid_request_error", None)


async def test_a_redirect_is_not_followed(client, upstream) -> None:
    upstream.chat(answers(307, {"location": "/elsewhere"}, text=""))
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (500, "server_error", "engine_error")
    assert [path for path, _, _ in upstream.requests] == ["/acme--model/v1/chat/completions"]


async def test_a_stream_keeps_its_status_and_request_id(client, upstream) -> None:
    headers = {"content-type": "text/event-stream", "x-request-id": "the replica's"}
    upstream.chat(answers(500, headers, body=b'data: {"error": {}}\n\n'))
    response = await client.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "r1"})
    assert (response.status_code, response.headers.get_list("x-request-id")) == (500, ["r1"])


async def test_an_error_after_half_an_event_can_still_be_parsed(remote, upstream) -> None:
    gate = asyncio.Event()
    upstream.chat(streams(b'data: {"cho', gate, dies=True))
    async with remote.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        chunks = response.aiter_raw()
        received = await anext(chunks)
        gate.set()
        received += b"".join([chunk async for chunk in chunks])
    half, error, rest = received.split(b"\n\n")
    assert (half, rest) == (b'data: {"cho', b"")
    assert "went away" in json.loads(error.removeprefix(b"data: "))["error"]["message"]


async def test_a_client_that_goes_before_it_took_anything_leaves_no_request_behind(gateway, upstream) -> None:
    upstream.chat(streams(piece("x"), asyncio.Event()))
    app, gone = gateway.create_app(), asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps(CHAT).encode(), "more_body": False}]

    async def receive() -> dict:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: dict) -> None:
        gone.set()
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b""}
    scope["headers"] = [(b"content-type", b"application/json")]
    async with app.router.lifespan_context(app):
        await asyncio.wait_for(app(scope, receive, send), 5)
        await until(lambda: upstream.open == 0)


def test_no_model_may_take_one_of_its_routes() -> None:
    paths = [route.path for route in Gateway(Look()).create_app().routes]  # type: ignore[attr-defined]
    assert {path.split("/")[1] for path in paths} | {"gateway"} == RESERVED_NAMES


async def test_what_is_left_of_a_keys_tokens_is_what_the_replica_says(upstream, gateway, monkeypatch, tmp_path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("team", "key", "requests_per_minute = 5\ntokens_per_minute = 100"))
    file.chmod(0o600)
    monkeypatch.setenv(FILE, str(file))
    told = {"x-ratelimit-remaining-tokens": "10", "x-ratelimit-remaining-requests": "99"}
    told["content-type"] = "application/json"
    upstream.chat(answers(headers=told, body=b"{}"))
    app = gateway.create_app()
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        response = await made.post("/v1/chat/completions", json=CHAT, headers={"authorization": "Bearer key"})
    left = [response.headers.get_list(f"x-ratelimit-remaining-{what}") for what in ("tokens", "requests")]
    assert left == [["10"], ["4"]]


def says(text: str, prompt: int = 3, answer: int = 2, *, chat: bool = True) -> Handler:
    """A replica's whole answer."""
    content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    body = json.dumps({"choices": [{"index": 0, **content, "finish_reason": "stop"}], "usage": usage})
    return answers(body=body.encode(), content_type="application/json")


async def test_an_entry_says_whether_the_model_can_answer(client, look) -> None:
    look.down = {"acme--model": Condition("scaled_to_zero"), "acme--other": Condition("ready")}
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["status"] for model in listed] == ["scaled_to_zero", "ready"]
    assert (listed[0]["engine"], listed[0]["max_input_words"]) == ("llamaCpp", 400)


async def test_a_model_that_is_ready_says_itself_what_only_it_knows(client, look, upstream) -> None:
    own = {"id": "acme/model", "context_length": 4096, "task": "as it was before"}
    upstream.handlers["/acme--model/v1/models/acme/model"] = answers(
        body=json.dumps(own).encode(), content_type="application/json"
    )
    look.down = {"acme--model": Condition("ready"), "acme--other": Condition("ready")}
    entry = (await client.get("/v1/models/acme/model", headers={"authorization": "Bearer x"})).json()
    assert (entry["context_length"], entry["task"]) == (4096, "text-generation")
    assert upstream.requests[0][1]["Authorization"] == "Bearer x"
    other = (await client.get("/v1/models/acme/other")).json()  # says nothing
    assert (other["id"], other["status"]) == ("acme/other", "ready") and "context_length" not in other


async def test_an_entry_of_which_ray_tells_nothing_has_no_status(client) -> None:
    assert "status" not in (await client.get("/v1/models/acme/model")).json()


async def test_a_request_for_a_model_that_has_scaled_to_zero_asks_for_it(client, look, upstream) -> None:
    asked = asyncio.Event()

    async def health(_: web.Request) -> web.Response:
        asked.set()
        return web.json_response({})

    upstream.handlers["/acme--model/health"] = health
    look.down = {"acme--model": Condition("scaled_to_zero", "it starts when asked for")}
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert error_of(response) == (503, "server_error", "model_unavailable")
    assert response.headers["retry-after"]
    await asyncio.wait_for(asked.wait(), 5)
    assert [path for path, _, _ in upstream.requests] == ["/acme--model/health"]


async def test_a_request_waits_for_a_model_where_the_settings_say_so(
    client, gateway, look, upstream, monkeypatch
) -> None:
    monkeypatch.setattr("runtime.availability.LOOK_AGE_S", 0.01)
    settings = GatewaySettings(upstream=upstream.url, wait_for_model_s=60, models=MODELS)
    gateway.configure(settings)
    upstream.chat(says("Hello"))
    look.down = {"acme--model": Condition("starting", "DEPLOYING")}
    asked = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
    await until(lambda: look.calls > 1)
    assert not upstream.requests and b"llm_serve_gateway_requests_waiting 1.0" in (await client.get("/metrics")).content
    look.down = {"acme--model": Condition("ready")}
    assert (await asked).status_code == 200
    assert b"llm_serve_gateway_requests_waiting 0.0" in (await client.get("/metrics")).content


async def test_traces_pass_and_what_is_internal_does_not(client, upstream) -> None:
    limits = {"X-RateLimit-Remaining-Tokens": "9", "x-internal": "no"}
    upstream.chat(answers(headers=limits, body=b"{}", content_type="application/json"))
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b"}
    response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert upstream.requests[0][1].items() >= headers.items()
    assert response.headers["x-ratelimit-remaining-tokens"] == "9"
    assert "x-internal" not in response.headers


async def test_the_gateway_counts_its_responses(client, upstream) -> None:
    upstream.chat(says("Hello"))
    await client.post("/v1/chat/completions", json=CHAT)
    await client.post("/v1/chat/completions", json=CHAT | {"model": "acme/unknown"})
    shown = (await client.get("/metrics")).text
    assert 'llm_serve_gateway_responses_total{model="acme/model",status="200"} 1.0' in shown
    assert 'llm_serve_gateway_responses_total{model="",status="404"} 1.0' in shown
    assert 'llm_serve_gateway_first_byte_seconds_count{model="acme/model"} 1.0' in shown


async def test_the_first_apis_list_and_metadata(client) -> None:
    assert (await client.get("/models")).json() == ["acme/model", "acme/other"]
    for name in ("acme--model", "acme/model", "acme%2Fmodel"):
        config = (await client.get(f"/metadata/{name}")).json()["metadata"]["model_config"]
        assert config == {
            "model_id": "acme/model",
            "model_task": "text-generation",
            "model_url": "https://acme.test/model",
            "model_description": "A model",
            "max_input_words": 400,
        }
    assert error_of(await client.get("/metadata/acme--unknown"))[0] == 404


@pytest.mark.parametrize("name", ["acme--model", "acme/model"])
async def test_the_first_apis_prompt_is_a_chat_in_the_models_format(client, upstream, name) -> None:
    upstream.chat(says("Hello"))
    prompt = {"prompt": "Hi", "parameters": {"max_new_tokens": 7, "do_sample": False, "top_p": 0.5}}
    response = await client.post(f"/query/{name}", json=prompt | {"stopping_sequences": ["###", 5, [6, 7]]})
    ((_, _, sent),) = upstream.requests
    assert json.loads(sent) == {
        "model": "acme/model",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["###"],
        "stop_token_ids": [5, [6, 7]],
        "stream": False,
    }
    answer = response.json()["acme/model"]
    assert answer["generated_text"] == "Hello"
    assert (answer["num_input_tokens"], answer["num_generated_tokens"], answer["num_total_tokens"]) == (3, 2, 5)
    assert answer["total_time"] >= 0 and answer["total_time_per_token"] == answer["total_time"] / 5


async def test_the_first_apis_prompt_goes_as_it_is_where_it_says_so(client, upstream) -> None:
    upstream.handlers["/acme--model/v1/completions"] = says("Hello", chat=False)
    response = await client.post("/query/acme--model", json={"prompt": "Hi", "use_prompt_format": False})
    assert response.json()["acme/model"]["generated_text"] == "Hello"
    assert json.loads(upstream.requests[0][2]) == {"model": "acme/model", "prompt": "Hi", "stream": False}


async def test_the_first_apis_batch_answers_in_order_and_so_many_at_a_time(client, upstream) -> None:
    most, gate = 0, asyncio.Event()

    async def echo(request: web.Request) -> web.StreamResponse:
        nonlocal most
        most = max(most, upstream.open)
        await gate.wait()
        text = json.loads(await request.read())["messages"][0]["content"]
        return await says(text)(request)

    upstream.chat(echo)
    prompts = [{"prompt": str(number)} for number in range(20)]
    asked = asyncio.create_task(client.post("/query/batch/acme--model", json=prompts))
    await until(lambda: upstream.open == AT_A_TIME)
    gate.set()
    texts = [each["generated_text"] for each in (await asked).json()["acme/model"]]
    assert texts == [each["prompt"] for each in prompts]
    assert most == AT_A_TIME


@pytest.mark.parametrize("route", ["/query/acme--model", "/query/batch/acme--model"])
async def test_a_models_refusal_passes_through_the_first_api(client, upstream, monkeypatch, route) -> None:
    monkeypatch.setattr(query, "PATIENCE_S", 0.0)
    body = b'{"error": {"message": "no", "type": "rate_limit_error", "param": null, "code": "overloaded"}}'
    upstream.chat(answers(429, {"retry-after": "7"}, body=body, content_type="application/json"))
    prompt = {"prompt": "Hi"}
    response = await client.post(route, json=[prompt, prompt] if "batch" in route else prompt)
    assert (response.status_code, response.content, response.headers["retry-after"]) == (429, body, "7")


async def test_a_batch_waits_where_the_model_has_no_place_for_all_of_it(client, upstream) -> None:
    full = b'{"error": {"message": "no", "type": "rate_limit_error", "param": null, "code": "overloaded"}}'
    refused = 0

    async def two_places(request: web.Request) -> web.StreamResponse:
        nonlocal refused
        if refused < 3:
            refused += 1
            return await answers(429, {"retry-after": "0"}, body=full, content_type="application/json")(request)
        return await says("Hello")(request)

    upstream.chat(two_places)
    response = await client.post("/query/batch/acme--model", json=[{"prompt": "x"}] * 4)
    assert [each["generated_text"] for each in response.json()["acme/model"]] == ["Hello"] * 4
    assert refused == 3


async def test_a_model_that_cannot_answer_says_so_through_the_first_api(client, look) -> None:
    look.down = {"acme--model": Condition("failed", "no weights")}
    for route, body in {"/query/acme--model": {"prompt": "x"}, "/query/batch/acme--model": [{"prompt": "x"}]}.items():
        response = await client.post(route, json=body)
        assert error_of(response) == (503, "server_error", "model_unavailable")
        assert "no weights" in response.json()["error"]["message"]


@pytest.mark.parametrize("prompts", [[], [{"prompt": "x"}] * (MAX_PROMPTS + 1), [{}], {"prompt": "x"}])
async def test_a_wrong_batch_is_a_400(client, upstream, prompts) -> None:
    assert error_of(await client.post("/query/batch/acme--model", json=prompts))[0] == 400
    assert upstream.requests == []


async def test_a_client_that_leaves_a_batch_ends_the_work_behind_it(remote, upstream) -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    upstream.chat(never)
    asked = asyncio.create_task(remote.post("/query/batch/acme--model", json=[{"prompt": "x"}] * 3))
    await until(lambda: upstream.open == 3)
    asked.cancel()
    await until(lambda: upstream.open == 0)


async def test_the_first_api_is_behind_the_same_keys(upstream, gateway, monkeypatch, tmp_path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("team", "key", 'models = ["acme/model"]'))
    file.chmod(0o600)
    monkeypatch.setenv(FILE, str(file))
    app = gateway.create_app()
    routes = ["/models", "/metadata/acme--model", "/query/acme--model", "/query/batch/acme--model", "/metrics"]
    transport, key = httpx.ASGITransport(app), {"authorization": "Bearer key"}
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        for route in routes:
            assert (await made.request("POST" if "query" in route else "GET", route)).status_code == 401
        assert (await made.get("/models", headers=key)).json() == ["acme/model"]
        assert (await made.get("/metadata/acme--other", headers=key)).status_code == 404
        assert (await made.post("/query/acme--other", json={"prompt": "Hi"}, headers=key)).status_code == 404
        shown = (await made.get("/metrics", headers=key)).text
    assert 'llm_serve_gateway_responses_total{model="",status="401"} 2.0' in shown
    assert 'llm_serve_gateway_responses_total{model="",status="404"} 1.0' in shown
    assert upstream.requests == []
