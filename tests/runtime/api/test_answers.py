"""What a request may want of its answers besides their text: log-probabilities, several of them, an echo, stops."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import httpx
import openai
import pytest

from runtime.api.routes import create_app
from runtime.engines.contract import Sampling, ScoredToken
from runtime.errors import EngineDeadError, EngineError
from tests.runtime.support import events

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
TEXT = {"prompt": "Once", "max_tokens": 50}


async def choices_of(client: httpx.AsyncClient, body: dict, *, stream: bool) -> list[dict]:
    """The choices of the answer, in both ways of asking alike: text, logprobs, finish reason."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    response = await client.post(path, json=body | {"stream": stream})
    assert response.status_code == 200, response.text
    if not stream:
        return [_plain(choice, choice.get("message", {})) for choice in response.json()["choices"]]
    pieces: dict[int, list[dict]] = {}
    *chunks, done = events(response)
    assert done == "[DONE]"
    for chunk in chunks:
        (choice,) = chunk["choices"]
        pieces.setdefault(choice["index"], []).append(_plain(choice, choice.get("delta", {})))
    return [_joined(pieces[index]) for index in sorted(pieces)]


def _plain(choice: dict, message: dict) -> dict:
    text = choice.get("text", message.get("content", ""))
    return {"text": text, "logprobs": choice["logprobs"], "finish_reason": choice["finish_reason"]}


def _joined(pieces: list[dict]) -> dict:
    """A token comes with the text that completes it, never before."""
    text, logprobs = "", {}
    for piece in pieces:
        text += piece["text"]
        for name, values in (piece["logprobs"] or {}).items():
            logprobs[name] = logprobs.get(name, []) + values if values is not None else None
        if logprobs:
            shown = logprobs["tokens"] if "tokens" in logprobs else [each["token"] for each in logprobs["content"]]
            assert len(text) >= len("".join(shown).replace("\ufffd", ""))
    assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    return {"text": text, "logprobs": logprobs or None, "finish_reason": pieces[-1]["finish_reason"]}


async def both(client: httpx.AsyncClient, body: dict) -> list[dict]:
    """Streamed and whole, which must be the same."""
    whole = await choices_of(client, body, stream=False)
    assert await choices_of(client, body, stream=True) == whole
    return whole


async def test_chat_logprobs_have_openais_shape(make_client, engine) -> None:
    engine.script = [b"He", b"y"]
    (choice,) = await both(await make_client(), CHAT | {"logprobs": True, "top_logprobs": 2})
    assert choice["text"] == "Hey"
    assert choice["logprobs"]["refusal"] is None
    assert choice["logprobs"]["content"][0] == {
        "token": "H",
        "logprob": -0.72,
        "bytes": [72],
        "top_logprobs": [
            {"token": "G", "logprob": -0.01, "bytes": [71]},
            {"token": "F", "logprob": -0.02, "bytes": [70]},
        ],
    }
    assert [each["token"] for each in choice["logprobs"]["content"]] == ["H", "e", "y"]


@pytest.mark.parametrize(
    ("body", "most", "param"),
    [
        (CHAT | {"logprobs": True, "top_logprobs": 3}, 2, "top_logprobs"),
        (TEXT | {"logprobs": 1}, 0, "logprobs"),
        (CHAT | {"logprobs": True}, 0, None),
        (CHAT | {"logprobs": True, "top_logprobs": 2}, 2, None),
    ],
)
async def test_more_logprobs_than_the_engine_gives_are_refused(make_client, engine, body, most, param) -> None:
    engine.limits = replace(engine.limits, logprobs=most)
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    response = await (await make_client()).post(path, json=body)
    assert response.status_code == (400 if param else 200)
    if param:
        error = response.json()["error"]
        assert error["param"] == param and f"gives at most {most}" in error["message"]
    assert len(engine.requests) == (0 if param else 1)


async def test_completion_logprobs_have_openais_shape(make_client, engine) -> None:
    engine.script = [b"He", b"y"]
    (choice,) = await both(await make_client(), TEXT | {"logprobs": 1})
    assert choice["logprobs"] == {
        "tokens": ["H", "e", "y"],
        "token_logprobs": [-0.72, -1.01, -1.21],
        "top_logprobs": [{"G": -0.01, "H": -0.72}, {"d": -0.01, "e": -1.01}, {"x": -0.01, "y": -1.21}],
        "text_offset": [0, 1, 2],
    }


