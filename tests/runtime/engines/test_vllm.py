"""What is vLLM's own: LoRA adapters, and limits that its arguments set."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from demo.model import fetch_safetensors
from runtime.engines.contract import Batching, Constraint, Engine, Sampling, load
from runtime.errors import ConfigError, EngineError
from tests.runtime.support import arguments_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
RANK = 4
SMALL = {
    "dtype": "float32",
    "enforce_eager": True,
    "gpu_memory_utilization": 0.4,
    "kv_cache_memory_bytes": 1 << 27,
    "max_model_len": 256,
    "max_logprobs": 2,
}
FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def adapter(folder: Path, seed: int = 0, module: str = "self_attn.o_proj", **config) -> Path:
    """An adapter of random numbers for the real model."""
    folder.mkdir()
    size = AutoConfig.from_pretrained(fetch_safetensors()).hidden_size
    described = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": [module.rpartition(".")[2]]}
    (folder / "adapter_config.json").write_text(json.dumps(described | config))
    random = torch.Generator().manual_seed(seed)
    name = f"base_model.model.model.layers.3.{module}"
    weights = {
        f"{name}.lora_A.weight": torch.randn(RANK, size, generator=random) / 4,
        f"{name}.lora_B.weight": torch.randn(size, RANK, generator=random),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def loaded(adapters: dict[str, Path], **kwargs) -> Engine:
    initializer = {
        "engine_kwargs": SMALL | kwargs,
        "lora_modules": {name: str(path) for name, path in adapters.items()},
    }
    return load(arguments_for({"type": "vLLM", **initializer}), fetch_safetensors(), Batching(4))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "acme/sql": adapter(folder / "sql"),
        "poems": adapter(folder / "poems", seed=1),
        "stranger": adapter(folder / "stranger", module="self_attn.conv_proj"),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(adapters: dict[str, Path]) -> AsyncIterator[Engine]:
    engine = await asyncio.to_thread(loaded, adapters)
    yield engine
    await engine.close()


async def answer(engine: Engine, name: str | None = None) -> list[int]:
    sampling = Sampling(8, 8, temperature=0, adapter=name)
    return [token async for tokens in engine.generate(engine.tokenizer.encode(FRANCE), sampling) for token in tokens]


def merged_answer(prompt: list[int], folder: Path | None) -> list[int]:
    """What transformers says with the adapter's product added to the weights."""
    model = AutoModelForCausalLM.from_pretrained(fetch_safetensors(), dtype=torch.float32)
    if folder:
        weights = load_file(folder / "adapter_model.safetensors")
        down, up = (next(each for name, each in weights.items() if part in name) for part in ("lora_A", "lora_B"))
        model.model.layers[3].self_attn.o_proj.weight.data += 2 * up @ down
    tokens = torch.tensor([prompt])
    done = model.generate(tokens, do_sample=False, max_new_tokens=8, min_new_tokens=8)
    return done[0, len(prompt) :].tolist()


async def test_each_adapter_answers_as_if_it_were_in_the_weights(engine: Engine, adapters: dict[str, Path]) -> None:
    """All at once, and nobody minds its neighbours."""
    names, prompt = (None, "acme/sql", "poems"), engine.tokenizer.encode(FRANCE)
    expected = [merged_answer(prompt, adapters.get(name)) for name in names]
    assert len(set(map(tuple, expected))) == len(names)
    assert await asyncio.gather(*(answer(engine, name) for name in names)) == expected
    assert await answer(engine) == expected[0]


async def test_an_adapter_for_another_model_fails_alone(engine: Engine) -> None:
    base = await answer(engine)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"cannot use the adapter `stranger`: .*conv_proj"):
            await answer(engine, "stranger")
    await engine.check_health()
    assert await answer(engine) == base


async def test_the_most_logprobs_are_told(engine: Engine) -> None:
    assert engine.limits.logprobs == 2


@pytest.mark.parametrize(
    ("config", "kwargs", "problem"),
    [
        ({"r": 32}, {}, "LoRA rank 32 is greater than max_lora_rank 16"),
        ({"r": 16}, {"max_lora_rank": 8}, "LoRA rank 16 is greater than max_lora_rank 8"),
        ({"use_dora": True}, {}, "DoRA"),
        ({"peft_type": "IA3"}, {}, "its peft_type is IA3"),
    ],
)
async def test_an_adapter_that_vllm_cannot_use_names_its_field(tmp_path: Path, config, kwargs, problem) -> None:
    with pytest.raises(ConfigError, match=rf"initializer\.lora_modules\.mine: .*{problem}"):
        loaded({"mine": adapter(tmp_path / "mine", **config)}, **kwargs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM computes on the GPU here")
async def test_stages_without_compilation_are_refused_on_cpus() -> None:
    """vLLM would start, and die of the first request."""
    arguments = arguments_for({"type": "vLLM", "engine_kwargs": SMALL | {"pipeline_parallel_size": 2}})
    scaling = arguments.scaling_config.model_copy(update={"num_workers": 2})
    with pytest.raises(ConfigError, match="pipeline_parallel_size goes without enforce_eager only"):
        load(arguments.model_copy(update={"scaling_config": scaling}), fetch_safetensors(), Batching(4))


async def test_the_tokenizers_own_end_token_ends_answers_too(tmp_path: Path) -> None:
    """vLLM ends a grammar with it, though the model's files name another."""
    for file in fetch_safetensors().iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    (tmp_path / "tokenizer_config.json").unlink()
    said = json.loads((fetch_safetensors() / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**said, "eos_token": "<|im_start|>"}))
    engine = load(arguments_for({"type": "vLLM", "engine_kwargs": SMALL}), tmp_path, Batching(1))
    only = Sampling(16, temperature=0, constraint=Constraint("lark", 'start: "Yes" | "No, never"'))
    answer = [token async for tokens in engine.generate(engine.tokenizer.encode(FRANCE), only) for token in tokens]
    assert b"".join(map(engine.tokenizer.piece, answer)).decode() in ("Yes", "No, never")
    await engine.close()


async def test_an_adapter_that_is_not_there_names_its_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora_modules\.mine: there is no adapter_config.json and no adapter_model"):
        loaded({"mine": tmp_path})
    folder = adapter(tmp_path / "pickled")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"lora_modules\.mine: there is no adapter_model.safetensors"):
        loaded({"mine": folder})


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("training_args.bin", "", r"training_args\.bin: may be a pickle"),
        ("modeling_x.py", "", r"modeling_x\.py: is code"),
        (
            "tokenizer_config.json",
            '{"auto_map": {"AutoTokenizer": "x.X"}}',
            r"tokenizer_config\.json: `auto_map` names",
        ),
    ],
)
async def test_a_hostile_adapter_is_not_shown_to_vllm(tmp_path: Path, name: str, content: str, problem: str) -> None:
    (adapter(tmp_path / "mine") / name).write_text(content)
    with pytest.raises(ConfigError, match=rf"lora_modules\.mine: .*{problem}"):
        loaded({"mine": tmp_path / "mine"})
