"""What every engine that can run must do, with a real model. A new engine needs one line in `ENGINES`."""

import asyncio
import ctypes
import gc
import json
import math
import pickle
from collections.abc import AsyncIterator, Callable, Sized
from contextlib import aclosing, suppress
from dataclasses import replace
from random import Random

import jsonschema
import llama_cpp
import psutil
import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from demo.model import fetch_safetensors
from runtime.api.formats import schema_text
from runtime.engines import ENGINES
from runtime.engines.contract import Batching, Constraint, EndToken, Engine, Sampling, ScoredToken, load
from runtime.errors import EngineDeadError, GrammarError
from runtime.warmup import warm_up
from tests.conftest import at_size
from tests.runtime.support import arguments_for, first_token

INITIALIZERS = {
    "SingleDevice": {"dtype": "float32"},
    "DeviceMap": {"dtype": "float32"},
    "DeepSpeed": {"dtype": "float32"},
    "llamaCpp": {"model_init_kwargs": {"n_ctx": 1024, "n_batch": 64}},
    "vLLM": {
        "engine_kwargs": {
            "dtype": "float32",
            "enforce_eager": True,
            "gpu_memory_utilization": 0.4,
            "kv_cache_memory_bytes": 1 << 28,
            "max_model_len": 1024,
        }
    },
}
STAGES = {**INITIALIZERS["vLLM"]["engine_kwargs"], "enforce_eager": False, "pipeline_parallel_size": 2}
SEVERAL = {"DeepSpeed x 2": INITIALIZERS["DeepSpeed"], "vLLM x 2": {"engine_kwargs": STAGES}}
"""With two workers. The model's nine heads do not go over two by vLLM's tensors, so its layers do."""
CASES = [*INITIALIZERS, *SEVERAL]
GPUS = torch.cuda.device_count()
"""Where there are any, the engines whose libraries can do it compute on them."""
SLOTS = 4
pytestmark = pytest.mark.asyncio(loop_scope="module")
FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
GREEDY = Sampling(max_new_tokens=16, temperature=0)
PARIS = "The capital of France is Paris."
REPETITIVE = "a b a b a b a b a b a b a b a b"
PENALTIES = Sampling(
    max_new_tokens=6,
    min_new_tokens=6,
    temperature=0,
    repetition_penalty=1.05,
    presence_penalty=0.5,
    frequency_penalty=0.3,
    logit_bias=((198, -4.0),),
)
LOGPROB_ERROR = {"llamaCpp": 0.05}
"""How far log-probabilities may be from float32's: llama.cpp computes in half precision."""


async def test_every_engine_that_can_run_is_tested() -> None:
    assert {engine.name for engine in ENGINES} == set(INITIALIZERS)


def loaded(case: str) -> Engine:
    name, workers = case.split(" x ") if case in SEVERAL else (case, 1)
    arguments = arguments_for({"type": name, **{**INITIALIZERS, **SEVERAL}[case]})
    can_use_gpus = name != "llamaCpp" or llama_cpp.llama_supports_gpu_offload()
    scaling = {"num_workers": int(workers), "num_gpus_per_worker": min(1, GPUS) if can_use_gpus else 0}
    placed = arguments.scaling_config.model_copy(update=scaling)
    return load(arguments.model_copy(update={"scaling_config": placed}), fetch_safetensors(), Batching(SLOTS))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CASES)
async def shared_engine(request) -> AsyncIterator[Engine]:
    """Loaded once for all tests; what one of them leaves behind, the next one stumbles over."""
    if request.param in SEVERAL and GPUS == 1:
        pytest.skip("this machine has one GPU, and each worker wants one of its own")
    engine = await asyncio.to_thread(loaded, request.param)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def engine(shared_engine: Engine) -> AsyncIterator[Engine]:
    yield shared_engine
    await shared_engine.configure(Batching(SLOTS))


async def tokens_of(engine: Engine, prompt: str, sampling: Sampling) -> list[int]:
    async with aclosing(engine.generate(engine.tokenizer.encode(prompt), sampling)) as batches:
        return [token async for batch in batches for token in batch]


async def text_of(engine: Engine, prompt: str, sampling: Sampling = GREEDY) -> str:
    return b"".join(map(engine.tokenizer.piece, await tokens_of(engine, prompt, sampling))).decode()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """Transformers' own, to compare with."""
    return AutoModelForCausalLM.from_pretrained(fetch_safetensors(), dtype=torch.float32)


