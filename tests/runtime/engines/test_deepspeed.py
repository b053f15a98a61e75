"""What is DeepSpeed's own: workers that share a model, and what happens when one of them dies."""

import asyncio
import multiprocessing
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from demo.model import fetch_safetensors
from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, Sampling, load, meeting_place
from runtime.engines.deepspeed.engine import _part, _share
from runtime.engines.deepspeed.group import Channel, Order
from runtime.engines.hf.loading import Source
from runtime.errors import ConfigError, EngineDeadError
from tests.runtime.support import arguments_for, first_token


def arguments(workers: int = 1, **initializer) -> ModelArguments:
    found = arguments_for({"type": "DeepSpeed", "dtype": "float32", **initializer})
    scaling = found.scaling_config.model_copy(update={"num_workers": workers, "num_cpus_per_worker": 1.0})
    return found.model_copy(update={"scaling_config": scaling})


def loaded(workers: int = 1, folder: Path | None = None, **initializer) -> Engine:
    return load(arguments(workers, **initializer), folder or fetch_safetensors(), Batching(2))


def saved(model: torch.nn.Module, folder: Path) -> Path:
    """A model of random numbers with the tokenizer of the real one."""
    model.save_pretrained(folder, max_shard_size="30MB")
    for file in fetch_safetensors().glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


def most_memory(process: int) -> int:
    """Bytes that it has had at the most."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) << 10


async def answer(engine: Engine, prompt: str = "Once upon") -> list[int]:
    greedy = Sampling(16, 16, temperature=0)
    return [token async for tokens in engine.generate(engine.tokenizer.encode(prompt), greedy) for token in tokens]


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


async def test_all_shares_go_on_from_a_prompt_that_they_have_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await asyncio.to_thread(loaded, 2)
    orders: list[tuple[Order, list[int]]] = []
    send = Channel.send

    def noted(channel: Channel, order: Order, numbers: Sequence[int]) -> None:
        orders.append((order, list(numbers)))
        send(channel, order, numbers)

    monkeypatch.setattr(Channel, "send", noted)
    text = "Once upon a time there was a fox who lived in a wood, and each morning it went down to the river to drink"
    length = len(engine.tokenizer.encode(text))
    assert await answer(engine, text) == await answer(engine, text)
    reads = [numbers for order, numbers in orders if order == Order.READ]
    assert [numbers[:4] for numbers in reads] == [[1, 0, 0, length], [1, 1, length - 1, 1]]
    assert (Order.SHARE, [1, 0]) in orders
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


@pytest.mark.parametrize("tied", [True, False])
async def test_shares_alone_need_less_memory_and_say_the_same(tmp_path: Path, tied: bool) -> None:
    """Saved in half the precision that they are wanted in, in several files."""
    torch.manual_seed(0)
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 6, "num_key_value_heads": 3}
    config = LlamaConfig(vocab_size=49152, num_hidden_layers=12, tie_word_embeddings=tied, **shape)
    model = LlamaForCausalLM(config).to(torch.float16)
    folder = saved(model, tmp_path)
    layers = sum(each.numel() for each in model.model.layers.parameters()) * 4
    answers, peaks = [], []
    for workers, shares_alone in ((1, True), (2, False), (2, True)):
        engine = await asyncio.to_thread(loaded, workers, folder, use_meta_tensor=shares_alone)
        answers.append(await answer(engine))
        peaks += [most_memory(other.pid) for other in multiprocessing.active_children()]
        await engine.close()
    assert answers[0] == answers[1] == answers[2]
    whole, share = peaks
    assert whole - share > 0.4 * layers


@pytest.mark.parametrize("shares_alone", [True, False])
def test_rotary_frequencies_stay_precise_whatever_the_weights_are(shares_alone: bool) -> None:
    source = Source(arguments(dtype="bfloat16", use_meta_tensor=shares_alone), fetch_safetensors())
    model = _share(source, 0, meeting_place("127.0.0.1"))
    _part()
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    size, theta = model.config.head_dim, model.config.rope_parameters["rope_theta"]
    expected = theta ** -(torch.arange(0, size, 2) / size)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected, rtol=1e-6, atol=0)


def test_a_family_that_deepspeed_does_not_know_names_the_engine(tmp_path: Path) -> None:
    small = GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=2)
    folder = saved(GPT2LMHeadModel(small), tmp_path)
    with pytest.raises(ConfigError, match=r"initializer\.type: DeepSpeed cannot share out the model: AutoTP not supp"):
        loaded(2, folder, use_meta_tensor=True)
