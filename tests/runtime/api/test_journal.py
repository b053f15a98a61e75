"""Request ids, and a record for each request that tells nothing of what was asked, answered or shown as a key."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from ray._common.formatters import JSONFormatter

from runtime.access.keys import FILE, PLAIN
from runtime.api.routes import create_app
from runtime.errors import EngineError
from runtime.logs import PROMPTS
from tests.runtime.access.test_keys import entry
from tests.runtime.api.test_gate import gateway_app
from tests.runtime.asgi import JSON, Request

CHAT = "/v1/chat/completions"
CANARY = "canary-7f3a"
HOSTILE = f"x\n\r\x1b[31m\u2028\u0085{CANARY}"


class Lines(logging.Handler):
    """Keeps what Ray's JSON formatter, which Serve's replicas use, makes of each record."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JSONFormatter())
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    @property
    def requests(self) -> list[dict]:
        found = [json.loads(line) for line in self.written]
        return [record for record in found if record["message"] == "request"]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All that is logged by anybody, at any level."""
    root, handler = logging.getLogger(), Lines()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def body(**more: object) -> list[bytes]:
    return [json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5} | more).encode()]


async def test_a_record_says_who_asked_what_of_whom(make_replica, lines, monkeypatch, tmp_path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("team-a", "sk-secret"))
    file.chmod(0o600)
    monkeypatch.setenv(FILE, str(file))
    app = create_app(await make_replica())
    headers = (*JSON, (b"authorization", b"Bearer sk-secret"), (b"x-request-id", b"r-1"))
    for stream in (False, True):
        await Request(CHAT, headers=headers, pieces=body(stream=stream, n=2), root_path="/acme--model").to(app)
    for record in lines.requests:
        assert record["levelname"] == "INFO" and record["asctime"] and record["duration_ms"] >= 0
        wanted = {"request_id": "r-1", "method": "POST", "path": f"/acme--model{CHAT}", "status": 200}
        wanted |= {"model": "acme/model", "key": "team-a"}
        assert record.items() >= (wanted | {"prompt_tokens": 19, "answer_tokens": 10}).items()
    assert len(lines.requests) == 2


async def test_refused_requests_have_records_too(lines, monkeypatch) -> None:
    monkeypatch.setenv(PLAIN, "sk-secret")
    app = gateway_app()
    await Request(CHAT, pieces=body()).to(app)
    await Request(CHAT, headers=((b"authorization", b"Bearer sk-secret"),)).to(app)
    found = [(record["status"], record["key"], record["model"]) for record in lines.requests]
    assert found == [(401, None, None), (415, f"{PLAIN}-1", None)]


async def test_a_probe_of_health_is_not_news(lines) -> None:
    app = gateway_app()
    await Request("/health", "GET").to(app)
    assert [record["levelname"] for record in lines.requests] == ["DEBUG"]


async def test_a_client_that_goes_leaves_a_record(make_replica, engine, lines) -> None:
    engine.script = [b"a", asyncio.Event()]
    app = create_app(await make_replica())
    asked = asyncio.ensure_future(Request(CHAT, pieces=body()).to(app))
    while not engine.running:
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert [record["status"] for record in lines.requests] == [None]


GIVEN = {
    b"r-1": b"r-1",
    b"0123-ABC.def_:/+=@": b"0123-ABC.def_:/+=@",
    b"r" * 128: b"r" * 128,
    b"r" * 129: None,
    b"": None,
    b"a\x1b[31m": None,
    b"a\nb": None,
    "\u00e9".encode("latin-1"): None,
    b"\xff": None,
}


@pytest.mark.parametrize(("given", "wanted"), GIVEN.items(), ids=map(repr, GIVEN))
async def test_an_id_goes_in_and_out(make_replica, lines, given, wanted) -> None:
    app = create_app(await make_replica())
    for path, method in ((CHAT, "POST"), ("/nowhere", "GET"), ("/health", "GET")):
        answer = await Request(path, method, (*JSON, (b"x-request-id", given)), body()).to(app)
        (found,) = answer.header("x-request-id")
        assert found == wanted.decode() if wanted else len(found) == 32 and found.isalnum()
        assert lines.requests[-1]["request_id"] == found


async def test_every_answer_has_an_id_of_its_own(make_replica, engine, monkeypatch) -> None:
    replica = await make_replica()
    app = create_app(replica)
    found = []
    for path, pieces in (
        (CHAT, body()),
        (CHAT, body(stream=True)),
        (CHAT, [b"{"]),
        ("/nowhere", body()),
        (CHAT, [b"{}"]),
    ):
        found += (await Request(path, pieces=pieces).to(app)).header("x-request-id")
    engine.script = [EngineError("no")]
    found += (await Request(CHAT, pieces=body()).to(app)).header("x-request-id")
    assert len(set(found)) == 6


async def test_a_bug_of_ours_has_an_id_and_a_record(make_replica, engine, lines) -> None:
    engine.script = [ZeroDivisionError("a bug")]
    app = create_app(await make_replica())
    sent = []

    async def send(message: dict) -> None:
        sent.append(message)

    pieces = body()

    async def receive() -> dict:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": list(JSON)}
    with pytest.raises(ZeroDivisionError):
        await app(scope, receive, send)
    (record,) = lines.requests
    assert (sent[0]["status"], record["status"]) == (500, 500)
    assert (b"x-request-id", record["request_id"].encode()) in sent[0]["headers"]


def requests_with_canaries() -> Iterator[Request]:
    """One in each place where a client can put something."""
    everywhere = {"content": HOSTILE}
    for more in (
        {"messages": [{"role": "user", **everywhere}]},
        {"messages": [{"role": HOSTILE, **everywhere}]},
        {"model": HOSTILE},
        {"stop": [HOSTILE]},
        {"user": HOSTILE, HOSTILE: HOSTILE, "temperature": HOSTILE},
        {"prompt": HOSTILE, "stream": True},
        {"chat_template": HOSTILE},
        {"response_format": {"type": HOSTILE}},
    ):
        for path in (CHAT, "/v1/completions"):
            yield Request(path, pieces=body(**more))
            yield Request(path, pieces=body(**{"stream": True} | more))
    yield Request(CHAT, pieces=[HOSTILE.encode()])
    value = HOSTILE.encode()
    for name in (b"authorization", b"x-api-key", b"cookie", b"x-request-id", b"user-agent", b"content-type", value):
        yield Request(CHAT, headers=(*JSON, (name, value)), pieces=body())
        yield Request(CHAT, headers=(*JSON, (name, b"Bearer " + value)), pieces=body())


@pytest.mark.parametrize("kind", ["gateway", "model"])
@pytest.mark.parametrize("keys", [None, "sk-secret"])
async def test_nothing_of_a_request_gets_into_the_logs(make_replica, engine, lines, monkeypatch, kind, keys) -> None:
    if keys:
        monkeypatch.setenv(PLAIN, keys)
    app = gateway_app() if kind == "gateway" else create_app(await make_replica())
    engine.script = [f"{CANARY} in the answer".encode()]
    requests = list(requests_with_canaries())
    async with app.router.lifespan_context(app):
        for request in requests:
            if keys:
                good = (b"authorization", b"Bearer sk-secret")
                request.headers = (*request.headers, good)
            await request.to(app)
    assert len(lines.requests) == len(requests) > 40
    for line in lines.written:
        assert CANARY not in line and "sk-secret" not in line


async def test_a_path_cannot_break_a_record(lines) -> None:
    app = gateway_app()
    await Request(f"/{HOSTILE}{'x' * 1000}", "GET").to(app)
    (line,) = [line for line in lines.written if json.loads(line)["message"] == "request"]
    assert line.isprintable() and line.isascii()
    assert json.loads(line)["path"].startswith(f"/{HOSTILE}") and len(json.loads(line)["path"]) == 256


async def test_prompts_are_logged_only_when_the_node_says_so(make_replica, lines, monkeypatch) -> None:
    for value, logged in (("0", False), ("", False), ("yes", False), ("1", True)):
        monkeypatch.setenv(PROMPTS, value)
        app = create_app(await make_replica())
        lines.written.clear()
        await Request(CHAT, pieces=body(user=HOSTILE)).to(app)
        (record,) = lines.requests
        assert ("body" in record) is logged
    assert json.loads(record["body"])["user"] == HOSTILE
