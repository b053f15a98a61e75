"""Tool calls over HTTP, as OpenAI's own client makes and reads them."""

import json

import httpx
import openai
import pydantic
import pytest

from runtime.api.routes import create_app
from runtime.engines.contract import Constraint, Limits
from runtime.text.tools import FORMATS
from tests.runtime.support import ByteTokenizer, events

TEMPLATE = """
{%- for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}
{%- for m in messages %}<{{ m.role }}>{{ m.content }}
{%- for call in m.tool_calls %}<tool_call>{{ call.id }}:{{ call.function | tojson }}</tool_call>{% endfor %}
{%- endfor %}<assistant>"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CHAT = {"model": "acme/model", "messages": [{"role": "user", "content": "Warm?"}], "tools": [WEATHER, NOW]}
CALL = b'<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'


@pytest.fixture
def engine(engine):
    """With a template that knows tools."""
    engine.tokenizer = ByteTokenizer()
    engine.tokenizer.chat_template = TEMPLATE
    engine.limits = Limits(context_length=4096, vocabulary_size=256)
    return engine


@pytest.fixture
def make_openai(make_replica):
    async def make(**settings) -> openai.AsyncOpenAI:
        transport = httpx.ASGITransport(create_app(await make_replica(**settings)))
        http_client = httpx.AsyncClient(transport=transport)
        return openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http_client, max_retries=0)

    return make


async def test_a_call_in_one_piece_has_openais_shape(make_client, engine) -> None:
    engine.script = [b"Let me see.\n", CALL]
    (choice,) = (await (await make_client()).post("/v1/chat/completions", json=CHAT)).json()["choices"]
    (call,) = choice["message"].pop("tool_calls")
    assert choice["message"] == {"role": "assistant", "content": "Let me see.", "refusal": None}
    assert choice["finish_reason"] == "tool_calls"
    assert len(call["id"]) == 9 and call["id"].isalnum()
    function = {"name": "get_weather", "arguments": '{"city": "Bern"}'}
    assert call == {"id": call["id"], "type": "function", "function": function}
    assert bytes(engine.requests[0][0]) == b"[get_weather][now]<user>Warm?<assistant>"
    assert engine.requests[0][1].constraint is None


async def test_no_content_beside_a_call_is_null_and_no_call_is_left_out(make_client, engine) -> None:
    engine.scripts = {0: [CALL], 1: [b"It is."]}
    client = await make_client()
    answers = [(await client.post("/v1/chat/completions", json=CHAT)).json()["choices"][0] for _ in range(2)]
    assert answers[0]["message"]["content"] is None
    assert (answers[1]["message"], answers[1]["finish_reason"]) == (
        {"role": "assistant", "content": "It is.", "refusal": None},
        "stop",
    )


async def test_a_streamed_call_comes_as_openai_sends_it(make_client, engine) -> None:
    engine.script = [b"Let me", b" see.\n<tool", CALL[5:40], CALL[40:], b"\n", CALL]
    found = events(await (await make_client()).post("/v1/chat/completions", json=CHAT | {"stream": True}))
    assert found.pop() == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in found]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me see."
    pieces = [each for delta in deltas for each in delta.get("tool_calls", [])]
    for delta in deltas:  # clients add up a call once in a chunk
        indices = [each["index"] for each in delta.get("tool_calls", [])]
        assert indices == sorted(set(indices))
    assert deltas[-1] == {}
    for index in (0, 1):
        first, *others = [each for each in pieces if each["index"] == index]
        assert first["type"] == "function" and first["function"]["name"] == "get_weather"
        assert all(set(each) == {"index", "function"} and set(each["function"]) == {"arguments"} for each in others)
        assert "".join(each["function"]["arguments"] for each in [first, *others]) == '{"city": "Bern"}'
    assert len({each["id"] for each in pieces if "id" in each}) == 2
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None] * (len(found) - 1) + ["tool_calls"]


async def test_a_stream_begins_while_a_call_is_held_back(make_client, engine) -> None:
    engine.script = [CALL]
    found = events(await (await make_client()).post("/v1/chat/completions", json=CHAT | {"stream": True}))
    assert [chunk["choices"][0]["delta"].get("content") for chunk in found[:2]] == [None, None]


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_goes_round_the_loop(make_openai, engine, stream) -> None:
    engine.scripts = {0: [CALL, b"\n" + CALL], 1: [b"Yes, it is."]}
    client = await make_openai()
    messages: list = [{"role": "user", "content": "Warm?"}]
    asked = {"model": "acme/model", "tools": [WEATHER, NOW]}
    message = await answered(client, asked | {"messages": messages}, stream=stream)
    assert message.content is None and len(message.tool_calls) == 2
    messages.append(message.model_dump(exclude_none=not stream))
    for call in message.tool_calls:
        assert json.loads(call.function.arguments) == {"city": "Bern"}
        messages.append({"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "21"}]})
    message = await answered(client, asked | {"messages": messages}, stream=stream)
    assert (message.content, message.tool_calls) == ("Yes, it is.", None)
    ids = [call["id"] for call in messages[1]["tool_calls"]]
    inner = [
        f'<tool_call>{each}:{{"name": "get_weather", "arguments": {{"city": "Bern"}}}}</tool_call>' for each in ids
    ]
    prompt = "[get_weather][now]<user>Warm?<assistant>" + "".join(inner) + "<tool>21<tool>21<assistant>"
    assert bytes(engine.requests[1][0]).decode() == prompt


async def answered(client: openai.AsyncOpenAI, asked: dict, *, stream: bool):
    """The message, whole or added up by the client."""
    if not stream:
        return (await client.chat.completions.create(**asked)).choices[0].message
    async with client.chat.completions.stream(**asked) as found:
        async for _ in found:
            pass
        return (await found.get_final_completion()).choices[0].message


async def test_openais_client_parses_a_forced_call_of_a_model(make_openai, engine) -> None:
    class GetWeather(pydantic.BaseModel):
        city: str

    engine.script = [b'GetWeather", "arg', b'uments": {"city": "Bern"}}']
    client = await make_openai()
    tool = openai.pydantic_function_tool(GetWeather)
    asked = {"model": "acme/model", "messages": CHAT["messages"], "tools": [tool], "tool_choice": "required"}
    whole = await client.chat.completions.parse(**asked)
    async with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_completion()
    for choice in (whole.choices[0], streamed.choices[0]):
        assert choice.message.tool_calls[0].function.parsed_arguments == GetWeather(city="Bern")
        assert choice.finish_reason == "tool_calls"
    assert "tool_calls.function.arguments.done" in kinds


@pytest.mark.parametrize(
    ("choice", "tools"),
    [("required", ["get_weather", "now"]), ({"type": "function", "function": {"name": "now"}}, ["now"])],
)
async def test_a_forced_call_begins_in_the_prompt_and_is_constrained(make_client, engine, choice, tools) -> None:
    engine.script = [b'now", "arguments": {}}']
    client = await make_client()
    body = (await client.post("/v1/chat/completions", json=CHAT | {"tool_choice": choice})).json()
    assert body["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
    prompt, sampling = engine.requests[0]
    assert bytes(prompt).decode().endswith("<assistant>" + FORMATS["hermes"].forced)
    assert isinstance(sampling.constraint, Constraint)
    assert [name for name in ("get_weather", "now") if f'"{name}\\"' in sampling.constraint.text] == tools


async def test_none_means_that_the_model_does_not_hear_of_them(make_client, engine) -> None:
    engine.script = [CALL]
    client = await make_client()
    body = (await client.post("/v1/chat/completions", json=CHAT | {"tool_choice": "none"})).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": CALL.decode(), "refusal": None}
    assert bytes(engine.requests[0][0]) == b"<user>Warm?<assistant>"


async def test_one_call_where_no_more_are_wanted(make_client, engine) -> None:
    engine.script = [CALL, b"\n", CALL]
    client = await make_client()
    for stream in (False, True):
        asked = CHAT | {"parallel_tool_calls": False, "stream": stream}
        response = await client.post("/v1/chat/completions", json=asked)
        assert response.text.count('"get_weather"') == 1


@pytest.mark.parametrize(
    ("script", "max_tokens", "text", "finish"),
    [
        (b'<tool_call>{"name": "other", "arguments": {}}</tool_call>', 99, None, "stop"),
        (b"<tool_call>{oops}</tool_call>", 99, None, "stop"),
        (CALL, 40, CALL[:40].decode(), "length"),
    ],
)
async def test_what_is_no_call_is_content(make_client, engine, script, max_tokens, text, finish) -> None:
    engine.script = [script]
    client = await make_client()
    (choice,) = (await client.post("/v1/chat/completions", json=CHAT | {"max_tokens": max_tokens})).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": text or script.decode(), "refusal": None}
    assert choice["finish_reason"] == finish


async def test_answers_that_are_cut_after_a_call_say_so(make_client, engine) -> None:
    engine.script = [CALL + b" and then"]
    client = await make_client()
    (choice,) = (await client.post("/v1/chat/completions", json=CHAT | {"max_tokens": len(CALL) + 3})).json()["choices"]
    assert (choice["finish_reason"], len(choice["message"]["tool_calls"])) == ("length", 1)


async def test_each_answer_has_its_own_calls(make_client, engine) -> None:
    engine.scripts = {0: [CALL], 1: [b"No."], 2: [CALL + CALL]}
    client = await make_client(max_batch_size=3)
    choices = (await client.post("/v1/chat/completions", json=CHAT | {"n": 3})).json()["choices"]
    assert [len(choice["message"].get("tool_calls", [])) for choice in choices] == [1, 0, 2]
    assert [choice["finish_reason"] for choice in choices] == ["tool_calls", "stop", "tool_calls"]


async def test_logprobs_are_those_of_the_content(make_client, engine) -> None:
    engine.script = [b"Look <b> \n" + CALL[:30], CALL[30:], b"\nDone."]
    client = await make_client()
    for stream in (False, True):
        response = await client.post("/v1/chat/completions", json=CHAT | {"logprobs": True, "stream": stream})
        found = events(response)[:-1] if stream else [response.json()]
        tokens = [
            each["token"] for chunk in found for each in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
        ]
        assert "".join(tokens) == "Look <b>Done."


async def test_marks_may_be_control_tokens(make_client, engine) -> None:
    class WithMarks(ByteTokenizer):
        """Two bytes that text never has are control tokens."""

        chat_template = TEMPLATE
        marks = {0xFE: b"<tool_call>", 0xFF: b"</tool_call>", 0xFD: b"<|im_end|>"}

        def piece(self, token: int) -> bytes:
            return b"" if token in self.marks else bytes([token])

        def label(self, token: int) -> bytes:
            return self.marks.get(token) or self.piece(token)

    engine.tokenizer = WithMarks()
    engine.script = [b"See", b'\xfe{"name": "now"}\xff', b"\xfd"]
    client = await make_client()
    message = (await client.post("/v1/chat/completions", json=CHAT)).json()["choices"][0]["message"]
    assert (message["content"], message["tool_calls"][0]["function"]["name"]) == ("See", "now")
    without = {key: value for key, value in CHAT.items() if key != "tools"}
    message = (await client.post("/v1/chat/completions", json=without)).json()["choices"][0]["message"]
    assert message["content"] == 'See{"name": "now"}'


def called(arguments: str = "{}", **more) -> dict:
    """An assistant's message with a call."""
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "x" * 65}}]}, "tools.0.function.name"),
        ({"tools": [NOW] * 2}, "tools"),
        ({"tools": [NOW | {"function": {"name": f"f{n}"}} for n in range(129)]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools.0.function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"title": "x" * 65536}}}]},
            "tools.0.function.parameters",
        ),
        ({"tool_choice": "any"}, None),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, None),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": "required", "tools": None}, "tool_choice"),
        ({"tool_choice": "required", "min_tokens": 3}, "min_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"function_call": {"name": "x"}}, "function_call"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages.0"),
        ({"messages": [called() | {"role": "user"}]}, "messages.0"),
        ({"messages": [called(function_call={"name": "now"})]}, "messages.0"),
        ({"messages": [called(audio={"id": "x"})]}, "messages.0"),
        ({"messages": [called("[]")]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called("{")]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called("[" * 100_000)]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called(), {"role": "tool", "content": "x"}]}, "messages.1"),
        ({"messages": [called(), {"role": "user", "content": "x", "tool_call_id": "a"}]}, "messages.1"),
        ({"messages": [called(), {"role": "tool", "content": "x", "tool_call_id": "b"}]}, "messages"),
        ({"messages": [{"role": "function", "content": "x", "name": "now"}]}, "messages.0.role"),
    ],
)
async def test_what_is_refused(make_client, engine, body, param) -> None:
    client = await make_client()
    response = await client.post("/v1/chat/completions", json=CHAT | body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error"), response.text
    assert param is None or error["param"] == param
    assert engine.requests == []


async def test_json_and_tools_that_are_not_called_go_together(make_client, engine) -> None:
    asked = {"response_format": {"type": "json_object"}, "tool_choice": "none"}
    assert (await (await make_client()).post("/v1/chat/completions", json=CHAT | asked)).status_code == 200


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
async def test_a_part_that_is_no_text_is_refused_by_its_type(make_client, engine, kind) -> None:
    part = {"type": kind, kind: {"url": "http://127.0.0.1:1/x"}}
    client = await make_client()
    body = CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, part]}]}
    error = (await client.post("/v1/chat/completions", json=body)).json()["error"]
    assert f"`{kind}` parts are not offered: only text, and nothing is fetched" in error["message"]
    assert engine.requests == []


