"""A real model, which knows nothing of tools, is made to call them: on llama.cpp, over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jsonschema
import openai
import pytest
import pytest_asyncio

from demo.model import fetch
from runtime.api.routes import create_app
from runtime.engines.contract import Batching, Engine, load
from runtime.replica import Replica
from runtime.text.tools import FORMATS
from tests.runtime.support import arguments_for, settings_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEMPLATES = Path(__file__).parent / "text" / "templates"
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome", "Oslo"]},
        "days": {"type": "array", "items": {"$ref": "#/$defs/Day"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"Day": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}},
}
ALARM = {
    "type": "object",
    "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
    "required": ["hour"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name, schema in (("get_weather", WEATHER), ("set_alarm", ALARM))
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    initializer = {"type": "llamaCpp", "model_init_kwargs": {"n_ctx": 1024, "n_batch": 64}}
    engine = await asyncio.to_thread(load, arguments_for(initializer), fetch().parent, Batching(2))
    yield engine
    await engine.close()


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("stream", [False, True])
async def test_arguments_match_their_schemas(engine, monkeypatch, name, stream) -> None:
    monkeypatch.setattr(engine.tokenizer, "chat_template", (TEMPLATES / f"{name}.jinja").read_text())

    async def loaded(*_):
        return engine

    replica = Replica(arguments_for({"type": "llamaCpp"}), loaded)
    await replica.configure(settings_for())
    transport = httpx.ASGITransport(create_app(replica))
    http_client = httpx.AsyncClient(transport=transport)
    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http_client, max_retries=0)
    messages = [{"role": "user", "content": "How is the weather in Rome on 2026-11-24?"}]
    one = {"type": "function", "function": {"name": "set_alarm"}}
    for seed, choice in enumerate(("required", "required", one)):
        asked = {"model": "acme/model", "messages": messages, "tools": TOOLS, "tool_choice": choice, "max_tokens": 200}
        asked |= {"seed": seed, "temperature": 1.0}
        if stream:
            async with client.chat.completions.stream(**asked) as found:
                completion = await found.get_final_completion()
        else:
            completion = await client.chat.completions.create(**asked)
        (answer,) = completion.choices
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
        (call,) = answer.message.tool_calls
        schema = next(
            tool["function"]["parameters"] for tool in TOOLS if tool["function"]["name"] == call.function.name
        )
        jsonschema.validate(json.loads(call.function.arguments), schema)
        assert choice == "required" or call.function.name == "set_alarm"
