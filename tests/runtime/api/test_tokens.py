"""Text to tokens and back over the scripted engine, whose tokens are bytes."""

import pytest

MESSAGES = [{"role": "user", "content": "Hi"}]


async def test_a_prompt_and_its_tokens(make_client, engine) -> None:
    client = await make_client()
    answer = (await client.post("/tokenize", json={"model": "acme/model", "prompt": "H\u00e9"})).json()
    assert answer == {"count": 3, "max_model_len": 100, "tokens": [72, 195, 169], "token_strs": None}
    answer = (await client.post("/detokenize", json={"tokens": answer["tokens"]})).json()
    assert answer == {"prompt": "H\u00e9"}
    answer = (await client.post("/tokenize", json={"prompt": "H\u00e9", "return_token_strs": True})).json()
    assert answer["token_strs"] == ["H", "\ufffd", "\ufffd"]
    assert (await client.post("/tokenize", json={"prompt": ""})).json()["tokens"] == []
    assert (await client.post("/detokenize", json={"tokens": []})).json() == {"prompt": ""}
    assert engine.requests == []


async def test_messages_have_the_tokens_that_a_chat_counts(make_client) -> None:
    for settings in ({}, {"prompt_format": "Q: {instruction}"}):
        client = await make_client(**settings)
        tokens = (await client.post("/tokenize", json={"messages": MESSAGES})).json()
        chat = (await client.post("/v1/chat/completions", json={"messages": MESSAGES})).json()
        assert tokens["count"] == len(tokens["tokens"]) == chat["usage"]["prompt_tokens"]


async def test_the_start_token_is_left_out_where_that_is_asked_for(make_client, engine, monkeypatch) -> None:
    monkeypatch.setattr(engine.tokenizer, "encode", lambda text, *, start=True: [1] * start + list(text.encode()))
    client = await make_client()
    for add, tokens in ((True, [1, 65]), (False, [65])):
        answer = await client.post("/tokenize", json={"prompt": "A", "add_special_tokens": add})
        assert answer.json()["tokens"] == tokens


async def test_what_a_tokenizer_is(make_client, engine) -> None:
    client = await make_client()
    assert (await client.get("/tokenizer_info")).json() == {
        "bos_token": "<s>",
        "chat_template": engine.tokenizer.chat_template,
    }


@pytest.mark.parametrize(
    ("path", "body", "param", "status"),
    [
        ("/tokenize", {}, None, 400),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, None, 400),
        ("/tokenize", {"prompt": ["a"]}, "prompt", 400),
        ("/tokenize", {"messages": []}, "messages", 400),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template", 400),
        ("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}, "add_generation_prompt", 400),
        ("/tokenize", {"prompt": "a", "model": "acme/other"}, "model", 404),
        ("/detokenize", {}, "tokens", 400),
        ("/detokenize", {"tokens": [1], "skip_special_tokens": False}, "skip_special_tokens", 400),
        ("/detokenize", {"tokens": [-1]}, "tokens.0", 400),
        ("/detokenize", {"tokens": [256]}, "tokens", 400),
        ("/detokenize", {"tokens": [1 << 31]}, "tokens.0", 400),
        ("/detokenize", {"tokens": ["1"]}, "tokens.0", 400),
        ("/detokenize", {"tokens": [1], "model": "acme/other"}, "model", 404),
    ],
)
async def test_what_is_refused(make_client, path, body, param, status) -> None:
    response = await (await make_client()).post(path, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param