@pytest.mark.parametrize("asked", [{}, {"logprobs": False}, {"logprobs": None}])
async def test_no_logprobs_where_none_are_asked_for(make_client, engine, asked) -> None:
    (choice,) = await both(await make_client(), CHAT | asked)
    assert choice["logprobs"] is None
    assert engine.requests[0][1].logprobs is None


async def test_logprobs_without_top_ones(make_client) -> None:
    client = await make_client()
    (chat,) = await both(client, CHAT | {"logprobs": True})
    assert chat["logprobs"]["content"][0] == {"token": "H", "logprob": -0.72, "bytes": [72], "top_logprobs": []}
    (text,) = await both(client, TEXT | {"logprobs": 0})
    assert text["logprobs"]["top_logprobs"][0] == {"H": -0.72}


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ({"stop": "lo wo"}, "Hel"),
        ({"stop": ["world!", " w"]}, "Hello"),
        ({"stop_token_ids": [ord("w")]}, "Hello "),
        ({"stop_token_ids": [[ord("o"), ord(" ")]]}, "Hell"),
        ({"stop": "world!"}, "Hello world"),
    ],
)
async def test_what_a_stop_has_cut_has_no_logprobs(make_client, engine, stop, text) -> None:
    engine.script = [b"Hel", b"lo", b" world"]
    client = await make_client()
    (chat,) = await both(client, CHAT | {"logprobs": True} | stop)
    assert (chat["text"], [each["token"] for each in chat["logprobs"]["content"]]) == (text, list(text))
    (completion,) = await both(client, TEXT | {"logprobs": 0} | stop)
    assert completion["logprobs"]["text_offset"] == list(range(len(text)))


async def test_an_empty_answer_has_empty_logprobs(make_client) -> None:
    asked = CHAT | {"logprobs": True, "stop": "H"}
    (choice,) = await choices_of(await make_client(), asked, stream=False)
    assert choice == {"text": "", "logprobs": {"content": [], "refusal": None}, "finish_reason": "stop"}


async def test_pieces_of_a_character_have_their_bytes(make_client, engine) -> None:
    smile = "\N{GRINNING FACE}".encode()
    engine.script = [b"a" + smile[:1], smile[1:3], smile[3:] + b"b"]
    client = await make_client()
    (choice,) = await both(client, CHAT | {"logprobs": True})
    assert choice["text"] == "a\N{GRINNING FACE}b"
    assert bytes(byte for each in choice["logprobs"]["content"] for byte in each["bytes"]) == b"a" + smile + b"b"
    assert [each["token"] for each in choice["logprobs"]["content"]] == ["a", *"\ufffd\ufffd\ufffd\ufffd", "b"]
    (choice,) = await both(client, TEXT | {"logprobs": 0})
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 1, 2]


async def test_a_logprob_that_json_cannot_hold(make_client, engine, monkeypatch) -> None:
    monkeypatch.setattr("tests.runtime.support._scored", lambda token, _: infinite(token))
    (choice,) = await both(await make_client(), CHAT | {"logprobs": True})
    assert choice["logprobs"]["content"][0]["logprob"] == -9999.0


def infinite(token: int) -> int:
    return ScoredToken(token, float("-inf"), ())


async def test_every_answer_has_a_slot_an_index_and_a_seed(make_client, engine) -> None:
    engine.scripts = {0: [b"One"], 1: [b"T", b"wo"], 2: [b"Three"], 3: [b"One"], 4: [b"T", b"wo"], 5: [b"Three"]}
    client = await make_client(max_batch_size=3, max_waiting_requests=0)
    choices = await both(client, CHAT | {"n": 3, "seed": 2**32 - 2, "max_tokens": 4, "logprobs": True})
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        ("One", "stop"),
        ("Two", "stop"),
        ("Thre", "length"),
    ]
    assert [sampling.seed for _, sampling in engine.requests[:3]] == [2**32 - 2, 2**32 - 1, 0]
    for choice in choices:
        assert "".join(each["token"] for each in choice["logprobs"]["content"]) == choice["text"]


