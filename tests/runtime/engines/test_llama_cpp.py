"""What is llama.cpp's own: files that are no GGUF, and settings that this build cannot honour."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from demo.model import fetch
from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, Sampling, load
from runtime.engines.llama_cpp import LlamaKwargs
from runtime.engines.llama_cpp.engine import _with_layers
from runtime.engines.llama_cpp.model import Context, GgufTokenizer, Model
from runtime.errors import ConfigError
from tests.runtime.support import arguments_for, first_token


def test_a_file_that_is_no_gguf_is_named(tmp_path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ConfigError, match=r"initializer.model_filename: llama.cpp cannot load model.gguf"):
        load(arguments_for({"type": "llamaCpp"}), tmp_path, Batching(1))


@pytest.mark.parametrize(
    ("asked", "gpus", "layers"),
    [(None, 0, 0), (None, 1, -1), (None, 0.5, -1), (0, 1, 0), (7, 1, 7), (7, 0, 7), (-1, 0, -1)],
)
def test_all_layers_go_on_a_gpu_where_the_worker_has_one(monkeypatch, asked, gpus: float, layers: int) -> None:
    """On a build for GPUs."""
    monkeypatch.setattr("llama_cpp.llama_supports_gpu_offload", lambda: True)
    assert _with_layers(*_asked(asked, gpus)).n_gpu_layers == layers


@pytest.mark.parametrize(
    ("asked", "gpus", "field"), [(-1, 0, "model_init_kwargs.n_gpu_layers"), (None, 1, "num_gpus_per_worker")]
)
def test_a_gpu_that_the_build_cannot_use_is_refused(monkeypatch, asked, gpus: float, field: str) -> None:
    monkeypatch.setattr("llama_cpp.llama_supports_gpu_offload", lambda: False)
    with pytest.raises(ConfigError, match=f"{field}: this node's llama-cpp-python was built without GPU support"):
        _with_layers(*_asked(asked, gpus))


def _asked(layers: int | None, gpus: float) -> tuple[LlamaKwargs, ModelArguments]:
    arguments = arguments_for({"type": "llamaCpp"})
    scaling = arguments.scaling_config.model_copy(update={"num_gpus_per_worker": gpus})
    return LlamaKwargs(n_gpu_layers=layers), arguments.model_copy(update={"scaling_config": scaling})


@pytest.mark.parametrize(("named", "expected"), [(["default", "tool_use"], ("A", "B")), (["default"], ("A", None))])
def test_templates_with_names(tmp_path, named: list[str], expected: tuple[str, str | None]) -> None:
    """Written as the tools that convert models write them."""
    templates = [{"name": name, "template": text} for name, text in zip(named, "AB", strict=False)]
    written = [str(fetch()), str(tmp_path / "model.gguf"), "--chat-template", json.dumps(templates)]
    subprocess.run([sys.executable, "-m", "gguf.scripts.gguf_new_metadata", *written], check=True, capture_output=True)
    model = Model(tmp_path / "model.gguf", LlamaKwargs())
    tokenizer = GgufTokenizer(model)
    assert (tokenizer.chat_template, tokenizer.tool_template) == expected
    model.close()


LOADING = """
from pathlib import Path
from runtime.engines.contract import Batching, load
from tests.runtime.support import arguments_for
load(arguments_for({"type": "llamaCpp"}), Path("is-nowhere"), Batching(1))
"""


@pytest.mark.parametrize("node, expected", [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77")])
def test_threads_that_wait_leave_the_cpus_to_others(node: dict[str, str], expected: str) -> None:
    """As the threads' library tells it when a replica loads it.

    vLLM's tests in this process leave an LD_PRELOAD behind, which would load that library before any code runs.
    """
    variables = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "LD_PRELOAD")}
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        env={**variables, **node, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
    )
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr


async def test_every_decode_has_consecutive_slots_in_ascending_order(monkeypatch) -> None:
    """Anything else costs another pass over the weights: answers move together when one between them ends."""
    decodes: list[list[int]] = []

    class Recorder(Context):
        def clear(self) -> None:
            decodes.append([])
            super().clear()

        def add(self, token: int, position: int, slot: int, *, logits: bool) -> int:
            if slot not in decodes[-1][-1:]:
                decodes[-1].append(slot)
            return super().add(token, position, slot, logits=logits)

    monkeypatch.setattr("runtime.engines.llama_cpp.engine.Context", Recorder)
    initializer = {"type": "llamaCpp", "model_init_kwargs": {"n_ctx": 256, "n_batch": 32}}
    engine = load(arguments_for(initializer), fetch().parent, Batching(4))

    async def answer(length: int) -> list[int]:
        sampling = Sampling(max_new_tokens=length, min_new_tokens=length, temperature=0)
        prompt = engine.tokenizer.encode(f"{'Fact: water is wet. ' * (length % 5)}The number after {length} is")
        return [token async for batch in engine.generate(prompt, sampling) for token in batch]

    lengths = [2, 30, 9, 21, 3, 13, 26]
    together = await asyncio.gather(*map(answer, lengths))
    assert max(map(len, decodes)) == 4
    assert all(slots == list(range(slots[0], slots[0] + len(slots))) for slots in decodes)
    assert together == [await answer(length) for length in lengths]
    await engine.close()


async def test_what_a_prompt_shares_with_an_earlier_one_is_not_computed_again(monkeypatch) -> None:
    """A conversation finds its own tokens, whoever spoke in between; the answers are those without them."""
    added: list[int] = []

    class Recorder(Context):
        def add(self, token: int, position: int, slot: int, *, logits: bool) -> int:
            added.append(token)
            return super().add(token, position, slot, logits=logits)

    monkeypatch.setattr("runtime.engines.llama_cpp.engine.Context", Recorder)
    options = {"type": "llamaCpp", "model_init_kwargs": {"n_ctx": 512, "n_batch": 64}}

    async def answer(engine: Engine, text: str, owner: str = "") -> tuple[list[int], int]:
        """The answer's tokens, and how many tokens of the prompt were computed."""
        added.clear()
        sampling = Sampling(max_new_tokens=8, temperature=0, owner=owner)
        stream = engine.generate(engine.tokenizer.encode(text), sampling)
        tokens = [token async for batch in stream for token in batch]
        return tokens, len(added) - len(tokens) + 1

    mine, other = "Fact: water is wet. " * 10, "The sun is a star. " * 10
    engine = load(arguments_for(options), fetch().parent, Batching(2))
    first, computed = await answer(engine, mine)
    assert computed == len(engine.tokenizer.encode(mine))
    await answer(engine, other)
    longer = mine + b"".join(map(engine.tokenizer.piece, first)).decode() + " And then?"
    warm, computed = await answer(engine, longer)
    assert computed < 8
    again, computed = await answer(engine, longer)
    assert computed == 1
    _, computed = await answer(engine, "Something else")  # takes the slot that was left for the longest time
    assert computed == len(engine.tokenizer.encode("Something else"))
    _, computed = await answer(engine, longer)
    assert computed == 1
    whole = len(engine.tokenizer.encode(longer))
    begin = "Be kind. Be brief."
    for text in (mine, other):
        await answer(engine, begin + text)
    _, computed = await answer(engine, begin + longer[::-1])  # no slot is mostly this, but all begin with it
    saved = len(engine.tokenizer.encode(begin + longer[::-1])) - computed
    assert saved >= len(engine.tokenizer.encode(begin)) - 1
    _, computed = await answer(engine, longer)
    assert computed == whole, "it begins like neither of those that are left"
    for owner, computed in (("a", whole), ("a", 1), ("b", whole), ("b", 1), ("a", 1)):
        assert await answer(engine, longer, owner) == (warm, computed), "what others have asked cannot be timed"
    added.clear()
    scored = Sampling(max_new_tokens=1, temperature=0, logprobs=0, echo=True)  # needs each token's own row
    prompt = engine.tokenizer.encode(longer)
    assert [token async for batch in engine.generate(prompt, scored) for token in batch][:-1] == prompt[1:]
    assert added == prompt
    await engine.close()
    engine = load(arguments_for(options), fetch().parent, Batching(2))
    assert warm == again == (await answer(engine, longer))[0]
    await engine.close()


async def test_every_resize_is_answered() -> None:
    initializer = {"type": "llamaCpp", "model_init_kwargs": {"n_ctx": 1024}}
    engine = load(arguments_for(initializer), fetch().parent, Batching(2))
    answers = engine.generate(engine.tokenizer.encode("Once upon"), Sampling(max_new_tokens=900, min_new_tokens=900))
    await first_token(answers)
    resizes = [asyncio.ensure_future(engine.configure(Batching(slots))) for slots in (3, 1)]
    await first_token(answers)
    await answers.aclose()
    await asyncio.wait_for(asyncio.gather(*resizes), 10)
    await engine.close()
