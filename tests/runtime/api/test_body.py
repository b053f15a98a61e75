"""The bounds of what comes in, at both applications."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.api.body import MAX_BODY_BYTES, MAX_DEPTH, MAX_HEADER_BYTES, check_json
from runtime.api.embeddings import EmbeddingRequest
from runtime.api.protocol import (
    MAX_ANSWERS,
    MAX_BIASES,
    MAX_MESSAGES,
    MAX_STOP_CHARACTERS,
    MAX_STOP_TOKENS,
    MAX_STOPS,
    MAX_TOKENS_FIELD,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from runtime.api.routes import create_app
from runtime.api.wire import Wire
from runtime.errors import RequestError
from tests.runtime.api.test_gate import gateway_app
from tests.runtime.asgi import JSON, Request

PATH = "/v1/chat/completions"
FULL = json.dumps({"model": "acme/nowhere"}).encode()
"""Passes all bounds, and is refused with 404 then."""


@pytest.fixture(params=["gateway", "model"])
async def app(request, make_replica) -> FastAPI:
    return gateway_app() if request.param == "gateway" else create_app(await make_replica())


async def test_a_body_may_be_so_long(app) -> None:
    full = FULL.ljust(MAX_BODY_BYTES)
    for pieces in ([full], [full[:100], full[100:]]):
        assert (await Request(PATH, pieces=pieces).to(app)).status in (400, 404)


async def test_a_longer_one_is_refused_before_it_is_read(app) -> None:
    length = (b"content-length", str(MAX_BODY_BYTES + 1).encode())
    answer = await Request(PATH, headers=(*JSON, length), pieces=[b"x"]).to(app)
    assert (answer.status, answer.error["code"], answer.reads) == (413, "request_too_large", 0)
    assert answer.header("connection") == ["close"]


@pytest.mark.parametrize("length", [b"9" * 5000, b"1" + b"0" * 30])
async def test_no_length_is_too_long_to_be_refused(app, length) -> None:
    answer = await Request(PATH, headers=(*JSON, (b"content-length", length)), pieces=[b"x"]).to(app)
    assert (answer.status, answer.reads) == (413, 0)


async def test_one_that_does_not_say_how_long_it_is_is_cut_off(app) -> None:
    answer = await Request(PATH, pieces=[b"x" * (1 << 18)] * 100).to(app)
    assert (answer.status, answer.error["code"], answer.reads) == (413, "request_too_large", 5)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_body_that_does_not_come_is_a_408(app, monkeypatch, method) -> None:
    monkeypatch.setattr("runtime.api.body.BODY_TIMEOUT_S", 0.01)
    answer = await Request(PATH, method, pieces=[b"{"], ends=False).to(app)
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert answer.header("connection") == ["close"]


async def test_slow_bodies_do_not_hold_up_others(app) -> None:
    asked = asyncio.Event()
    slow = [asyncio.ensure_future(Request(PATH, ends=False, between=asked.set).to(app)) for _ in range(200)]
    await asked.wait()
    assert (await Request("/v1/models", "GET").to(app)).status == 200
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_headers_are_bounded_in_all(app) -> None:
    name, used = b"x-padding", sum(len(name) + len(value) for name, value in JSON) + 12 + 32  # our x-request-id
    for extra, status in ((0, 200), (1, 431)):
        padding = b"p" * (MAX_HEADER_BYTES - used - len(name) + extra)
        answer = await Request("/v1/models", "GET", (*JSON, (name, padding))).to(app)
        assert answer.status == status
    assert answer.error["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        (None, None),
        (b"", None),
        (b"text/plain", None),
        (b"application/x-www-form-urlencoded", None),
        (b"multipart/form-data; boundary=x", None),
        (b"application/jsonp", None),
        (b"text/plain; application/json", None),
        (b"application/json", b"gzip"),
        (b"application/json", b"identity, br"),
    ],
)
async def test_only_plain_json_comes_in(app, content_type, encoding) -> None:
    given = [(b"content-type", content_type), (b"content-encoding", encoding)]
    headers = [(name, value) for name, value in given if value is not None]
    answer = await Request(PATH, headers=headers, pieces=[FULL]).to(app)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"Application/JSON; charset=utf-8", b"application/json ;"]
)
async def test_json_has_many_spellings(app, content_type) -> None:
    headers = [(b"content-type", content_type), (b"content-encoding", b"identity")]
    assert (await Request(PATH, headers=headers, pieces=[FULL]).to(app)).status in (400, 404)


BROKEN = {
    "nothing": b"",
    "half": b'{"model":',
    "two": b"{} {}",
    "no UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b'{"model": "\x00"}',
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": Infinity}',
    "-Infinity": b'{"x": [-Infinity]}',
    "too large a number": b'{"temperature": 1e999}',
    "5,000 digits": b'{"n": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"model": "a", "model": "b"}',
    "a key twice below": b'{"x": [{"a": 1, "\\u0061": 2}]}',
    "half a pair": b'{"messages": "\\ud800"}',
    "half a pair as key": b'{"\\uDC00": 1}',
    "a pair the wrong way round": b'{"x": "\\udc00\\ud800"}',
    "deep arrays": b"[" * 100_000,
    "deep closed arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a bit too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "comments": b'{"a": 1 /* x */}',
    "single quotes": b"{'a': 1}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_a_body_that_can_be_read_in_two_ways_is_a_400(app, body) -> None:
    for path in (PATH, "/v1/completions", "/v1/models"):
        answer = await Request(path, pieces=[body]).to(app)
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


def test_what_is_fine_passes() -> None:
    check_json(b'{"x": "\\ud83d\\ude00 \xf0\x9f\x98\x80 \\\\ud800", "y": [1, -0.0, 1e308, null, true]}')
    check_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    check_json(b"[" + b"[]," * 1000 + b"{}]")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)  # fmt: skip


@given(JSON_VALUES, st.booleans())
def test_all_json_passes(value: object, ascii_only: bool) -> None:
    check_json(json.dumps(value, ensure_ascii=ascii_only).encode())


@settings(max_examples=1000)
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_a_refusal(body: bytes) -> None:
    try:
        check_json(body)
    except RequestError:
        return
    json.loads(body)


# The least and the most of every number, length and count in a request, as it is written in the docs.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "max_tokens": (1, MAX_TOKENS_FIELD),
    "max_completion_tokens": (1, MAX_TOKENS_FIELD),
    "min_tokens": (0, MAX_TOKENS_FIELD),
    "temperature": (0, 2),
    "top_p": (None, 1),
    "top_k": (0, None),
    "min_p": (0, 1),
    "repetition_penalty": (None, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (0, 2**32 - 1),
    "n": (1, 16),
    "top_logprobs": (0, 20),
    "logprobs": (0, 5),
}
LENGTHS: dict[str, tuple[Callable[[int], object], int, int]] = {
    "model": (lambda length: "m" * length, 0, 256),
    "messages": (lambda length: [{"role": "user", "content": "x"}] * length, 1, 1024),
    "stop": (lambda length: ["s"] * length, 0, 4),
    "stop/0": (lambda length: ["s" * length], 1, 256),
    "stop/": (lambda length: "s" * length, 1, 256),
    "stop_token_ids": (lambda length: [1] * length, 0, 64),
    "stop_token_ids/0": (lambda length: [[1] * length], 1, 64),
    "logit_bias": (lambda length: {str(token): 1 for token in range(length)}, 0, 1024),
}
STEP = {"temperature": 0.001, "top_p": 0.001, "min_p": 0.001, "repetition_penalty": 0.001}
STEP |= {"presence_penalty": 0.001, "frequency_penalty": 0.001}


def accepts(field: str, value: object) -> bool:
    """Whether the wire type that has the field takes the value."""
    chat = {"messages": [{"role": "user", "content": "x"}]}
    try:
        if field == "logprobs":
            CompletionRequest.model_validate({"prompt": "x", field: value})
        else:
            ChatRequest.model_validate(chat | {field: value})
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("field", BOUNDS)
def test_numbers_at_their_bounds(field: str) -> None:
    least, most = BOUNDS[field]
    step = STEP.get(field, 1)
    if least is not None:
        assert [accepts(field, value) for value in (least - step, least, least + step)] == [False, True, True]
    else:
        assert [accepts(field, value) for value in (-step, 0, step)] == [False, False, True]
    if most is not None:
        assert [accepts(field, value) for value in (most - step, most, most + step)] == [True, True, False]
    for wrong in ("1", True, [1], {}, float("nan"), float("inf"), -(10**30), 10**30 if most is not None else "x"):
        assert not accepts(field, wrong)


@pytest.mark.parametrize("field", LENGTHS)
def test_lengths_at_their_bounds(field: str) -> None:
    make, least, most = LENGTHS[field]
    name = field.partition("/")[0]
    lengths = [each for each in (least - 1, least, most, most + 1) if each >= 0]
    assert [accepts(name, make(length)) for length in lengths] == [least <= length <= most for length in lengths]


def test_the_tables_say_what_the_docs_say() -> None:
    assert (MAX_ANSWERS, MAX_BIASES, MAX_MESSAGES, MAX_STOPS) == (16, 1024, 1024, 4)
    assert (MAX_STOP_CHARACTERS, MAX_STOP_TOKENS, MAX_TOKENS_FIELD) == (256, 64, 1 << 20)


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
def test_no_number_and_no_list_of_a_request_is_without_bounds(model: type) -> None:
    """From the JSON Schema of the wire types themselves: a field that is added needs its bounds, or a reason here."""
    schema = model.model_json_schema()  # type: ignore[attr-defined]
    unbounded = set()

    def look(name: str, node: dict) -> None:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        for inner in node.get("anyOf", ()):
            look(name, inner)
        least = {"minimum", "exclusiveMinimum"} & set(node)
        most = {"maximum", "exclusiveMaximum"} & set(node)
        if node.get("type") in ("integer", "number") and not (least and most):
            unbounded.add(name)
        if node.get("type") == "array":
            if "maxItems" not in node:
                unbounded.add(name)
            look(f"{name}[]", node.get("items", {}))
        for key, inner in node.get("properties", {}).items():
            look(f"{name}.{key}" if name else key, inner)

    look("", schema)
    assert unbounded <= REASONS.keys(), unbounded - REASONS.keys()


REASONS = {
    "top_k": "more than the vocabulary is the same as off",
    "best_of": "must be what `n` is",
    "stop_token_ids[]": "an id that no token has stops nothing",
    "stop_token_ids[][]": "an id that no token has stops nothing",
    "messages[].content": "parts of text; the body's length bounds them",
}


@pytest.fixture
async def address(app) -> AsyncIterator[tuple[str, int]]:
    """Where a real server serves the application."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        yield listener.getsockname()
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("length", "body", "status"),
    [(2 * MAX_BODY_BYTES, b"x" * 1000, b"413"), (1000, b"{", b"408"), (2, b"{x", b"400")],
    ids=["too long", "too slow", "no JSON"],
)
async def test_on_the_wire(address, monkeypatch, length, body, status) -> None:
    """The answer comes although the body has not, and the connection closes unless the body was whole."""
    monkeypatch.setattr("runtime.api.body.BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection(*address)
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    writer.write(head.encode() + body)
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.split(b" ")[1] == status
    assert b"connection: close" in answer.lower()
    writer.close()
    await writer.wait_closed()


MANY = 1000
PART = {"role": "user", "content": [{}] * MANY}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionRequest, {"prompt": [1, *[""] * MANY]}),
        (CompletionRequest, {"prompt": [""] * 128}),
        (CompletionRequest, {"prompt": [["", *[""] * MANY]] * 128}),
        (CompletionRequest, {"prompt": "x", "logit_bias": {f"x{n}": 1 for n in range(MANY)}}),
        (CompletionRequest, {"prompt": "x", "stop_token_ids": [[""] * 64] * 64}),
        (ChatRequest, {"messages": [PART] * MANY}),
        (ChatRequest, {"messages": [PART | {"tool_calls": [{}] * 128}] * MANY}),
        (ChatRequest, {"messages": [{"role": "user", "content": "x"}], "tools": [{}] * 128}),
        (TokenizeRequest, {"messages": [PART] * MANY}),
        (DetokenizeRequest, {"tokens": [""] * MANY}),
        (EmbeddingRequest, {"input": [1, *[""] * MANY]}),
        (EmbeddingRequest, {"input": [""] * MANY}),
        (EmbeddingRequest, {"input": [[""] * MANY] * MANY}),
    ],
)
def test_a_body_that_is_wrong_everywhere_has_few_errors(kind: type[Wire], body: dict) -> None:
    """Each takes a kilobyte and its time, and only the first is told."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() <= 10
