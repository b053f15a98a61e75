"""The batch against `generate()`: small random models of many kinds, their rows joining and leaving."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from runtime.engines.batching import BatchingEngine
from runtime.engines.contract import Batching, Limits, Sampling, ScoredToken
from runtime.engines.hf.rows import ModelRows, Part
from runtime.engines.hf.runner import HfRunner
from runtime.engines.scheduler import Request
from runtime.errors import EngineMemoryError
from tests.runtime.support import ByteTokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}
KINDS = {
    "llama": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2},
    "mistral": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 12},
    "gemma2": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 12},
    "phi": {**SIZES, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_neox": {**SIZES, "intermediate_size": 64},
    "falcon": {**SIZES, "alibi": True, "new_decoder_architecture": False},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 97, "max_seq_len": 2048},
}
"""Rotary, learned and ALiBi positions; windows, and layers that alternate between a window and everything."""


@pytest.fixture(scope="module", params=KINDS)
def model(request) -> PreTrainedModel:
    torch.manual_seed(1)
    config = CONFIG_MAPPING[request.param](**KINDS[request.param], pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # far from each other, so that rounding chooses no token
    return model


def alone(model: PreTrainedModel, prompt: list[int], length: int) -> list[int]:
    tokens = torch.tensor([prompt])
    done = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=length, eos_token_id=None
    )
    return done[0, len(prompt) :].tolist()


class Driver:
    """Steps a runner as the scheduler does."""

    def __init__(self, runner: HfRunner) -> None:
        self.runner = runner
        self.answers: dict[Request, list[int]] = {}
        self.scored: dict[Request, list[ScoredToken]] = {}
        self.running: list[Request] = []

    def admit(self, prompt: list[int], length: int, *, echo: bool = False, owner: str = "") -> Request:
        logprobs = 3 if echo else None
        sampling = Sampling(max_new_tokens=length, temperature=0, logprobs=logprobs, echo=echo, owner=owner)
        request = Request(prompt, sampling, None)
        self.answers[request], self.scored[request] = [], []
        self.running.append(request)
        request.position = self.runner.admit(request)
        request.pending = prompt[request.position :]
        return request

    def step(self, most: int) -> None:
        shares = {request: min(len(request.pending), most) for request in self.running}
        tokens = self.runner.step(shares)
        for request, share in shares.items():
            request.position += share
            request.pending = request.pending[share:]
            self.scored[request] += request.scored
            request.scored.clear()
        for request, token in tokens.items():
            self.answers[request].append(token)
            request.pending = [token]
            if len(self.answers[request]) == request.sampling.max_new_tokens:
                self.end(request)

    def end(self, request: Request) -> None:
        self.running.remove(request)
        self.runner.forget(request)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_come_and_go_say_what_they_say_alone(model: PreTrainedModel, seed: int) -> None:
    come_and_go(model, ModelRows(model, 4, 2048), seed)


def come_and_go(model: PreTrainedModel, rows: ModelRows, seed: int) -> None:
    random = Random(seed)
    driver = Driver(HfRunner(rows, 4, Limits(2048, 97), []))
    for _ in range(120):
        if len(driver.running) < 4 and random.random() < 0.5:
            prompt = [random.randrange(1, 97) for _ in range(random.randint(1, 40))]
            driver.admit(prompt, random.randint(1, 25))
        if driver.running and random.random() < 0.05:
            driver.end(random.choice(driver.running))
        driver.step(random.choice([1, 7, 100]))
    while driver.running:
        driver.step(100)
    assert len(driver.answers) > 10
    for request, answer in driver.answers.items():
        assert answer == alone(model, request.prompt, len(answer)) if answer else True


def test_prompts_that_begin_together_say_what_they_say_alone(model: PreTrainedModel) -> None:
    """Of many lengths, in parts and whole, some beside answers under way."""
    random = Random(7)
    driver = Driver(HfRunner(ModelRows(model, 6, 2048), 6, Limits(2048, 97), []))
    for lengths in ([3, 4, 5, 6], [1, 40, 17, 18, 35, 2], [9, 9]):
        for length in lengths[: 6 - len(driver.running)]:
            driver.admit([random.randrange(1, 97) for _ in range(length)], random.randint(4, 12))
        for _ in range(3):
            driver.step(16)
    while driver.running:
        driver.step(100)
    for request, answer in driver.answers.items():
        assert answer == alone(model, request.prompt, len(answer))


def test_prompts_that_begin_alike_say_what_they_say_alone(model: PreTrainedModel) -> None:
    """They share more or less of what is kept, which goes; some are read in parts, some not at all alike."""
    random = Random(5)
    driver = Driver(HfRunner(ModelRows(model, 5, 90), 5, Limits(90, 97), []))
    texts = [[random.randrange(1, 97) for _ in range(40)] for _ in range(3)]
    shared = 0
    for _ in range(150):
        if len(driver.running) < 5 and random.random() < 0.6:
            begin = random.choice(texts)[: random.randint(0, 40)]
            request = driver.admit([*begin, *(random.randrange(1, 97) for _ in range(random.randint(1, 9)))], 6)
            shared += request.position > 0
        driver.step(random.choice([1, 7, 100]))
    while driver.running:
        driver.step(100)
    assert shared > 20
    for request, answer in driver.answers.items():
        assert answer == alone(model, request.prompt, len(answer))


TEXT = list(range(1, 41))


@pytest.mark.parametrize(
    ("prompt", "more", "seen"),
    [
        (TEXT, {}, 39),  # the last one says what follows
        ([*TEXT, 5, 6], {}, 40),
        ([*TEXT[:20], 5, 6], {}, 20),
        (TEXT[:10], {}, 9),
        ([*TEXT[:7], 5, 6], {}, 0),  # not worth a copy
        (TEXT, {"owner": "other"}, 0),
        (TEXT, {"echo": True}, 0),
    ],
)
def test_what_a_prompt_shares_with_one_before_it_is_not_read_again(model, prompt, more, seen) -> None:
    driver = Driver(HfRunner(ModelRows(model, 2, 90), 2, Limits(90, 97), []))
    driver.admit(TEXT, 1)
    driver.step(100)
    request = driver.admit(list(prompt), 5, **more)
    assert request.position == seen
    while driver.running:
        driver.step(100)
    assert driver.answers[request] == alone(model, list(prompt), 5)


def test_conversations_side_by_side_find_themselves(model: PreTrainedModel) -> None:
    """Both fit, as long as what one has outgrown is not kept."""
    driver = Driver(HfRunner(ModelRows(model, 4, 90), 4, Limits(90, 97), []))
    found = {}
    for turn in range(1, 5):
        for first in (1, 2):
            request = driver.admit([first, *range(10 * turn)], 1)
            found[first, turn] = request.position
            driver.step(100)
    assert [found[first, turn] for turn in range(2, 5) for first in (1, 2)] == [11, 11, 21, 21, 31, 31]


def test_who_leaves_in_the_middle_of_a_shared_prompt_takes_nothing_along(model: PreTrainedModel) -> None:
    driver = Driver(HfRunner(ModelRows(model, 3, 90), 3, Limits(90, 97), []))
    driver.admit(TEXT, 1)
    driver.step(100)
    leaving, staying = (driver.admit([*TEXT, *range(first, first + 9)], 5) for first in (50, 60))
    driver.step(4)
    driver.end(leaving)
    later = driver.admit([*TEXT, 70], 5)
    assert later.position == 40
    while driver.running:
        driver.step(4)
    for request in (staying, later):
        assert driver.answers[request] == alone(model, request.prompt, 5)


def test_no_more_is_kept_than_fits_into_a_slot(model: PreTrainedModel) -> None:
    rows = ModelRows(model, 3, 90)
    driver = Driver(HfRunner(rows, 3, Limits(90, 97), []))

    def seen(first: int, length: int) -> int:
        position = driver.admit([first] * length, 1).position
        driver.step(100)
        return position

    assert [seen(first, 30) for first in (1, 2, 3)] == [0, 0, 0]
    assert seen(1, 20) == 19, "of use, and so the last to go"
    assert [cache.get_seq_length() for cache in rows._kept.values()] == [30, 30, 20]
    assert seen(2, 80) == 0
    assert list(driver.runner._kept) == list(rows._kept) == [4]
    driver.runner.resize(2)
    assert not driver.runner._kept and not rows._kept
    assert seen(2, 80) == 0


def test_echoed_prompts_are_scored_as_they_are_alone(model: PreTrainedModel, monkeypatch) -> None:
    """Together, in parts, beside prompts that are not echoed and answers under way; few at a time in memory."""
    monkeypatch.setattr("runtime.engines.hf.runner._SCORED_TOGETHER", 5)
    random = Random(11)
    driver = Driver(HfRunner(ModelRows(model, 8, 2048), 8, Limits(2048, 97), []))
    for most in (100, 7):
        for length in (1, 2, 9, 12, 30):
            driver.admit([random.randrange(1, 97) for _ in range(length)], random.randint(2, 6), echo=length != 12)
        while driver.running:
            driver.step(most)
    for request, answer in driver.answers.items():
        assert answer == alone(model, request.prompt, len(answer))
        found = driver.scored[request]
        assert found == (list(request.prompt[1:]) if request.sampling.echo else [])
        with torch.no_grad():
            logprobs = model(torch.tensor([request.prompt])).logits[0].log_softmax(-1)
        for token, expected in zip(found, logprobs, strict=False):
            assert token.logprob == pytest.approx(expected[token].item(), abs=1e-3)
            assert [value for _, value in token.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-3)


def test_columns_are_taken_back_and_grow(model: PreTrainedModel) -> None:
    take_back_and_grow(model, ModelRows(model, 2, 2048))


def take_back_and_grow(model: PreTrainedModel, rows: ModelRows) -> None:
    """One row outlives many others, beyond the first columns, and others after it."""
    driver = Driver(HfRunner(rows, 2, Limits(2048, 97), []))
    long = driver.admit([5, 6, 7], 330)
    for number in range(14):
        other = driver.admit([number + 1, 2, 3], 25)
        while other in driver.running:
            driver.step(100)
    last = driver.admit([9] * 20, 300)
    while driver.running:
        driver.step(100)
    for request in (long, last):
        answer = driver.answers[request]
        assert answer == alone(model, request.prompt, len(answer))


def test_there_are_never_more_columns_than_the_model_knows_positions() -> None:
    """MPT has a table of them. The second row begins late, and lives on when the first one has ended."""
    torch.manual_seed(1)
    config = CONFIG_MAPPING["mpt"](**{**KINDS["mpt"], "max_seq_len": 300}, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    driver = Driver(HfRunner(ModelRows(model, 2, 300), 2, Limits(300, 97), []))
    first = driver.admit([5, 6, 7], 280)
    for _ in range(150):
        driver.step(100)
    second = driver.admit([9, 8], 290)
    while driver.running:
        driver.step(100)
    for request in (first, second):
        answer = driver.answers[request]
        assert answer == alone(model, request.prompt, len(answer))


def test_a_compiled_model_says_the_same_and_is_compiled_once(model: PreTrainedModel) -> None:
    """Also with more columns than before. Tracing is what can go wrong: generating code takes seconds, llama does."""
    backend = "inductor" if model.config.model_type == "llama" else "aot_eager"
    for slots, scenario in ((4, partial(come_and_go, seed=1)), (2, take_back_and_grow)):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        scenario(model, ModelRows(model, slots, 2048, partial(torch.compile, backend=backend)))
        counters = torch._dynamo.utils.counters
        assert counters["stats"]["unique_graphs"] >= 1
        if model.config.model_type != "mpt":  # its own code asks for the length as a number: a part of it stays eager
            assert counters["stats"]["unique_graphs"] == 1
            assert not counters["graph_break"]


def test_a_model_that_does_not_heed_its_cache_is_found(model: PreTrainedModel) -> None:
    assert ModelRows(model, 2, 2048).heeds_its_cache()
    forgetful = ModelRows(model, 2, 2048)
    forgetful._step = lambda **arguments: model(input_ids=arguments["input_ids"])
    assert not forgetful.heeds_its_cache()


class ShortOfMemory(ModelRows):
    """There is none where `fails` says so."""

    def __init__(self, model: PreTrainedModel, slots: int, error: RuntimeError) -> None:
        super().__init__(model, slots, 2048)
        self.error, self.fails, self.fails_while_kept = error, "", ""
        self.failures = 0

    def read(self, parts: Mapping[int, Part], keep: int = 1) -> torch.Tensor:
        if self.fails == "read" and any(len(part.tokens) > 30 for part in parts.values()):
            raise self.error
        if self.fails_while_kept == "first layer" and self._kept:
            ((number, part),) = parts.items()
            layer = self._begun(number, part.begin).layers[0]
            layer.update(layer.keys[:, :, :1], layer.values[:, :, :1])
            self.failures += 1
            raise self.error
        return super().read(parts, keep)

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        if self.fails_while_kept == "decode" and self._kept:
            self.failures += 1
            self._cache.layers[0].grow(300, 2048)
            raise self.error
        if self.fails == "decode":
            self._cache.layers[0].grow(300, 2048)
            raise self.error
        return super().decode(tokens)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")],
    ids=["gpu", "cpu"],
)
async def test_without_memory_for_its_scores_a_prompt_ends_alone(model: PreTrainedModel, error, monkeypatch) -> None:
    def scored(_: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[int]:
        if list(tokens) == [9] * 7:
            raise error
        return [ScoredToken(token, -1.0, ()) for token in tokens]

    monkeypatch.setattr("runtime.engines.hf.runner.scored", scored)
    engine = BatchingEngine(
        HfRunner(ModelRows(model, 3, 2048), 3, Limits(2048, 97), []), ByteTokenizer(), Batching(3, 0.5)
    )

    async def ask(prompt: list[int]) -> list[int]:
        sampling = Sampling(2, temperature=0, logprobs=0, echo=True)
        return [token async for batch in engine.generate(prompt, sampling) for token in batch]

    short, other = await asyncio.gather(ask([9] * 8), ask([8] * 8), return_exceptions=True)
    assert isinstance(short, EngineMemoryError)
    assert other == [8] * 7 + alone(model, [8] * 8, 2)
    await engine.close()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")],
    ids=["gpu", "cpu"],
)
async def test_without_memory_requests_end_and_the_engine_goes_on(model: PreTrainedModel, error: RuntimeError) -> None:
    rows = ShortOfMemory(model, 3, error)
    engine = BatchingEngine(HfRunner(rows, 3, Limits(2048, 97), []), ByteTokenizer(), Batching(3))

    async def ask(prompt: list[int], length: int) -> list[int]:
        return [token async for batch in engine.generate(prompt, Sampling(length, temperature=0)) for token in batch]

    running = asyncio.create_task(ask([5, 6, 7], 60))
    rows.fails = "read"
    long, short = await asyncio.gather(ask([8] * 40, 5), ask([8] * 25, 5), return_exceptions=True)
    assert isinstance(long, EngineMemoryError)
    assert short == alone(model, [8] * 25, 5)
    assert await running == alone(model, [5, 6, 7], 60)  # it goes on beside the one that ended
    rows.fails = "decode"
    with pytest.raises(EngineMemoryError, match="out of memory"):
        await ask([5, 6, 7], 60)
    rows.fails = ""
    assert await asyncio.gather(ask([5, 6, 7], 300), ask([9], 3)) == [
        alone(model, [5, 6, 7], 300),
        alone(model, [9], 3),
    ]
    await engine.close()


@pytest.mark.parametrize("where", ["first layer", "decode"])
def test_what_is_kept_goes_before_anybody_fails(model: PreTrainedModel, where: str) -> None:
    """Also when the first layer has read a prompt already."""
    rows = ShortOfMemory(model, 2, torch.OutOfMemoryError("CUDA out of memory"))
    driver = Driver(HfRunner(rows, 2, Limits(90, 97), []))
    driver.admit(TEXT, 1)
    driver.step(100)
    rows.fails_while_kept = where
    request = driver.admit([*TEXT, 50, 5], 5)
    assert request.position == 40
    while driver.running:
        driver.step(100)
    assert rows.failures == 1
    assert driver.answers[request] == alone(model, request.prompt, 5)
