"""POST /v1/embeddings, over an engine that counts bytes."""

import base64
import struct
from collections.abc import Sequence

import httpx
import openai
import pytest

from runtime.api.routes import create_app
from runtime.engines.contract import Engine, Limits
from runtime.errors import EngineMemoryError
from tests.runtime.support import ScriptedEngine


class CountingEngine(ScriptedEngine):
    """A prompt's vector is its length and its first token."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(context_length=100, vocabulary_size=256, embeds=True)

    async def embed(self, prompt: Sequence[int]) -> Sequence[float]:
        if prompt[0] == 0:
            raise EngineMemoryError("out of memory")
        return [float(len(prompt)), prompt[0] / 2]


@pytest.fixture
def engine() -> Engine:
    return CountingEngine()


async def asked(make_client, **body) -> httpx.Response:
    async with await make_client() as client:
        return await client.post("/v1/embeddings", json=body)


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"),
    [
        ("abc", [[3, 48.5]], 3),
        (["abc", "d"], [[3, 48.5], [1, 50.0]], 4),
        ([7, 8], [[2, 3.5]], 2),
        ([[7, 8], [9]], [[2, 3.5], [1, 4.5]], 3),
    ],
)
async def test_texts_and_tokens_one_or_several(make_client, given, vectors, tokens) -> None:
    found = (await asked(make_client, input=given, model="acme/model")).json()
    assert found == {
        "object": "list",
        "model": "acme/model",
        "data": [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def test_the_name_asked_for_comes_back(make_replica) -> None:
    replica = await make_replica()
    replica.adapters = ("acme/sql",)
    transport = httpx.ASGITransport(create_app(replica))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        found = await client.post("/v1/embeddings", json={"input": "a", "model": "acme/sql"})
    assert found.json()["model"] == "acme/sql"


async def test_base64_is_the_same_in_32_bits(make_client) -> None:
    found = (await asked(make_client, input="abc", encoding_format="base64")).json()["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(found)) == (3, 48.5)


async def test_openais_client_reads_it(make_client) -> None:
    async with await make_client() as http:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http)
        found = await client.embeddings.create(model="acme/model", input=["abc", "d"])
    assert [each.embedding for each in found.data] == [[3, 48.5], [1, 50]]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [256]}, "tokens are below 256"),
        ({"input": [-1]}, "input"),
        ({"input": "a" * 101}, "reads 100 tokens at most; one input has 101"),
        ({"input": ["a", [1]]}, "input.1"),
        ({"input": [[1], [1, 1 << 31]]}, "input.1.1"),
        ({"input": "a", "dimensions": 1}, "dimensions"),
        ({"input": "a", "chat_template": "{{ 1 }}"}, "chat_template: this server does not offer it"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens: this server does not offer it"),
        ({"input": "a", "prompt_embeds": "AA"}, "prompt_embeds: this server does not offer it"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_is_refused(make_client, body, told) -> None:
    response = await asked(make_client, **body)
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]


async def test_too_many_tokens_together_are_refused(make_client, engine) -> None:
    engine.limits = Limits(context_length=1000, vocabulary_size=256, embeds=True)
    response = await asked(make_client, input=["a" * 1000] * 301)
    assert response.json()["error"]["message"].startswith("the inputs have 301000 tokens; at most 300000")


async def test_an_error_of_one_input_is_the_requests(make_client) -> None:
    response = await asked(make_client, input=[[1], [0]])
    assert (response.status_code, response.json()["error"]["code"]) == (503, "out_of_memory")


async def test_a_model_that_embeds_answers_nothing(make_client) -> None:
    async with await make_client() as client:
        chat = await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
        completion = await client.post("/v1/completions", json={"prompt": "Hi"})
    assert {chat.status_code, completion.status_code} == {400}
    assert "use /v1/embeddings" in chat.json()["error"]["message"]


async def test_a_model_that_answers_embeds_nothing(make_client, engine) -> None:
    engine.limits = Limits(context_length=100, vocabulary_size=256)
    response = await asked(make_client, input="abc")
    assert response.status_code == 400
    assert "makes no embeddings" in response.json()["error"]["message"]