@pytest.fixture(scope="module")
def encode() -> Callable[[str], list[int]]:
    return AutoTokenizer.from_pretrained(fetch_safetensors()).encode


def raw(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Logits of what follows each token, [tokens, vocabulary]."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


@pytest.fixture(scope="module")
def logprobs(model: PreTrainedModel, encode: Callable[[str], list[int]]) -> torch.Tensor:
    """Of every token at each place of the France answer: [tokens, vocabulary]."""
    prompt = encode(FRANCE)
    return raw(model, prompt + encode(PARIS))[len(prompt) - 1 : -1].log_softmax(-1)


@pytest.fixture(scope="module")
def penalised(model: PreTrainedModel, encode: Callable[[str], list[int]]) -> list[int]:
    """The greedy answer to REPETITIVE under PENALTIES, by their definitions."""
    prompt, answer = encode(REPETITIVE), []
    while len(answer) < PENALTIES.max_new_tokens:
        logits = raw(model, prompt + answer)[-1]
        for token, bias in PENALTIES.logit_bias:
            logits[token] += bias
        for token in {*prompt, *answer}:
            logits[token] *= 1 / PENALTIES.repetition_penalty if logits[token] > 0 else PENALTIES.repetition_penalty
        for token in set(answer):
            logits[token] -= PENALTIES.presence_penalty + PENALTIES.frequency_penalty * answer.count(token)
        answer.append(int(logits.argmax()))
    return answer


@pytest.fixture
def error(request) -> float:
    return LOGPROB_ERROR.get(request.node.callspec.params["shared_engine"], 0.02)


async def scored(engine: Engine, sampling: Sampling) -> list[ScoredToken]:
    tokens = await tokens_of(engine, FRANCE, sampling)
    assert all(isinstance(token, ScoredToken) for token in tokens)
    return tokens


async def test_it_answers_and_ends_at_the_end_token(engine: Engine) -> None:
    assert await text_of(engine, FRANCE) == PARIS


async def test_lengths_are_kept(engine: Engine) -> None:
    assert len(await tokens_of(engine, FRANCE, Sampling(max_new_tokens=3, temperature=0))) == 3
    held = Sampling(max_new_tokens=20, min_new_tokens=20, temperature=0)
    assert len(await tokens_of(engine, FRANCE, held)) == 20  # the end token would have come after 7


async def test_an_answer_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    """More requests than slots, of many lengths: each greedy answer is the one that it gets alone."""
    prompts = [f"{'Fact: water is wet. ' * n}The number after {n} is" for n in range(10)]
    alone = [await text_of(engine, prompt) for prompt in prompts]
    assert await asyncio.gather(*(text_of(engine, prompt) for prompt in prompts)) == alone


QUESTIONS = (
    "Why is the sky blue?",
    "Name three colours.",
    "What is 12 times 12?",
    "Translate to French: good morning.",
)
AGREED = {"llamaCpp": 0.9}
"""Which part of the answers' tokens is as in float32 before the first that is not; else all."""


@pytest.fixture(scope="module")
def answers() -> list[list[int]]:
    """What transformers' own `generate` says to the questions, greedily, in float32."""
    folder = fetch_safetensors()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for question in QUESTIONS:
        prompt = tokenizer(chat(question), return_tensors="pt", add_special_tokens=False)
        done = model.generate(**prompt, do_sample=False, max_new_tokens=32)[0, prompt["input_ids"].shape[1] :]
        found.append([token for token in done.tolist() if token != model.generation_config.eos_token_id])
    return found


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


async def test_greedy_answers_are_those_of_every_other_engine(
    engine: Engine, answers: list[list[int]], request
) -> None:
    greedy = Sampling(max_new_tokens=32, temperature=0)
    found = await asyncio.gather(*(tokens_of(engine, chat(question), greedy) for question in QUESTIONS))
    agreed = sum(
        next((at for at, (one, other) in enumerate(zip(mine, theirs, strict=False)) if one != other), len(theirs))
        for mine, theirs in zip(found, answers, strict=True)
    )
    assert agreed / sum(map(len, answers)) >= AGREED.get(request.node.callspec.params["shared_engine"], 1)


async def test_64_requests_at_once_keep_to_themselves(engine: Engine) -> None:
    codes = [str(1000 + 137 * number % 9000) for number in range(64)]
    prompts = [f"The code is {code}. Again, the code is {code}. Once more, the code is" for code in codes]
    short = Sampling(max_new_tokens=6, temperature=0)
    said = await asyncio.gather(*(text_of(engine, prompt, short) for prompt in prompts))
    assert sum(code in text for code, text in zip(codes, said, strict=True)) > 56  # so small a model miscopies a few
    for code, text in zip(codes, said, strict=True):
        assert not any(other in text for other in codes if other != code)


async def test_a_full_queue_is_healthy(engine: Engine) -> None:
    endless = Sampling(max_new_tokens=900, min_new_tokens=900)
    streams = [engine.generate(engine.tokenizer.encode("Once"), endless) for _ in range(SLOTS)]
    await asyncio.gather(*(first_token(stream) for stream in streams))
    waiting = [asyncio.ensure_future(tokens_of(engine, "Once", endless)) for _ in range(2 * SLOTS)]
    await asyncio.sleep(0)  # they ask
    await asyncio.wait_for(engine.check_health(), 10)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, *(stream.aclose() for stream in streams), return_exceptions=True)