async def test_answers_come_as_they_are_made_and_usage_is_their_sum(make_client, engine) -> None:
    engine.scripts = {0: [(gate := asyncio.Event()), b"One"], 1: [b"Two"]}
    client = await make_client()
    body = CHAT | {"n": 2, "stream": True, "stream_options": {"include_usage": True}}
    asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
    while engine.running != 1 or len(engine.requests) < 2:
        await asyncio.sleep(0)
    gate.set()
    *chunks, usage, done = events(await asking)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [{"role": "assistant", "content": ""}] * 2
    assert [chunk["choices"][0]["index"] for chunk in chunks[:3]] == [0, 1, 1]  # who waits, stops nobody
    assert usage["usage"] == {"prompt_tokens": 19, "completion_tokens": 6, "total_tokens": 25}
    whole = (await client.post("/v1/chat/completions", json=CHAT | {"n": 2})).json()
    assert whole["usage"]["completion_tokens"] == 22


async def test_a_request_takes_a_place_for_each_answer_and_no_more_than_there_are_slots(make_client, engine) -> None:
    engine.scripts = {number: [asyncio.Event(), b"done"] for number in range(16)}
    client = await make_client(max_batch_size=2, max_waiting_requests=1)
    inside = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT | {"n": 16}))
    for step in range(0, 16, 2):
        while len(engine.requests) < step + 2:
            await asyncio.sleep(0)
        assert engine.running == 2
        for stream in (False, True):
            response = await client.post("/v1/chat/completions", json=CHAT | {"n": 2, "stream": stream})
            assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
        for number in (step, step + 1):
            engine.scripts[number][0].set()
    assert [choice["message"]["content"] for choice in (await inside).json()["choices"]] == ["done"] * 16
    assert len(engine.requests) == 16
    assert (await client.post("/v1/chat/completions", json=CHAT | {"n": 2})).status_code == 200


async def test_one_answer_that_fails_fails_the_request_and_ends_the_others(make_client, engine) -> None:
    client = await make_client()
    engine.scripts = {0: [asyncio.Event()], 1: [EngineError("boom")], 2: [b"Hel", asyncio.Event()]}
    response = await client.post("/v1/chat/completions", json=CHAT | {"n": 2})
    assert (response.status_code, engine.running) == (500, 0)
    engine.scripts[3] = [b"One", EngineError("boom")]
    found = events(await client.post("/v1/chat/completions", json=CHAT | {"n": 2, "stream": True}))
    assert found[-1]["error"]["message"] == "boom"
    assert engine.running == 0
    assert (await client.post("/v1/chat/completions", json=CHAT | {"n": 4})).status_code == 200  # places are back


async def test_an_echo_goes_before_every_answer(make_client, engine) -> None:
    client = await make_client()
    choices = await both(client, TEXT | {"echo": True, "n": 2, "stop": "Once"})
    assert [choice["text"] for choice in choices] == ["OnceHello world"] * 2
    engine.script = [EngineError("boom")]
    response = await client.post("/v1/completions", json=TEXT | {"echo": True, "stream": True})
    assert response.status_code == 500
    engine.script = []
    assert [choice["text"] for choice in await both(client, TEXT | {"echo": True})] == ["Once"]


SCORED = {"prompt": "Once", "max_tokens": 2, "echo": True, "logprobs": 1}
SCORED_ANSWER = {
    "text": "OnceHe",
    "logprobs": {
        "tokens": ["O", "n", "c", "e", "H", "e"],
        "token_logprobs": [None, -1.1, -0.99, -1.01, -0.72, -1.01],
        "top_logprobs": [
            None,
            {"m": -0.01, "n": -1.1},
            {"b": -0.01, "c": -0.99},
            {"d": -0.01, "e": -1.01},
            {"G": -0.01, "H": -0.72},
            {"d": -0.01, "e": -1.01},
        ],
        "text_offset": [0, 1, 2, 3, 4, 5],
    },
    "finish_reason": "length",
}


async def test_an_echo_with_logprobs_has_the_prompts_too(make_client, engine) -> None:
    client = await make_client()
    assert await both(client, SCORED | {"n": 2}) == [SCORED_ANSWER, SCORED_ANSWER]
    assert await both(client, SCORED | {"prompt": [79, 110, 99, 101]}) == [SCORED_ANSWER]
    assert all(sampling.echo for _, sampling in engine.requests)


