"""What is DeepSpeed's own: workers that share a model, and what happens when one of them dies."""

import asyncio
import multiprocessing
import time

import pytest

from demo.model import fetch_safetensors
from runtime.engines.contract import Batching, Engine, Sampling, load
from runtime.errors import ConfigError, EngineDeadError
from tests.runtime.support import arguments_for, first_token


def loaded(workers: int = 1, **initializer) -> Engine:
    arguments = arguments_for({"type": "DeepSpeed", "dtype": "float32", **initializer})
    scaling = arguments.scaling_config.model_copy(update={"num_workers": workers, "num_cpus_per_worker": 1.0})
    return load(arguments.model_copy(update={"scaling_config": scaling}), fetch_safetensors(), Batching(2))


async def test_a_worker_that_dies_fails_what_runs_and_ends_the_engine() -> None:
    engine = await asyncio.to_thread(loaded, 2)
    running = engine.generate(engine.tokenizer.encode("Once"), Sampling(900, 900))
    await first_token(running)
    (other,) = multiprocessing.active_children()
    other.kill()
    begun = time.monotonic()
    with pytest.raises(EngineDeadError, match="a worker has died"):
        async for _ in running:
            pass
    with pytest.raises(EngineDeadError, match="a worker has died"):
        await engine.check_health()
    await engine.close()
    assert time.monotonic() - begun < 30
    assert not multiprocessing.active_children()


async def test_both_shares_of_a_compiled_model_are_compiled() -> None:
    engine = await asyncio.to_thread(loaded, 2, torch_compile={"backend": "aot_eager"})
    prompt = engine.tokenizer.encode(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    tokens = [token async for batch in engine.generate(prompt, Sampling(16, temperature=0)) for token in batch]
    assert b"".join(map(engine.tokenizer.piece, tokens)) == b"The capital of France is Paris."
    await engine.close()


async def test_no_worker_is_left_when_it_closes() -> None:
    engine = await asyncio.to_thread(loaded, 2)
    assert len(multiprocessing.active_children()) == 1
    await engine.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("initializer", "problem"),
    [
        ({"use_kernel": True}, "initializer.use_kernel: DeepSpeed's kernels need a GPU"),
        (
            {"ds_inference_kwargs": {"no_such_thing": 1}},
            "ds_inference_kwargs: DeepSpeed cannot take the model.*no_such",
        ),
    ],
)
def test_what_it_cannot_do_it_says(initializer: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){problem}"):
        loaded(**initializer)
