"""With keys configured, nothing but /health opens without one: on every route of both applications."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI

from runtime.access.keys import FILE, PLAIN, Keys
from runtime.api.gate import OPEN_PATHS
from runtime.api.routes import create_app
from runtime.application import GatewayModel, GatewaySettings
from runtime.errors import ConfigError
from runtime.gateway import Gateway
from tests.runtime.access.test_keys import entry
from tests.runtime.asgi import JSON, Headers, Request

KEY = "sk-test-0123456789"
GOOD: Headers = ((b"authorization", f"Bearer {KEY}".encode()),)
CHAT = {"model": "acme/model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
BODY = json.dumps(CHAT).encode()

WRONG: dict[str, Headers] = {
    "none": (),
    "empty": ((b"authorization", b""),),
    "scheme alone": ((b"authorization", b"Bearer "),),
    "bad": ((b"authorization", b"Bearer sk-test-0123456780"),),
    "prefix": ((b"authorization", f"Bearer {KEY[:-1]}".encode()),),
    "longer": ((b"authorization", f"Bearer {KEY} ".encode()),),
    "non-ASCII": ((b"authorization", f"Bearer {KEY}\u00e9".encode("latin-1")),),
    "no UTF-8": ((b"authorization", b"Bearer \xff\xfe\x00"),),
    "1 MiB": ((b"authorization", b"Bearer " + b"k" * (1 << 20)),),
    "two headers": (*GOOD, *GOOD),
    "a bad and a good one": ((b"authorization", b"Bearer x"), *GOOD),
    "lower-case bearer": ((b"authorization", f"bearer {KEY}".encode()),),
    "basic": ((b"authorization", f"Basic {KEY}".encode()),),
    "no scheme": ((b"authorization", KEY.encode()),),
    "x-api-key": ((b"x-api-key", KEY.encode()),),
    "api-key": ((b"api-key", KEY.encode()),),
    "cookie": ((b"cookie", f"authorization=Bearer {KEY}".encode()),),
}


def gateway_app() -> FastAPI:
    gateway = Gateway(dict)
    models = [GatewayModel(id=f"{org}/model", application=org, route_prefix=f"/{org}") for org in ("acme", "other")]
    gateway.configure(GatewaySettings(upstream="http://127.0.0.1:9", models=models))
    return gateway.create_app()


@pytest.fixture(params=["gateway", "model"])
async def make_app(request, make_replica) -> Callable[[], FastAPI]:
    """Makes one of the two applications."""
    if request.param == "gateway":
        return gateway_app
    replica = await make_replica()
    return lambda: create_app(replica)


@pytest.fixture
def app(make_app, monkeypatch) -> FastAPI:
    monkeypatch.setenv(PLAIN, f"another-key,{KEY}")
    return make_app()


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path, and some that do not exist."""
    for route in app.routes:
        path = re.sub(r"\{[^}]*\}", "acme/model", route.path)  # type: ignore[attr-defined]
        for method in route.methods:  # type: ignore[attr-defined]
            yield method, path
    for path in ("/", "/nowhere", "//health", "/health/", "/Health", "/health/..", "/v1/models/../../health", ""):
        yield "GET", path


@pytest.mark.parametrize("wrong", WRONG)
async def test_every_route_wants_a_key(app, wrong) -> None:
    asked = [(method, path) for method, path in routes_of(app) if path not in OPEN_PATHS]
    assert len(asked) > 10
    for method, path in asked:
        for root_path in ("", "/acme--model"):
            answer = await Request(path, method, (*JSON, *WRONG[wrong]), [BODY], root_path=root_path).to(app)
            assert answer.status == 401, (method, path)
            if method != "HEAD":
                assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", "invalid_api_key")
            assert answer.header("www-authenticate") == ["Bearer"]
            assert answer.reads == 0, "who may not come in is not listened to"


async def test_a_good_key_opens_every_route(app) -> None:
    async with app.router.lifespan_context(app):
        for method, path in routes_of(app):
            answer = await Request(path, method, (*JSON, *GOOD), [BODY]).to(app)
            assert answer.status not in (0, 401), (method, path)


async def test_health_is_the_one_open_path(app) -> None:
    assert {"/health"} == OPEN_PATHS
    for root_path in ("", "/acme--model"):
        assert (await Request("/health", "GET", root_path=root_path).to(app)).status == 200


async def test_without_keys_all_is_open(make_app) -> None:
    answer = await Request("/v1/models", "GET").to(make_app())
    assert answer.status == 200