async def test_a_prompt_alone_is_scored_without_an_answer(make_client) -> None:
    client = await make_client()
    (choice,) = await both(client, SCORED | {"max_tokens": 0})
    parts = {name: values[:4] for name, values in SCORED_ANSWER["logprobs"].items()}
    assert choice == {"text": "Once", "logprobs": parts, "finish_reason": "length"}
    response = await client.post("/v1/completions", json=SCORED | {"max_tokens": 0})
    assert response.json()["usage"] == {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}
    (choice,) = await both(client, TEXT | {"echo": True, "max_tokens": 0})
    assert choice == {"text": "Once", "logprobs": None, "finish_reason": "length"}
    (choice,) = await both(client, SCORED | {"prompt": "O", "max_tokens": 0})
    assert choice["logprobs"]["token_logprobs"] == [None]


async def test_the_end_token_is_told_of_with_an_echo_and_is_no_part_of_the_answer(make_client, engine) -> None:
    """lm-eval counts on one token behind the prompt."""
    engine.ends_with = 255
    client = await make_client()
    engine.script = []
    (choice,) = await both(client, SCORED | {"max_tokens": 1})
    assert choice["logprobs"]["tokens"] == ["O", "n", "c", "e", "\ufffd"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3, 4]
    assert (choice["text"], choice["finish_reason"]) == ("Once", "stop")
    response = await client.post("/v1/completions", json=SCORED)
    assert response.json()["usage"]["completion_tokens"] == 0


async def test_a_stop_in_the_answer_cuts_no_echo(make_client) -> None:
    (choice,) = await both(await make_client(), SCORED | {"max_tokens": 50, "stop": "l"})
    assert choice == SCORED_ANSWER | {"finish_reason": "stop"}


@pytest.mark.parametrize("prompts", [["One", "Three"], [list(b"One"), list(b"Three")]], ids=["text", "tokens"])
async def test_several_prompts_are_answered_in_their_order(make_client, engine, prompts) -> None:
    engine.scripts = {number: [b"%d" % (number % 4)] for number in range(8)}
    client = await make_client()
    choices = await both(client, TEXT | {"prompt": prompts, "n": 2, "echo": True, "seed": 5})
    assert [choice["text"] for choice in choices] == ["One0", "One1", "Three2", "Three3"]
    assert [(bytes(prompt), sampling.seed) for prompt, sampling in engine.requests[:4]] == [
        (b"One", 5),
        (b"One", 6),
        (b"Three", 5),
        (b"Three", 6),
    ]
    whole = (await client.post("/v1/completions", json=TEXT | {"prompt": prompts})).json()
    assert whole["usage"] == {"prompt_tokens": 8, "completion_tokens": 22, "total_tokens": 30}


async def test_only_so_many_tokens_are_scored_together(make_client, engine, monkeypatch) -> None:
    monkeypatch.setattr("runtime.api.requests.MAX_SCORED_TOKENS", 16)
    client = await make_client()
    for prompts, n, status in ((["Once"] * 2, 2, 200), (["Once"] * 5, 1, 400), (["Once"], 5, 400)):
        response = await client.post("/v1/completions", json=SCORED | {"prompt": prompts, "n": n})
        assert response.status_code == status
    assert response.json()["error"]["param"] == "prompt"
    assert (await client.post("/v1/completions", json=TEXT | {"prompt": ["Once"] * 5, "echo": True})).status_code == 200


