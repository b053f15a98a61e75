"""Bodies that are no request: whatever they are, the answer is a 4xx in OpenAI's shape, and no engine hears of it."""

import gzip
import json
from collections.abc import Callable
from random import Random

import httpx
import pytest

from tests.conftest import at_size

ROUTES = ("/v1/chat/completions", "/v1/completions")
VALID = (
    {"model": "acme/model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "stop": ["x"]},
    {"model": "acme/model", "prompt": "Once", "max_tokens": 5, "stop": ["x"]},
)
NEEDED = ("messages", "prompt")
CASES = at_size(2_000, 20_000)
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", b"x/\xe9", "")

Body = tuple[bytes, dict[str, str | bytes]]


def raw_bytes(random: Random, _: dict) -> Body:
    return random.randbytes(random.choice((0, 1, 7, 300))), {}


def cut_off(random: Random, valid: dict) -> Body:
    whole = json.dumps(valid).encode()
    return whole[: random.randrange(len(whole))], {}


def with_a_wrong_byte(random: Random, valid: dict) -> Body:
    """Inside the JSON, in a place where only syntax stands."""
    whole = json.dumps(valid)
    place = random.choice([at for at, letter in enumerate(whole) if letter in "{}[],:"])
    return (whole[:place] + random.choice("\x00\x01#;") + whole[place + 1 :]).encode(), {}


def deep(random: Random, valid: dict) -> Body:
    depth, shape = random.choice((1_000, 10_000, 100_000)), random.choice(("[]", "{}"))
    value = "[" * depth + "]" * depth if shape == "[]" else '{"a":' * depth + "1" + "}" * depth
    return _with(valid, random.choice(NEEDED), value), {}


def wrong_type(random: Random, valid: dict) -> Body:
    field = random.choice(("messages", "prompt", "max_tokens", "stop", "model", "temperature", "stream", "seed", "n"))
    value = random.choice(("{}", "[[]]", "[{}]", "[1]", "1.5", '"x"', "true", "[null]", '{"a": 1}'))
    return _with(valid, field, value), {}


def number(random: Random, valid: dict) -> Body:
    value = random.choice(
        ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5_000, "-1", "1" + "0" * 400, "1e400")
    )
    return _with(valid, random.choice(("max_tokens", "n", "top_p", "temperature", "seed", "logprobs")), value), {}


def twice(random: Random, valid: dict) -> Body:
    """The last one counts, and is wrong."""
    whole = json.dumps(valid)
    return f'{whole[:-1]}, "{random.choice(("max_tokens", "model"))}": [[]]}}'.encode(), {}


def half_a_pair(random: Random, valid: dict) -> Body:
    half = f"\\ud8{random.randrange(256):02x}"
    return _with(valid, random.choice(("model", *NEEDED)), f'"{half}"'), {}


def other_content_type(random: Random, _: dict) -> Body:
    return random.choice((b"a=b", b"--x\r\n", b"<x/>", b"\x80")), {"content-type": random.choice(TYPES)}


def compressed(random: Random, valid: dict) -> Body:
    named = {"content-encoding": random.choice(("gzip", "br", "deflate"))} if random.random() < 0.5 else {}
    return gzip.compress(json.dumps(valid).encode()), {"content-type": "application/json", **named}


def other_encoding(random: Random, valid: dict) -> Body:
    return json.dumps(valid).encode(random.choice(("utf-16", "utf-32", "utf-8-sig")))[1:], {}


def _with(valid: dict, field: str, value: str) -> bytes:
    rest = json.dumps({name: each for name, each in valid.items() if name != field})
    return f'{rest[:-1]}, "{field}": {value}}}'.encode()


KINDS: tuple[Callable[[Random, dict], Body], ...] = (
    raw_bytes, cut_off, with_a_wrong_byte, deep, wrong_type, number, twice, half_a_pair, other_content_type, compressed,
    other_encoding,
)  # fmt: skip


def check(response: httpx.Response, body: bytes) -> None:
    assert 400 <= response.status_code < 500, (response.status_code, body[:200], response.text[:300])
    assert response.headers["content-type"] == "application/json"
    (error,) = json.loads(response.content).values()
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str)
    assert all(error[name] is None or isinstance(error[name], str) for name in ("param", "code"))
    assert "Traceback" not in response.text and 'File "' not in response.text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_whatever_is_no_request_is_a_4xx_in_openais_shape(make_client, engine, kind) -> None:
    client, random = await make_client(), Random(kind.__name__)
    refused = 0
    for number in range(CASES // len(KINDS) + 1):
        at = number % len(ROUTES)
        body, headers = kind(random, VALID[at])
        headers = {"content-type": "application/json", **headers}
        asked = len(engine.requests)
        response = await client.post(ROUTES[at], content=body, headers=headers)
        if response.status_code == 200:
            assert len(engine.requests) > asked
            continue
        check(response, body)
        assert len(engine.requests) == asked, body[:200]
        refused += 1
    assert refused > CASES // len(KINDS) // 4  # most of them are wrong
    assert engine.running == 0