async def test_a_websocket_does_not_come_in(app) -> None:
    sent = []

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/models", "headers": list(GOOD)}
    await app(scope, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_keys_that_cannot_be_read_stop_the_application(make_app, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(FILE, str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=FILE):
        make_app()


async def test_a_refused_preflight_allows_no_origin(make_app, app) -> None:
    headers = ((b"origin", b"https://evil.test"), (b"access-control-request-method", b"POST"))
    for each in (make_app(), app):
        for method in ("OPTIONS", "GET", "POST"):
            answer = await Request("/v1/models", method, (*JSON, *headers, *GOOD), [BODY]).to(each)
            assert [name for name, _ in answer.headers if name.startswith(b"access-control-")] == []


@pytest.fixture
def restricted(make_app, monkeypatch, tmp_path) -> FastAPI:
    """With a key for models that are not served, one for acme's, and one that may ask twice a minute."""
    file = tmp_path / "keys.toml"
    file.write_text(
        entry("elsewhere", "key-elsewhere", 'models = ["elsewhere/*"]')
        + entry("acme", "key-acme", 'models = ["acme/*"]')
        + entry("slow", "key-slow", "requests_per_minute = 2\ntokens_per_minute = 1000")
    )
    file.chmod(0o600)
    monkeypatch.setenv(FILE, str(file))
    return make_app()


def bearing(key: str) -> Headers:
    return (*JSON, (b"authorization", f"Bearer {key}".encode()))


async def test_a_model_that_a_key_does_not_open_is_not_there(restricted) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = await Request(path, headers=bearing("key-elsewhere"), pieces=[BODY]).to(restricted)
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("opened", ["acme/model", "acme/sql"])
async def test_a_model_and_its_adapter_open_each_by_itself(opened, make_replica, monkeypatch, tmp_path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("one", "key", f'models = ["{opened}"]'))
    file.chmod(0o600)
    monkeypatch.setenv(FILE, str(file))
    replica = await make_replica()
    replica.adapters = ("acme/sql",)
    app = create_app(replica)
    listed = await Request("/v1/models", "GET", bearing("key")).to(app)
    assert [each["id"] for each in json.loads(listed.body)["data"]] == [opened]
    for name in ("acme/model", "acme/sql", ""):
        body = json.dumps(CHAT | {"model": name}).encode()
        answer = await Request("/v1/chat/completions", headers=bearing("key"), pieces=[body]).to(app)
        assert answer.status == (200 if (name or "acme/model") == opened else 404)


async def test_no_route_names_a_model_that_the_key_does_not_open(restricted) -> None:
    async with restricted.router.lifespan_context(restricted):
        for method, path in routes_of(restricted):
            answer = await Request(path, method, bearing("key-acme"), [BODY]).to(restricted)
            assert b"other/model" not in answer.body, path


async def test_the_list_of_models_is_the_keys(restricted) -> None:
    answer = await Request("/v1/models", "GET", bearing("key-acme")).to(restricted)
    assert [model["id"] for model in json.loads(answer.body)["data"]] == ["acme/model"]


async def test_a_key_that_has_used_up_its_minute_gets_a_429(restricted) -> None:
    headers = bearing("key-slow")
    remaining = []
    for _ in range(2):
        answer = await Request("/v1/models", "GET", headers).to(restricted)
        assert answer.status == 200
        remaining += answer.header("x-ratelimit-remaining-requests")
    answer = await Request("/v1/models", "GET", headers).to(restricted)
    assert remaining == ["1", "0"]
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(answer.header("retry-after")[0]) <= 60
    assert answer.header("x-ratelimit-limit-requests") == ["2"]
    assert (await Request("/health", "GET", headers).to(restricted)).status == 200
    assert (await Request("/v1/models", "GET", bearing("key-acme")).to(restricted)).status == 200


async def test_tokens_are_counted_to_the_last(make_replica, monkeypatch, tmp_path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("team", "key", "tokens_per_minute = 1000"))
    file.chmod(0o600)
    monkeypatch.setenv(FILE, str(file))
    app, left = create_app(await make_replica()), 1000
    prompt = len(b"<user>Hi<assistant>")
    for more, answers in (({}, 1), ({"n": 2}, 2), ({"stream": True, "n": 2}, 2)):
        answer = await Request(
            "/v1/chat/completions", headers=bearing("key"), pieces=[json.dumps(CHAT | more).encode()]
        ).to(app)
        assert answer.status == 200
        left -= prompt + 5 * answers
        answer = await Request("/v1/models", "GET", bearing("key")).to(app)
        assert answer.header("x-ratelimit-remaining-tokens") == [str(left)]


async def test_a_new_key_opens_while_the_application_runs(make_app, monkeypatch, tmp_path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("old", "key-old"))
    file.chmod(0o600)
    monkeypatch.setenv(FILE, str(file))
    monkeypatch.setattr("runtime.access.keys.LOOK_INTERVAL_S", 0)
    app = make_app()
    assert (await Request("/v1/models", "GET", bearing("key-new")).to(app)).status == 401
    file.write_text(entry("newer", "key-new"))  # its time may be the same
    assert (await Request("/v1/models", "GET", bearing("key-new")).to(app)).status == 200
    assert (await Request("/v1/models", "GET", bearing("key-old")).to(app)).status == 401


def test_no_keys_are_required_where_none_are_configured() -> None:
    assert not Keys().required