@pytest.mark.parametrize(("least", "status"), [(0, 200), (1, 400)])
async def test_an_echo_alone_may_fill_the_context(make_client, engine, least, status) -> None:
    engine.limits = replace(engine.limits, least_new_tokens=least)
    client = await make_client()
    for more in ({}, {"logprobs": 1}):
        body = TEXT | {"prompt": "x" * 100, "echo": True, "max_tokens": 0} | more
        assert (await client.post("/v1/completions", json=body)).status_code == status
    response = await client.post("/v1/completions", json={"prompt": "x" * 100, "echo": True})
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_answers_that_wait_for_their_turn_have_not_begun(make_client, engine) -> None:
    client, most, inner = await make_client(max_batch_size=3), 0, engine.generate

    async def generate(prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        nonlocal most
        async with aclosing(inner(prompt, sampling)) as batches:
            async for batch in batches:
                most = max(most, len(asyncio.all_tasks()))
                yield batch

    engine.generate = generate
    before = len(asyncio.all_tasks())
    response = await client.post("/v1/completions", json=TEXT | {"prompt": ["Once"] * 16, "n": 8})
    choices = response.json()["choices"]
    assert [(choice["index"], choice["text"]) for choice in choices] == [(n, "Hello world") for n in range(128)]
    assert len(engine.requests) == 128
    assert before + 3 < most < before + 12


async def test_one_prompt_may_stand_in_a_list(make_client, engine) -> None:
    client = await make_client()
    for prompt in ("Once", ["Once"], list(b"Once"), [list(b"Once")]):
        await client.post("/v1/completions", json=TEXT | {"prompt": prompt})
    assert {bytes(prompt) for prompt, _ in engine.requests} == {b"Once"}


async def test_the_longest_answer_is_each_prompts_own(make_client, engine) -> None:
    client = await make_client(generate_kwargs={"max_new_tokens": 95})
    await client.post("/v1/completions", json={"prompt": ["x" * 10, "x"]})
    assert [sampling.max_new_tokens for _, sampling in engine.requests] == [90, 95]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt.0"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt.1"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [1.0]}, "prompt.0"),
        ({"prompt": [True]}, "prompt.0"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": [256]}, "prompt"),
        ({"prompt": [1 << 31]}, "prompt.0"),
        ({"prompt": [[1], []]}, "prompt.1"),
        ({"prompt": [[1, -1]]}, "prompt.0.1"),
        ({"prompt": [[1], [256]]}, "prompt.1"),
        ({"prompt": [[1]] * 129}, "prompt"),
        ({"prompt": ["a", "b" * 60]}, "prompt.1"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1, "echo": True}, "max_tokens"),
        ({"echo": True, "max_tokens": 0, "min_tokens": 1}, "min_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_completion_tokens": 2}, "max_completion_tokens"),
        ({"suffix": "end"}, "suffix"),
        ({"prompt": ["a"] * 128, "n": 2}, "n"),
        ({"prompt": ["a"] * 9, "n": 15}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop_token_ids": 5}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids.0"),
        ({"stop_token_ids": [1, [2, -1]]}, "stop_token_ids.1.1"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ],
)
async def test_what_completions_refuse(make_client, engine, body, param) -> None:
    client = await make_client()
    response = await client.post("/v1/completions", json=TEXT | body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert engine.requests == []


async def test_biases_reach_the_engine_as_numbers(make_client, engine) -> None:
    client = await make_client()
    await client.post("/v1/completions", json=TEXT | {"logit_bias": {"50": -100, "7": 0.5}})
    assert engine.requests[0][1].logit_bias == ((50, -100), (7, 0.5))


async def test_openais_own_client_reads_it(make_replica) -> None:
    transport = httpx.ASGITransport(create_app(await make_replica()))
    client = openai.AsyncOpenAI(
        base_url="http://test/v1", api_key="none", http_client=httpx.AsyncClient(transport=transport)
    )
    asked = {"model": "acme/model", "messages": CHAT["messages"], "n": 2, "logprobs": True, "top_logprobs": 3}
    whole = await client.chat.completions.create(**asked)
    assert [len(choice.logprobs.content) for choice in whole.choices] == [11, 11]
    assert whole.choices[1].logprobs.content[0].top_logprobs[2].token == "E"
    tokens = {0: "", 1: ""}
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            tokens[choice.index] += "".join(each.token for each in choice.logprobs.content) if choice.logprobs else ""
    assert tokens == {0: "Hello world", 1: "Hello world"}
    text = await client.completions.create(model="acme/model", prompt="Once", logprobs=2, logit_bias={"50": -1})
    assert text.choices[0].logprobs.top_logprobs[0] == {"G": -0.01, "F": -0.02, "H": -0.72}
    echoed = await client.completions.create(model="acme/model", prompt="Once", echo=True, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in echoed]) == "OnceHello world"


async def test_a_bug_in_mid_stream_is_one_error_event_too(make_client, engine, caplog) -> None:
    engine.script = [b"Hel", KeyError("boom")]
    body = {"prompt": "Hi", "stream": True}
    async with await make_client() as client:
        response = await client.post("/v1/completions", json=body)
        whole = await client.post("/v1/completions", json=body | {"stream": False})
    first, last = events(response)
    assert first["choices"][0]["text"] == "Hel"
    assert (
        last
        == whole.json()
        == {"error": {"message": "internal error", "type": "server_error", "param": None, "code": "internal_error"}}
    )
    assert whole.status_code == 500
    assert "nobody thought of" in caplog.text


async def test_numbers_are_told_of_a_dead_engine_too(make_client, engine, monkeypatch) -> None:
    async def dead() -> float:
        raise EngineDeadError("gone")

    monkeypatch.setattr(engine, "cache_use", dead)
    async with await make_client() as client:
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert b"llm_serve" in response.content
