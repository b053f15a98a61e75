"""A real model from a bucket into an engine: pushed, locked, fetched, verified, loaded, asked."""

import asyncio
from pathlib import Path

import pytest

from demo.model import fetch_safetensors
from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Sampling
from runtime.loading import load_model
from runtime.phases import STARTED
from runtime.schema.weights import S3MirrorConfig
from runtime.weights import mirrors
from runtime.weights.locking import commit_held, lock_from_sources
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from tests.runtime.support import arguments_for
from tests.runtime.weights.servers import FaultProxy

FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
ENGINES = {
    "llamaCpp": {"model_init_kwargs": {"n_ctx": 512, "n_batch": 64}},
    "SingleDevice": {"dtype": "float32"},
}


def arguments(engine: str, mirror: S3MirrorConfig, **more) -> ModelArguments:
    initialization = {"s3_mirror_config": mirror.model_dump()}
    return arguments_for({"type": engine, **ENGINES[engine]}, initialization=initialization, **more)


@pytest.mark.parametrize("engine", ENGINES)
def test_it_answers_from_a_bucket(
    engine: str, s3: FaultProxy, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LLM_SERVE_CACHE")
    folder = fetch_safetensors()
    local = S3MirrorConfig(bucket_uri=str(folder))
    mirror = S3MirrorConfig(bucket_uri="s3://models/smollm2/", endpoint_url=s3.url)
    monkeypatch.setenv("LLM_SERVE_CACHE", str(cache))
    source = Request.of(arguments(engine, local))
    mirrors.push(source, folder, folder.name, mirror, Pace())
    lock = lock_from_sources(source, Pace())
    assert lock.commit == commit_held(folder)
    assert (lock.facts.layers, lock.facts.kv_heads, lock.facts.parameters) == (30, 3, 134_515_008)

    s3.choose = lambda method, path: "reset at 50%" if method == "GET" and len(s3.seen) % 3 == 0 else None
    model = load_model(arguments(engine, mirror, lock=lock.weights.model_dump()), Batching(1))
    assert set(STARTED.seconds) >= {"fetch", "verify", "load"}

    async def answer() -> str:
        prompt = model.tokenizer.encode(FRANCE)
        sampling = Sampling(max_new_tokens=16, temperature=0)
        tokens = [token async for batch in model.generate(prompt, sampling) for token in batch]
        text = b"".join(model.tokenizer.piece(token) for token in tokens).decode()
        await model.close()
        return text

    assert asyncio.run(answer()) == "The capital of France is Paris."
