"""What is DeviceMap's own: where the layers go, and that the answer does not depend on it."""

import pytest

from demo.model import fetch_safetensors
from runtime.engines.contract import Batching, Sampling, load
from runtime.errors import ConfigError
from tests.runtime.support import arguments_for

FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
ON_DISK = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"} | {
    f"model.layers.{layer}": "disk" if layer % 6 == 5 else "cpu" for layer in range(30)
}


@pytest.mark.parametrize(
    "device_map", ["auto", "balanced", "balanced_low_0", "sequential", {"": "cpu"}, ON_DISK],
    ids=["auto", "balanced", "low-0", "sequential", "cpu", "disk"],
)  # fmt: skip
async def test_wherever_the_layers_are_it_answers(device_map) -> None:
    arguments = arguments_for({"type": "DeviceMap", "dtype": "float32", "device_map": device_map})
    engine = load(arguments, fetch_safetensors(), Batching(2))
    stream = engine.generate(engine.tokenizer.encode(FRANCE), Sampling(16, temperature=0))
    answer = [token async for tokens in stream for token in tokens]
    assert b"".join(map(engine.tokenizer.piece, answer)) == b"The capital of France is Paris."
    await engine.close()


def test_a_device_that_is_not_there_is_told() -> None:
    arguments = arguments_for({"type": "DeviceMap", "dtype": "float32", "device_map": {"": "warp"}})
    with pytest.raises(ConfigError, match=r"transformers cannot load the model: .*warp"):
        load(arguments, fetch_safetensors(), Batching(1))