async def test_requests_keep_their_own_sampling(engine: Engine) -> None:
    hot = Sampling(max_new_tokens=16, temperature=2.0, seed=1)
    greedy, wild, again = await asyncio.gather(
        text_of(engine, FRANCE), tokens_of(engine, FRANCE, hot), tokens_of(engine, FRANCE, hot)
    )
    assert greedy == PARIS
    assert wild == again != await tokens_of(engine, FRANCE, GREEDY)


@pytest.mark.parametrize(
    "cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 0.01}], ids=lambda cut: next(iter(cut))
)
async def test_each_cut_alone_makes_sampling_greedy(engine: Engine, cut: dict) -> None:
    sampling = Sampling(**{"max_new_tokens": 16, "temperature": 2.0, "seed": 3} | cut)
    assert await text_of(engine, FRANCE, sampling) == PARIS


async def test_penalties_change_a_repetitive_answer(engine: Engine) -> None:
    plain = await tokens_of(engine, REPETITIVE, GREEDY)
    for penalty in ({"repetition_penalty": 1.8}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
        changed = await tokens_of(engine, REPETITIVE, Sampling(max_new_tokens=16, temperature=0, **penalty))
        assert len(set(changed)) > len(set(plain)), penalty


async def test_penalties_are_what_they_are_everywhere(engine: Engine, penalised: list[int]) -> None:
    assert await tokens_of(engine, REPETITIVE, PENALTIES) == penalised


async def test_logprobs_are_the_models(engine: Engine, logprobs: torch.Tensor, error: float) -> None:
    tokens = await scored(engine, Sampling(max_new_tokens=16, temperature=0, logprobs=5))
    assert b"".join(map(engine.tokenizer.piece, tokens)).decode() == PARIS
    for token, expected in zip(tokens, logprobs, strict=True):
        ids, values = zip(*token.top, strict=True)
        assert token.logprob == pytest.approx(expected[token].item(), abs=error)
        assert list(values) == pytest.approx(expected.topk(5).values.tolist(), abs=error)
        assert list(values) == pytest.approx(expected[list(ids)].tolist(), abs=error)
        assert list(values) == sorted(values, reverse=True) and len(set(ids)) == 5
        assert token.top[0] == (token, token.logprob)
        assert sum(map(math.exp, values)) <= 1.001
        assert (again := pickle.loads(pickle.dumps(token))) == token and again.top == token.top


async def test_logprobs_do_not_depend_on_how_tokens_are_chosen(engine: Engine, logprobs: torch.Tensor, error) -> None:
    """Nor on neighbours that want others, or none."""
    unlikely = int(logprobs[0].argmin())
    ways = [
        {"temperature": 2.0, "seed": 1, "top_k": 3},
        {"temperature": 0.1, "repetition_penalty": 1.8, "frequency_penalty": 2.0, "presence_penalty": -2.0},
        {"temperature": 0, "min_new_tokens": 2, "top_p": 0.1},
        {"temperature": 0, "logit_bias": ((unlikely, 100.0),), "logprobs": 2},
    ]
    asked = [Sampling(**{"max_new_tokens": 2, "logprobs": 20} | way) for way in ways]
    *found, plain = await asyncio.gather(*(scored(engine, each) for each in asked), tokens_of(engine, FRANCE, GREEDY))
    assert not any(isinstance(token, ScoredToken) for token in plain)
    for (first, *_), each in zip(found, asked, strict=True):
        assert [value for _, value in first.top] == pytest.approx(
            logprobs[0].topk(each.logprobs).values.tolist(), abs=error
        )
        assert first.logprob == pytest.approx(logprobs[0, first].item(), abs=3 * error)
    assert found[-1][0] == unlikely


async def test_logprobs_of_the_chosen_token_alone(engine: Engine, logprobs: torch.Tensor, error: float) -> None:
    (token,) = await scored(engine, Sampling(max_new_tokens=1, temperature=0, logprobs=0))
    assert token.top == () and token.logprob == pytest.approx(logprobs[0].max().item(), abs=error)


PROSE = """A lighthouse keeper wrote down what he saw every evening: how many ships went by, which way the wind blew,
and whether the gulls sat on the rocks or on the water. He did so for thirty years, and nobody had asked him to. When
the lamp was changed for one that lights itself, the harbour office sent for his books, because the old charts of the
bay had been lost in a fire. From his notes two young women drew the sandbanks again, one winter after the other, and
found that the largest of them had moved by half a mile. Sailors had always said so. Since then the office pays for
notebooks, pencils and a warm room, and whoever likes to may sit there and count the ships. Most of those who come are
children on their way home from school. They write that the wind is strong today, that a dog swam out to a boat, and
that there was soup. The women keep all of it, since nobody can say which line somebody will need in a hundred years."""


async def echoed(engine: Engine, prompt: list[int], longest: int, top: int = 3) -> list[ScoredToken]:
    sampling = Sampling(longest, temperature=0, logprobs=top, echo=True)
    async with aclosing(engine.generate(prompt, sampling)) as batches:
        found = [token async for batch in batches for token in batch]
    assert all(isinstance(token, ScoredToken) for token in found)
    return found


async def test_an_echo_has_the_log_probabilities_of_the_prompt(
    engine: Engine, model: PreTrainedModel, error: float
) -> None:
    """Of many lengths, beside each other and an answer; a prompt that has been read before is read again."""
    texts = [
        FRANCE,
        "Water",
        f"{FRANCE}{PARIS}<|im_end|>\n",
        PROSE,
    ]
    prompts = [engine.tokenizer.encode(text) for text in (*texts, texts[-1])]
    neighbour = asyncio.ensure_future(tokens_of(engine, FRANCE, Sampling(64, min_new_tokens=64, temperature=0)))
    found = await asyncio.gather(*(echoed(engine, prompt, 1) for prompt in prompts))
    assert len(await neighbour) == 64
    for prompt, tokens in zip(prompts, found, strict=True):
        assert tokens[: len(prompt) - 1] == prompt[1:] and len(tokens) == len(prompt)
        for token, expected in zip(tokens, raw(model, prompt).log_softmax(-1), strict=True):
            unlikely = expected[token] < -10  # half precision has few digits left there
            assert token.logprob == pytest.approx(expected[token].item(), abs=3 * error if unlikely else error)
            values = [value for _, value in token.top]
            assert values == pytest.approx(expected.topk(3).values.tolist(), abs=error)


async def test_an_echo_tells_of_the_end_token_too(engine: Engine) -> None:
    """So an answer that may have a token always has one; without any, the prompt is all."""
    prompt, answer = engine.tokenizer.encode(FRANCE), engine.tokenizer.encode(PARIS)
    assert await echoed(engine, prompt, 0) == prompt[1:]
    assert await echoed(engine, [*prompt, *answer[:-1]], 1) == [*prompt[1:], *answer]
    *told, last = await echoed(engine, [*prompt, *answer], 9, top=0)
    assert told == [*prompt[1:], *answer] and isinstance(last, EndToken) and last.top == ()
    assert engine.tokenizer.label(last) == b"<|im_end|>"
    (first,) = await echoed(engine, prompt[:1], 1)
    assert isinstance(first, ScoredToken)


async def test_a_prompt_is_read_for_no_answer(engine: Engine) -> None:
    assert await tokens_of(engine, FRANCE, Sampling(0, temperature=0)) == []


async def test_an_echo_that_is_closed_frees_its_slot(engine: Engine) -> None:
    prompt = engine.tokenizer.encode("word " * 900)
    echoes = [asyncio.ensure_future(echoed(engine, prompt, 100)) for _ in range(2 * SLOTS)]
    await asyncio.sleep(0.1)
    for each in echoes:
        each.cancel()
    await asyncio.gather(*echoes, return_exceptions=True)
    assert await asyncio.wait_for(text_of(engine, FRANCE), 60) == PARIS


async def test_biases_forbid_and_enforce_tokens(engine: Engine) -> None:
    best, *_ = await tokens_of(engine, FRANCE, GREEDY)
    (without,) = await tokens_of(engine, FRANCE, Sampling(1, temperature=0, logit_bias=((best, -100.0),)))
    assert without != best
    hot = Sampling(6, temperature=1.0, logit_bias=((without, 100.0), (best, -100.0)))
    assert await tokens_of(engine, FRANCE, hot) == [without] * 6


def schema(**properties: dict) -> Constraint:
    content = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return Constraint("json_schema", schema_text(content, "schema"))


CITY = schema(
    city={"enum": ["Paris", "Rome", "Oslo"]},
    people={"type": "integer", "minimum": 0, "maximum": 10_000_000},
    sights={"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 1, "maxItems": 3},
)
KINDS = (
    CITY,
    schema(answer={"const": 42}),
    schema(colours={"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 4}),
    schema(inner={"type": "array", "items": {"type": "object", "additionalProperties": False}, "maxItems": 2}),
    schema(day={"type": "string", "format": "date"}),
    schema(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    schema(either={"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 9}]}),
    schema(share={"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}),
)
WHOLE = Sampling(max_new_tokens=200, temperature=0, constraint=CITY)


async def object_of(engine: Engine, sampling: Sampling, prompt: str = FRANCE) -> dict:
    """The answer, which matches the schema."""
    text = await text_of(engine, prompt, sampling)
    found, wanted = json.loads(text), json.loads(sampling.constraint.text)
    jsonschema.validate(found, wanted, format_checker=jsonschema.FormatChecker())
    return found


async def test_a_constrained_answer_matches_its_schema(engine: Engine) -> None:
    greedy = await object_of(engine, WHOLE)
    assert greedy["city"] == "Paris"
    for seed in range(3):
        hot = replace(WHOLE, temperature=1.0, seed=seed, top_p=0.9, min_p=0.01)
        assert await object_of(engine, hot) == await object_of(engine, hot)


async def test_penalties_and_biases_do_not_break_a_schema(engine: Engine) -> None:
    (wild,) = {token for token in engine.tokenizer.encode("!") if engine.tokenizer.piece(token) == b"!"}
    pushed = {
        "repetition_penalty": 1.5,
        "frequency_penalty": 2.0,
        "presence_penalty": 2.0,
        "logit_bias": ((wild, 100.0),),
    }
    await object_of(engine, replace(WHOLE, temperature=2.0, seed=1, constraint=KINDS[5], **pushed))


async def test_each_of_many_answers_matches_its_own_schema(engine: Engine) -> None:
    """And those without any are what they are alone."""
    asked = [replace(WHOLE, constraint=kind) for kind in KINDS]
    plain, free, *together = await asyncio.gather(
        text_of(engine, FRANCE),
        tokens_of(engine, "Once upon a time", GREEDY),
        *(object_of(engine, one) for one in asked),
    )
    assert plain == PARIS and free == await tokens_of(engine, "Once upon a time", GREEDY)
    assert together == [await object_of(engine, one) for one in asked]


async def test_a_constrained_answer_may_be_cut(engine: Engine) -> None:
    cut = await tokens_of(engine, FRANCE, replace(WHOLE, max_new_tokens=5))
    assert len(cut) == 5 and cut == (await tokens_of(engine, FRANCE, WHOLE))[:5]


async def test_an_answer_ends_where_its_grammar_does(engine: Engine) -> None:
    only = Constraint("lark", 'start: "Yes" | "No, never"')
    assert await text_of(engine, FRANCE, replace(WHOLE, constraint=only)) in ("Yes", "No, never")
    longer = Constraint("lark", "start: /The capital of France is Paris.*/")  # the model's own end
    assert await text_of(engine, FRANCE, replace(WHOLE, constraint=longer)) == PARIS


async def test_logprobs_of_a_constrained_answer_are_the_models(
    engine: Engine, logprobs: torch.Tensor, error: float, request
) -> None:
    only = Constraint("lark", 'start: " Paris"')
    (first, *_) = await scored(engine, Sampling(8, temperature=0, logprobs=3, constraint=only))
    if request.node.callspec.params["shared_engine"].startswith("vLLM"):  # which counts only what may come
        assert sum(math.exp(value) for _, value in first.top) == pytest.approx(1, abs=0.05)
        return
    assert [value for _, value in first.top] == pytest.approx(logprobs[0].topk(3).values.tolist(), abs=error)
    assert first.logprob == pytest.approx(logprobs[0, first].item(), abs=3 * error)


async def test_a_constraint_that_cannot_be_kept_is_an_error_of_its_own(engine: Engine) -> None:
    others = asyncio.create_task(object_of(engine, WHOLE))
    for bad in (
        Constraint("json_schema", '{"not": {}}'),
        Constraint("json_schema", "{"),
        Constraint("lark", "start: x"),
    ):
        with pytest.raises(GrammarError):
            await engine.check(bad)
        with pytest.raises(GrammarError):
            await tokens_of(engine, FRANCE, replace(WHOLE, constraint=bad))
    endless = Constraint("json_schema", '{"type": "string", "pattern": "^x(.{1,1000}){1,1000}$"}')
    await engine.check(endless)
    with pytest.raises(GrammarError):
        await tokens_of(engine, FRANCE, replace(WHOLE, constraint=endless))
    assert await others


async def test_a_seed_gives_the_same_answer_alone_and_in_a_batch(engine: Engine) -> None:
    asked = [Sampling(max_new_tokens=12, min_new_tokens=12, temperature=1.0, seed=seed) for seed in (0, 7, 2**32 - 1)]
    alone = [await tokens_of(engine, FRANCE, each) for each in asked]
    others = [tokens_of(engine, f"Number {n} is", Sampling(max_new_tokens=9, temperature=1.5)) for n in range(3)]
    together = await asyncio.gather(*(tokens_of(engine, FRANCE, each) for each in asked), *others)
    assert together[: len(asked)] == alone
    assert alone[0] != alone[1]


async def test_top_k_of_nothing_is_off(engine: Engine) -> None:
    hot = Sampling(max_new_tokens=16, temperature=2.0, seed=1, top_k=0)
    assert await text_of(engine, FRANCE, replace(hot, top_k=1)) == PARIS
    assert await text_of(engine, FRANCE, hot) != PARIS


async def test_closing_an_answer_frees_its_slot(engine: Engine) -> None:
    endless = Sampling(max_new_tokens=900, min_new_tokens=900)
    streams = [engine.generate(engine.tokenizer.encode("Once"), endless) for _ in range(SLOTS)]
    await asyncio.gather(*(first_token(stream) for stream in streams))
    waiting = asyncio.create_task(text_of(engine, FRANCE))
    for _ in range(20):  # steps in which it would have been answered
        await first_token(streams[0])
    assert not waiting.done()
    await streams[0].aclose()
    assert await asyncio.wait_for(waiting, 30) == PARIS
    await asyncio.gather(*(stream.aclose() for stream in streams[1:]))


async def test_streams_that_are_cut_anywhere_leave_nothing(engine: Engine) -> None:
    """Before a token, after some, while they wait for a slot: then every slot is free, and nothing is kept of them."""
    random, endless = Random(7), Sampling(max_new_tokens=900, min_new_tokens=900)
    prompt = engine.tokenizer.encode("Once upon a time")

    async def cut() -> None:
        stream = engine.generate(prompt, endless)
        reading = asyncio.ensure_future(anext(stream))
        for _ in range(random.randrange(3)):
            await asyncio.wait({reading}, timeout=random.choice((0, 0.01, 0.1)))
            if reading.done():
                reading = asyncio.ensure_future(anext(stream))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await stream.aclose()

    streams = at_size(20, 100)
    for _ in range(streams // 10):
        await asyncio.gather(*(cut() for _ in range(10)))
    whole = [asyncio.ensure_future(text_of(engine, FRANCE)) for _ in range(SLOTS)]
    assert set(await asyncio.wait_for(asyncio.gather(*whole), 60)) == {PARIS}
    async with asyncio.timeout(10):
        while any(tables_of(engine)):
            await asyncio.sleep(0.01)


def tables_of(engine: Engine) -> list[Sized]:
    """What an engine keeps of answers under way, where it does so in this process."""
    if hasattr(engine, "_scheduler"):
        scheduler = engine._scheduler
        return [scheduler.running, scheduler.waiting, scheduler.runner._sequences]
    return [engine._running]


async def test_an_answer_says_when_it_has_a_slot_and_the_cache_how_full_it_is(engine: Engine) -> None:
    endless = Sampling(max_new_tokens=900, min_new_tokens=900)
    streams = [engine.generate(engine.tokenizer.encode("Once"), endless) for _ in range(SLOTS)]
    late = engine.generate(engine.tokenizer.encode("Once"), Sampling(0))  # no token can overtake what it waits for
    assert await engine.cache_use() == 0
    await asyncio.gather(*(first_token(stream) for stream in streams))
    used = await engine.cache_use()
    assert used is not None and 0 < used < 1
    waiting = asyncio.ensure_future(anext(late))
    for _ in range(4):  # steps in which it would have been given a slot
        await first_token(streams[0])
    assert not waiting.done()
    await streams[0].aclose()
    assert await asyncio.wait_for(waiting, 30) == []
    await late.aclose()
    await asyncio.gather(*(stream.aclose() for stream in streams[1:]))


async def test_slots_change_while_answers_run(engine: Engine) -> None:
    running = asyncio.create_task(text_of(engine, FRANCE))
    await asyncio.sleep(0)
    await engine.configure(Batching(2))
    late = [asyncio.create_task(text_of(engine, FRANCE)) for _ in range(3)]
    assert {await each for each in (running, *late)} == {PARIS}


@pytest.mark.parametrize("seed", range(2))
async def test_arrivals_departures_and_resizes_in_any_order(engine: Engine, seed: int) -> None:
    """Whoever stays gets the answer that it gets alone, and no slot is lost."""
    random = Random(seed)
    sampling = [Sampling(max_new_tokens=random.randint(1, 30), temperature=0) for _ in range(9)]
    prompts = [f"{'Fact: water is wet. ' * random.randint(0, 15)}Number {n} is" for n in range(len(sampling))]

    async def ask(number: int) -> list[int] | None:
        await asyncio.sleep(random.uniform(0, 2))
        asking = asyncio.ensure_future(tokens_of(engine, prompts[number], sampling[number]))
        if number % 3:
            return await asking
        await asyncio.sleep(random.uniform(0, 0.3))
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        return None

    async def resize() -> None:
        for _ in range(3):
            await asyncio.sleep(random.uniform(0, 1))
            await engine.configure(Batching(random.randint(1, SLOTS + 1)))

    *together, _ = await asyncio.wait_for(asyncio.gather(*map(ask, range(len(prompts))), resize()), 300)
    for number, answer in enumerate(together):
        if answer is not None:
            assert answer == await tokens_of(engine, prompts[number], sampling[number])


async def test_it_answers_after_a_warm_up_that_was_given_up(engine: Engine) -> None:
    await warm_up(engine, SLOTS, limit_s=0.3)
    assert await text_of(engine, FRANCE) == PARIS


async def test_tokenizer_round_trip_and_special_tokens(engine: Engine) -> None:
    text = "Größe 😀 日本語 e\u0301"
    assert b"".join(map(engine.tokenizer.piece, engine.tokenizer.encode(text))).decode() == text
    assert engine.tokenizer.decode(engine.tokenizer.encode(f"{text}<|im_end|>")) == f"{text}<|im_end|>"
    assert engine.tokenizer.encode(text, start=False) == engine.tokenizer.encode(
        text
    )  # this model wants no start token
    assert engine.tokenizer.decode([]) == ""
    assert len(engine.tokenizer.encode("<|im_end|>")) == 1
    assert engine.tokenizer.chat_template and "im_start" in engine.tokenizer.chat_template


async def test_health_and_close(shared_engine: Engine) -> None:
    """Last: nothing can follow it."""
    engine, used = shared_engine, memory()
    await engine.check_health()
    endless = engine.generate(engine.tokenizer.encode("Once"), Sampling(max_new_tokens=900, min_new_tokens=900))
    await first_token(endless)
    await engine.close()
    with pytest.raises(EngineDeadError):
        async for _ in endless:
            pass
    with pytest.raises(EngineDeadError):
        await engine.check_health()
    with pytest.raises(EngineDeadError):
        await text_of(engine, FRANCE)
    await engine.close()
    assert used - memory() > 250e6  # the weights at the least, in half precision


def memory() -> int:
    """Bytes of this process, its children and the GPUs, without what the C library keeps for the next allocation."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    own = psutil.Process()
    on_gpus = [torch.cuda.mem_get_info(index) for index in range(GPUS)]
    in_memory = sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))
    return in_memory + sum(total - free for free, total in on_gpus)
