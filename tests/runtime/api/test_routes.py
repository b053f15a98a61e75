"""The API over a scripted engine, through real ASGI requests."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest

from runtime.api.routes import create_app
from runtime.errors import EngineError
from runtime.replica import Replica
from tests.runtime.support import ScriptedEngine, arguments_for, events, settings_for
from tests.runtime.test_metrics import samples

SCHEMA = "response_format.json_schema.schema"
NAMED = {"name": "a_thing", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
CHAT = {"model": "acme/model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}


def streamed_text(found: list) -> str:
    choices = [event["choices"][0] for event in found[:-1] if event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def test_a_whole_chat_answer(make_client, engine) -> None:
    client = await make_client()
    answer = (await client.post("/v1/chat/completions", json=CHAT)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello world", "refusal": None}
    assert answer["choices"][0]["finish_reason"] == "stop"
    prompt = b"<user>Hi<assistant>"
    assert answer["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 11, "total_tokens": len(prompt) + 11}
    assert bytes(engine.requests[0][0]) == prompt


async def test_a_streamed_chat_answer(make_client) -> None:
    client = await make_client()
    request = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/chat/completions", json=request)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response)
    assert found[-1] == "[DONE]"
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert streamed_text(found) == "Hello world"
    assert [e["choices"][0]["finish_reason"] for e in found[:-2]] == [None] * (len(found) - 3) + ["stop"]
    assert found[-2]["choices"] == [] and found[-2]["usage"]["completion_tokens"] == 11
    assert {str(each["usage"]) for each in found[:-2]} == {"None"}
    plain = events(await client.post("/v1/chat/completions", json=CHAT | {"stream": True}))
    assert not any("usage" in each for each in plain[:-1])
    assert len({event["id"] for event in found[:-1]}) == 1


async def test_completions_take_the_prompt_raw(make_client, engine) -> None:
    client = await make_client(prompt_format="### {instruction}")
    answer = (await client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 3})).json()
    assert answer["choices"][0]["text"] == "Hel"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert bytes(engine.requests[0][0]) == b"Once"


async def test_prompt_format_beats_the_models_template(make_client, engine) -> None:
    client = await make_client(prompt_format="Q: {instruction}\nA: ")
    turns = [("system", "Be brief."), ("user", "One {x}?"), ("assistant", "Yes"), ("user", "Two?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    await client.post("/v1/chat/completions", json=CHAT | {"messages": messages, "max_tokens": 5})
    assert bytes(engine.requests[0][0]) == b"Q: Be brief.\n\nOne {x}?\nA: Yes\nQ: Two?\nA: "


async def test_stops_of_registry_and_request_hold_together(make_client) -> None:
    client = await make_client(stopping_sequences=["xyz", [ord("w"), ord("o")]])
    for stream in (False, True):
        response = await client.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        text = streamed_text(events(response)) if stream else response.json()["choices"][0]["message"]["content"]
        assert text == "Hello "
    response = await client.post("/v1/chat/completions", json=CHAT | {"stop": "llo"})
    assert response.json()["choices"][0]["message"]["content"] == "He"


async def test_the_requests_sampling_goes_over_the_registrys(make_client, engine) -> None:
    client = await make_client(generate_kwargs={"temperature": 0.5, "top_k": 7, "max_new_tokens": 9})
    await client.post("/v1/chat/completions", json={"messages": CHAT["messages"], "top_p": 0.3, "seed": 4})
    sampling = engine.requests[0][1]
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 7, 0.3, 4)
    assert sampling.max_new_tokens == 9


async def test_do_sample_false_is_greedy_until_the_request_says_otherwise(make_client, engine) -> None:
    client = await make_client(generate_kwargs={"do_sample": False, "temperature": 0.5})
    await client.post("/v1/chat/completions", json=CHAT)
    await client.post("/v1/chat/completions", json=CHAT | {"temperature": 0.9})
    assert [sampling.temperature for _, sampling in engine.requests] == [0.0, 0.9]


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"messages": []}, 400, "messages", None),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role", None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content.0", None),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages.0.content.0.text", None),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content", None),
        ({"tool_choice": {"type": "function"}, "tools": []}, 400, "tool_choice.function", None),
        ({"temperature": "hot"}, 400, "temperature", None),
        ({"min_tokens": 51}, 400, "min_tokens", None),
        ({"max_tokens": 0}, 400, "max_tokens", None),
        ({"max_tokens": 99}, 400, "messages", "context_length_exceeded"),
        ({"temperature": 2.1}, 400, "temperature", None),
        ({"n": 0}, 400, "n", None),
        ({"n": 17}, 400, "n", None),
        ({"best_of": 2}, 400, "best_of", None),
        ({"logprobs": 3}, 400, "logprobs", None),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", None),
        ({"top_logprobs": 1}, 400, "top_logprobs", None),
        ({"logit_bias": {"256": 1}}, 400, "logit_bias", None),
        ({"logit_bias": {"7": 101}}, 400, "logit_bias.7", None),
        ({"logit_bias": {"x": 1}}, 400, None, None),
        ({"stop_token_ids": [[]]}, 400, None, None),
        ({"stop_token_ids": [-1]}, 400, None, None),
        ({"ignore_eos": True}, 400, "ignore_eos", None),
        ({"include_stop_str_in_output": True}, 400, "include_stop_str_in_output", None),
        ({"skip_special_tokens": False}, 400, "skip_special_tokens", None),
        ({"prompt_logprobs": 0}, 400, "prompt_logprobs", None),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type", None),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", None),
        ({"response_format": {"type": "json_object", "json_schema": NAMED}}, 400, "response_format", None),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, 400, SCHEMA, None),
        ({"response_format": {"type": "json_schema", "json_schema": NAMED | {"schema": True}}}, 400, SCHEMA, None),
        ({"response_format": {"type": "json_schema", "json_schema": NAMED | {"name": "a b"}}}, 400, None, None),
        ({"response_format": {"type": "json_object"}, "min_tokens": 1}, 400, "min_tokens", None),
        ({"structured_outputs": {"json": {}}}, 400, "structured_outputs", None),
        ({"guided_json": {"type": "object"}}, 400, "guided_json", None),
        ({"echo": True}, 400, "echo", None),
        ({"tools": [{"type": "function"}]}, 400, "tools.0.function", None),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, None, None),
        ({"model": "acme/other"}, 404, "model", "model_not_found"),
    ],
)
async def test_bad_requests(make_client, engine, body, status, param, code) -> None:
    client = await make_client()
    response = await client.post("/v1/chat/completions", json=CHAT | body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error" and error["message"]
    assert param is None or error["param"] == param
    assert engine.requests == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("strict", [True, False, None])
async def test_a_schema_reaches_the_engine(make_client, engine, path, strict) -> None:
    client = await make_client(generate_kwargs={"min_new_tokens": 5})
    wanted = {"type": "json_schema", "json_schema": NAMED | {"strict": strict, "description": "what it is for"}}
    response = await client.post(path, json=CHAT | {"prompt": "Hi", "response_format": wanted})
    assert response.status_code == 200
    ((_, sampling),) = engine.requests
    assert engine.checked == [sampling.constraint] and sampling.min_new_tokens == 0
    assert sampling.constraint.kind == "json_schema"
    assert json.loads(sampling.constraint.text).items() > NAMED["schema"].items()


async def test_any_object_will_do(make_client, engine) -> None:
    client = await make_client()
    await client.post("/v1/chat/completions", json=CHAT | {"response_format": {"type": "json_object"}})
    ((_, sampling),) = engine.requests
    assert json.loads(sampling.constraint.text)["type"] == "object"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_schema_that_cannot_be_kept_is_told_before_it_takes_a_slot(make_client, engine, stream) -> None:
    engine.grammar_problem = 'Unimplemented keys: ["not"]'
    client = await make_client()
    wanted = {"type": "json_schema", "json_schema": NAMED}
    response = await client.post("/v1/chat/completions", json=CHAT | {"response_format": wanted, "stream": stream})
    assert (response.status_code, engine.requests) == (400, [])
    assert response.json()["error"] == {
        "message": f'{SCHEMA}: Unimplemented keys: ["not"]',
        "type": "invalid_request_error",
        "param": SCHEMA,
        "code": None,
    }


async def test_fields_that_ask_for_nothing_or_change_no_answer_are_let_through(make_client) -> None:
    client = await make_client()
    neutral = {"ignore_eos": False, "skip_special_tokens": True, "bad_words": [], "response_format": {"type": "text"}}
    unknown = {"user": "x", "metadata": {"a": "b"}, "priority": 3, "tool_choice": "auto", "suffix": None}
    response = await client.post("/v1/chat/completions", json=CHAT | neutral | unknown | {"best_of": 1, "n": None})
    assert response.status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"{}" * 2])
async def test_bodies_that_are_no_request(make_client, body) -> None:
    client = await make_client()
    response = await client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_paths_and_methods_answer_in_openais_shape(make_client) -> None:
    client = await make_client()
    assert (await client.get("/v1/nothing")).json()["error"]["message"] == "GET /v1/nothing: Not Found"
    assert (await client.get("/v1/completions")).status_code == 405


async def test_an_engine_error_before_the_first_token_has_a_status(make_client, engine) -> None:
    engine.script = [EngineError("boom")]
    client = await make_client()
    response = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert response.status_code == 500 and response.json()["error"]["message"] == "boom"


async def test_an_engine_error_in_mid_stream_is_one_error_event_and_no_done(make_client, engine) -> None:
    engine.script = [b"Hel", EngineError("boom")]
    client = await make_client()
    found = events(await client.post("/v1/chat/completions", json=CHAT | {"stream": True}))
    assert [list(event) for event in found[-1:]] == [["error"]]
    assert found[-1]["error"]["message"] == "boom"


async def test_overload_is_429_at_once_and_places_come_back(make_client, engine) -> None:
    gate = asyncio.Event()
    engine.script = [gate, b"done"]
    client = await make_client(max_batch_size=1, max_waiting_requests=1)
    inside = [asyncio.create_task(client.post("/v1/chat/completions", json=CHAT)) for _ in range(2)]
    while engine.running < 2:
        await asyncio.sleep(0)
    for stream in (False, True):
        response = await client.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        assert response.status_code == 429 and response.json()["error"]["code"] == "overloaded"
        assert response.headers["retry-after"] == "1"
    gate.set()
    assert [(await each).status_code for each in inside] == [200, 200]
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
async def test_a_client_that_goes_frees_the_slots(make_replica, engine, stream, n) -> None:
    """Straight ASGI: the client disconnects while the engine is in the middle of the answer."""
    engine.script = [b"Hel", asyncio.Event(), b"never"]
    replica = await make_replica()
    app = create_app(replica)
    gone, sent = asyncio.Event(), []
    body = json.dumps(CHAT | {"stream": stream, "n": n}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
    request = asyncio.create_task(app(scope, receive, send))
    while engine.running < n or (stream and len(sent) < 2):
        await asyncio.sleep(0)
    gone.set()
    await asyncio.wait_for(request, 1)
    assert engine.running == 0
    assert replica._admission.inside == 0


async def test_health_tells_the_truth(make_client, engine) -> None:
    client = await make_client()
    assert (await client.get("/health")).status_code == 200
    engine.healthy = False
    assert (await client.get("/health")).status_code == 500


async def test_adapters_are_models_of_their_own(engine) -> None:
    async def load(*_: object) -> ScriptedEngine:
        return engine

    replica = Replica(arguments_for({"type": "vLLM", "lora_modules": {"acme/sql": "adapters/sql"}}), load)
    await replica.configure(settings_for())
    client = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(replica)), base_url="http://test")
    base, sql = (await client.get("/v1/models")).json()["data"]
    assert base["id"] == "acme/model" and "parent" not in base
    assert (sql["id"], sql["parent"], sql["owned_by"]) == ("acme/sql", "acme/model", "acme")
    for stream in (False, True):
        for path, body in (("chat/completions", CHAT), ("completions", {"prompt": "Once", "max_tokens": 50})):
            response = await client.post(f"/v1/{path}", json=body | {"model": "acme/sql", "stream": stream})
            told = events(response)[0] if stream else response.json()
            assert told["model"] == "acme/sql"
    await client.post("/v1/chat/completions", json=CHAT)
    assert [sampling.adapter for _, sampling in engine.requests] == ["acme/sql"] * 4 + [None]
    response = await client.post("/v1/chat/completions", json=CHAT | {"model": "acme/poems"})
    assert response.status_code == 404
    assert "this is `acme/model`, `acme/sql`" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [65]}),
    ],
)
async def test_fields_that_nobody_knows_count_on_every_route(make_replica, engine, path, body) -> None:
    async def embed(_: Sequence[int]) -> Sequence[float]:
        return [1.0]

    engine.embed, engine.limits = embed, replace(engine.limits, embeds=path == "/v1/embeddings")
    replica = await make_replica()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(replica)), base_url="http://test") as client:
        response = await client.post(path, json=body | {"user": "u", "not a name!": 1, "nor this!": 1})
    assert response.status_code == 200, response.text
    counts = samples(replica.metrics)
    for label, count in (("user", 1), ("other", 2)):
        assert counts["llm_serve_ignored_fields_total", ("acme/model", label)] == count


async def test_an_engine_that_hangs_is_not_healthy(make_client, engine, monkeypatch) -> None:
    monkeypatch.setattr(engine, "check_health", asyncio.Event().wait)
    monkeypatch.setattr("runtime.api.routes.HEALTH_TIMEOUT_S", 0.01)
    async with await make_client() as client:
        response = await client.get("/health")
    assert response.status_code == 503
    assert "has not answered within" in response.json()["error"]["message"]