async def test_what_openais_messages_may_hold_besides(make_client, engine) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "refusal": "Never."},
        called("", content="See", refusal=None, audio=None, function_call=None, annotations=[]),
        {"role": "tool", "content": "12:00", "tool_call_id": "a", "name": "now"},
    ]
    client = await make_client()
    assert (await client.post("/v1/chat/completions", json=CHAT | {"messages": messages})).status_code == 200
    call = '<tool_call>a:{"name": "now", "arguments": {}}</tool_call>'
    turns = f"<developer>Be brief.<user>Hi<assistant>No.<assistant>Never.<assistant>See{call}<tool>12:00<assistant>"
    assert bytes(engine.requests[0][0]).decode() == "[get_weather][now]" + turns


@pytest.mark.parametrize("ask", [CHAT, {"messages": [*CHAT["messages"], called(), CHAT["messages"][0]]}])
@pytest.mark.parametrize(
    ("template", "settings"),
    [(TEMPLATE, {"prompt_format": "{instruction}"}), ("{{ messages[0].content }}", {}), (None, {})],
)
async def test_tools_that_the_model_would_not_hear_of_are_refused(make_client, engine, template, settings, ask) -> None:
    engine.tokenizer.chat_template = template
    response = await (await make_client(**settings)).post("/v1/chat/completions", json=ask)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == ("tools" if ask is CHAT else "messages.1")
    assert engine.requests == []


async def test_calls_that_nobody_can_read_are_refused_until_the_registry_says_how(make_client, engine) -> None:
    engine.tokenizer.chat_template = "{{ tools }}"
    engine.script = [b'{"name": "now", "parameters": {}}']
    response = await (await make_client()).post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
    assert "generation.tool_format" in response.json()["error"]["message"]
    response = await (await make_client(tool_format="llama3")).post("/v1/chat/completions", json=CHAT)
    assert response.json()["choices"][0]["finish_reason"] == "tool_calls"


async def test_completions_have_no_tools(make_client, engine) -> None:
    client = await make_client()
    response = await client.post("/v1/completions", json={"prompt": "x", "tools": [NOW]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
