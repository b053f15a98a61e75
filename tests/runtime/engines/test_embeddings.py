"""Embeddings by every engine that makes them, with real models, next to transformers' own hidden states."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import AutoModel, AutoTokenizer

from demo.model import fetch_safetensors
from runtime.engines import ENGINES
from runtime.engines.contract import Batching, Engine, load
from runtime.errors import ConfigError, EngineDeadError
from tests.runtime.engines.minilm import fetch_minilm
from tests.runtime.support import arguments_for

CASES: dict[str, tuple[dict, Callable[[], Path]]] = {
    "SingleDevice": ({"dtype": "float32"}, fetch_minilm),
    "llamaCpp": ({"model_init_kwargs": {"n_ctx": 256, "pooling_type": "mean"}}, fetch_safetensors),
    "vLLM": (
        {"engine_kwargs": {"dtype": "float32", "enforce_eager": True, "gpu_memory_utilization": 0.2}},
        fetch_minilm,
    ),
}
"""Engine -> its arguments, and the folder of a model that it can read."""
TEXTS = ["The cat sat on the mat.", "A kitten rests on a rug.", "Interest rates rose again.", "Zürich 東京 🎉", "a"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_every_engine_that_makes_embeddings_is_tested() -> None:
    assert {engine.name for engine in ENGINES if engine.embeds} == set(CASES)


def loaded(name: str) -> Engine:
    options, fetch = CASES[name]
    return load(arguments_for({"type": name, **options}, embeds=True), fetch(), Batching(8))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CASES)
async def shared(request) -> AsyncIterator[tuple[Engine, Path]]:
    engine = await asyncio.to_thread(loaded, request.param)
    yield engine, CASES[request.param][1]()
    await engine.close()


def expected(folder: Path, prompts: list[list[int]]) -> torch.Tensor:
    """The mean over the tokens of the last hidden states, brought to length 1."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        means = [model(torch.tensor([prompt])).last_hidden_state[0].mean(0) for prompt in prompts]
    return torch.nn.functional.normalize(torch.stack(means), dim=1)


async def test_the_vectors_are_the_models(shared) -> None:
    engine, folder = shared
    prompts = [engine.tokenizer.encode(text) for text in TEXTS]
    vectors = torch.tensor(await asyncio.gather(*(engine.embed(prompt) for prompt in prompts)))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))
    assert (vectors * expected(folder, prompts)).sum(1).min() > 0.999


async def test_the_tokens_are_the_models(shared) -> None:
    engine, folder = shared
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [engine.tokenizer.encode(text) for text in TEXTS] == [tokenizer(text).input_ids for text in TEXTS]


async def test_a_vector_does_not_depend_on_its_neighbours(shared) -> None:
    engine, _ = shared
    prompts = [engine.tokenizer.encode(f"{text} " * (1 + number % 7)) for number, text in enumerate(TEXTS * 8)]
    alone = torch.tensor([await engine.embed(prompt) for prompt in prompts])
    together = torch.tensor(await asyncio.gather(*(engine.embed(prompt) for prompt in prompts)))
    torch.testing.assert_close(together, alone, atol=2e-3, rtol=0)


async def test_the_longest_prompt_fits(shared) -> None:
    engine, _ = shared
    token = engine.tokenizer.encode("a")[-1]
    assert len(await engine.embed([token] * engine.limits.context_length)) > 100


async def test_who_gives_up_leaves_the_others_alone(shared) -> None:
    engine, _ = shared
    prompt = engine.tokenizer.encode(TEXTS[0])
    asked = [asyncio.ensure_future(engine.embed(prompt)) for _ in range(20)]
    await asyncio.sleep(0)
    for each in asked[::2]:
        each.cancel()
    assert len({tuple(vector) for vector in await asyncio.gather(*asked[1::2])}) >= 1
    await engine.check_health()


@pytest.mark.parametrize("name", ["SingleDevice", "llamaCpp"])
async def test_a_closed_engine_says_so(name: str) -> None:
    engine = await asyncio.to_thread(loaded, name)
    await engine.close()
    with pytest.raises(EngineDeadError):
        await engine.embed([1])
    with pytest.raises(EngineDeadError):
        await engine.check_health()
    await engine.close()


async def test_a_file_that_does_not_say_how_it_pools_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model_init_kwargs: the file does not say how vectors are pooled; set `po"):
        load(arguments_for({"type": "llamaCpp"}, embeds=True), fetch_safetensors(), Batching(1))
