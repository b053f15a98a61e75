"""The replica over a scripted engine: what it makes of tokens, and what its settings do."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import aclosing

import pytest

from runtime.access.visit import VISIT, Visit
from runtime.api.requests import ValidRequest
from runtime.api.responses import Delta
from runtime.application import ModelSettings
from runtime.engines.contract import Sampling
from runtime.errors import ConfigError, EngineError, EngineMemoryError, OverloadedError
from runtime.replica import Replica
from runtime.schema.generation import StopSequence
from runtime.warmup import LIMIT_GPU_S, LIMIT_S
from tests.runtime.support import ByteTokenizer, arguments_for, settings_for


class PieceTokenizer(ByteTokenizer):
    """A token is the piece of that number."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token].encode()


def asking(*stops: StopSequence, max_new_tokens: int = 50, min_new_tokens: int = 0) -> ValidRequest:
    return ValidRequest((1, 2, 3), Sampling(max_new_tokens, min_new_tokens), stops)


async def deltas_of(replica: Replica, request: ValidRequest) -> list[Delta]:
    async with asyncio.timeout(5), aclosing(replica.answer(request)) as answer:
        return [delta async for delta in answer]


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def test_only_the_last_piece_has_a_finish_and_counts_go_up(make_replica) -> None:
    replica = await make_replica()
    assert await deltas_of(replica, asking()) == [Delta("Hello", 5), Delta(" world", 11), Delta("", 11, "stop")]


@pytest.mark.parametrize(
    ("max_new_tokens", "stops", "text", "tokens", "finish"),
    [
        (11, [], "Hello world", 11, "length"),
        (4, [], "Hell", 4, "length"),
        (12, [], "Hello world", 11, "stop"),
        (5, ["lo"], "Hel", 5, "stop"),
        (4, ["lo"], "Hell", 4, "length"),
        (50, ["world!"], "Hello world", 11, "stop"),
        (11, ["world!"], "Hello world", 11, "length"),
        (50, [[ord("l"), ord("l")]], "He", 4, "stop"),
    ],
)
async def test_why_an_answer_ended(make_replica, max_new_tokens, stops, text, tokens, finish) -> None:
    deltas = await deltas_of(await make_replica(), asking(*stops, max_new_tokens=max_new_tokens))
    assert text_of(deltas) == text
    assert (deltas[-1].tokens, deltas[-1].finish) == (tokens, finish)


async def test_a_stop_inside_a_token_cuts_the_token(make_replica, engine) -> None:
    engine.tokenizer = PieceTokenizer("One", " two. Th", "ree", " four")
    engine.script = [bytes([0]), bytes([1, 2, 3])]
    replica = await make_replica()
    assert await deltas_of(replica, asking(". ")) == [Delta("One", 1), Delta(" two", 2, "stop")]
    assert text_of(await deltas_of(replica, asking("Three"))) == "One two. "


async def test_tokens_after_a_stop_in_the_same_batch_do_not_count(make_replica, engine) -> None:
    engine.script = [b"a.bc", b"never"]
    assert await deltas_of(await make_replica(), asking(".")) == [Delta("a", 2, "stop")]


async def test_stops_wait_for_the_least_number_of_tokens(make_replica, engine) -> None:
    engine.script = [b"a.b.", b"c.d"]
    replica = await make_replica()
    found = {n: text_of(await deltas_of(replica, asking(".", min_new_tokens=n))) for n in (0, 1, 2, 4, 6)}
    assert found == {0: "a", 1: "a", 2: "a.b", 4: "a.b.c", 6: "a.b.c.d"}


async def test_a_character_split_over_tokens_is_sent_whole(make_replica, engine) -> None:
    smile = "😀".encode()
    engine.script = [b"a" + smile[:1], smile[1:3], smile[3:] + b"b"]
    assert await deltas_of(await make_replica(), asking()) == [Delta("a", 2), Delta("😀b", 6), Delta("", 6, "stop")]


async def test_a_character_cut_off_by_the_length_is_a_replacement_character(make_replica, engine) -> None:
    engine.script = ["aé".encode()]
    deltas = await deltas_of(await make_replica(), asking(max_new_tokens=2))
    assert deltas == [Delta("a", 2), Delta("\N{REPLACEMENT CHARACTER}", 2, "length")]


async def test_an_answer_without_a_token_is_an_empty_answer(make_replica, engine) -> None:
    engine.script = []
    assert await deltas_of(await make_replica(), asking("x")) == [Delta("", 0, "stop")]


async def test_closing_an_answer_ends_it_in_the_engine_and_frees_its_place(make_replica, engine) -> None:
    engine.script = [b"Hel", asyncio.Event(), b"never"]
    replica = await make_replica(max_batch_size=1, max_waiting_requests=0)
    for _ in range(3):
        answer = replica.answer(asking())
        assert await anext(answer) == Delta("Hel", 3)
        assert engine.running == 1
        await answer.aclose()
        assert engine.running == 0


async def test_an_answer_ended_by_a_stop_has_ended_in_the_engine(make_replica, engine) -> None:
    engine.script = [b"a.", asyncio.Event()]
    replica = await make_replica(max_batch_size=1, max_waiting_requests=0)
    for _ in range(3):
        assert text_of(await deltas_of(replica, asking("."))) == "a"
        assert engine.running == 0


async def test_an_engine_error_frees_the_place(make_replica, engine) -> None:
    engine.script = [b"Hel", EngineError("boom")]
    replica = await make_replica(max_batch_size=1, max_waiting_requests=0)
    for _ in range(3):
        with pytest.raises(EngineError, match="boom"):
            await deltas_of(replica, asking())


async def test_overload_shows_at_the_first_step_and_the_engine_hears_nothing(make_replica, engine) -> None:
    engine.script = [b"Hel", b"lo"]
    replica = await make_replica(max_batch_size=1, max_waiting_requests=1)
    inside = [replica.answer(asking()) for _ in range(2)]
    late = replica.answer(asking())
    for answer in inside:
        await anext(answer)
    with pytest.raises(OverloadedError):
        await anext(late)
    assert len(engine.requests) == 2
    for answer in inside:
        await answer.aclose()
    assert text_of(await deltas_of(replica, asking())) == "Hello"


async def test_new_settings_hold_at_once_and_load_nothing(make_replica, engine, monkeypatch) -> None:
    replica = await make_replica(max_batch_size=1, max_waiting_requests=0, prompt_format="A {instruction}")
    engine.script = [b"Hel", asyncio.Event(), b"lo"]
    running = replica.answer(asking())
    await anext(running)

    def load_again(*_: object) -> None:
        pytest.fail("the model was loaded again")

    monkeypatch.setattr("runtime.loading.load", load_again)
    settings = settings_for(max_batch_size=3, max_waiting_requests=0, prompt_format="B {instruction}")
    await replica.configure(settings)
    assert engine.slots == 3
    assert replica.border().settings is settings
    more = [replica.answer(asking()) for _ in range(2)]
    for answer in more:
        await anext(answer)
    with pytest.raises(OverloadedError):
        await anext(replica.answer(asking()))
    await replica.configure(settings_for(max_batch_size=1, max_waiting_requests=0))
    engine.script[1].set()
    assert [await anext(answer) for answer in (running, *more)] == [Delta("lo", 5)] * 3
    for answer in (running, *more):
        await answer.aclose()
    assert text_of(await deltas_of(replica, asking())) == "Hello"


async def test_more_slots_than_fit_name_their_field(make_replica, engine, monkeypatch) -> None:
    replica = await make_replica()

    async def full(_: int) -> None:
        raise EngineError("not enough memory?")

    monkeypatch.setattr(engine, "configure", full)
    with pytest.raises(ConfigError, match=r"model_config\.generation\.max_batch_size: not enough memory\?"):
        await replica.configure(settings_for(max_batch_size=1000))


async def test_the_card_follows_the_settings(make_replica) -> None:
    replica = await make_replica()
    described = settings_for().model_dump() | {"card": {"description": "New"}}
    await replica.configure(ModelSettings.model_validate(described))
    assert replica.card.description == "New"


@pytest.fixture
def cold_replica(engine, monkeypatch, tmp_path):
    """Makes a replica that has not loaded yet."""

    def make(**arguments) -> Replica:
        monkeypatch.setattr("runtime.loading.load", lambda *_: engine)
        mirror = {"s3_mirror_config": {"bucket_uri": str(tmp_path)}}
        return Replica(arguments_for({"type": "llamaCpp"}, initialization=mirror, **arguments))

    return make


@pytest.mark.parametrize(("warmup", "asked"), [(False, []), (True, [(16, 84), (16, 84), (96, 4)])])
async def test_a_warm_up_fills_every_slot_before_the_replica_is_ready(engine, cold_replica, warmup, asked) -> None:
    replica = cold_replica(warmup=warmup)
    await replica.configure(settings_for(max_batch_size=3))
    assert [(len(prompt), sampling.max_new_tokens) for prompt, sampling in engine.requests] == asked
    assert engine.running == 0
    await replica.configure(settings_for())
    assert len(engine.requests) == len(asked)


async def test_the_others_are_still_in_their_slots_when_the_longest_prompt_is_through(engine, cold_replica) -> None:
    running = []
    generate = engine.generate

    async def watched(prompt, sampling):
        async for tokens in generate(prompt, sampling):
            if len(prompt) == 96:
                running.append(engine.running)
            yield tokens

    engine.generate = watched
    await cold_replica(warmup=True).configure(settings_for(max_batch_size=3))
    assert running and set(running) == {3}


async def test_the_longest_prompt_comes_when_the_others_have_a_token_each(engine, cold_replica) -> None:
    token = asyncio.Event()
    engine.scripts[0] = [b"", token, b"Hello"]
    warming = asyncio.create_task(cold_replica(warmup=True).configure(settings_for()))
    async with asyncio.timeout(20):
        while not engine.requests:  # it is loaded in a thread
            await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(engine.requests) == 1
        token.set()
        await warming
    assert [len(prompt) for prompt, _ in engine.requests] == [16, 96]


async def test_an_engine_without_room_for_all_slots_is_not_waited_for(engine, cold_replica, monkeypatch) -> None:
    """vLLM lets some wait until others have ended, which may take as long as whole answers."""
    monkeypatch.setattr("runtime.warmup.BEGIN_S", 0.01)
    engine.scripts[1] = [b"", asyncio.Event()]
    async with asyncio.timeout(20):
        await cold_replica(warmup=True).configure(settings_for(max_batch_size=3))
    assert [len(prompt) for prompt, _ in engine.requests] == [16, 16, 96]
    assert engine.running == 0


async def test_a_slow_machine_gives_up_the_longest_prompt(engine, cold_replica, monkeypatch) -> None:
    monkeypatch.setattr("runtime.replica.LIMIT_S", 0.01)
    engine.scripts[1] = [asyncio.Event()]
    replica = cold_replica(warmup=True)
    async with asyncio.timeout(20):
        await replica.configure(settings_for())
    assert engine.running == 0
    assert text_of(await deltas_of(replica, asking())) == "Hello world"


@pytest.mark.parametrize(("gpus", "limit"), [(0.0, LIMIT_S), (0.5, LIMIT_GPU_S)])
async def test_a_gpu_has_more_time_for_it(cold_replica, monkeypatch, gpus, limit) -> None:
    limits = []

    async def warm_up(_: object, __: int, limit_s: float) -> None:
        limits.append(limit_s)

    monkeypatch.setattr("runtime.replica.warm_up", warm_up)
    replica = cold_replica(warmup=True, scaling_config={"num_cpus_per_worker": 1.0, "num_gpus_per_worker": gpus})
    await replica.configure(settings_for())
    assert limits == [limit]


@pytest.mark.parametrize("request_number", [0, 1])
async def test_a_batch_that_does_not_fit_is_found_in_the_warm_up(engine, cold_replica, request_number) -> None:
    engine.scripts[request_number] = [EngineMemoryError("out of memory")]
    with pytest.raises(ConfigError, match=r"generation\.max_batch_size: the warm-up with .*out of memory"):
        await cold_replica(warmup=True).configure(settings_for())
    assert engine.running == 0
    assert not engine.healthy  # closed


async def test_a_model_that_cannot_be_loaded_is_tried_again(engine, monkeypatch, tmp_path) -> None:
    mirror = {"s3_mirror_config": {"bucket_uri": str(tmp_path / "missing")}}
    replica = Replica(arguments_for({"type": "llamaCpp"}, initialization=mirror))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"registry/acme--model\.yaml: model_config\.initialization"):
            await replica.configure(settings_for())
    (tmp_path / "missing").mkdir()
    monkeypatch.setattr("runtime.loading.load", lambda *_: engine)
    await replica.configure(settings_for())
    assert text_of(await deltas_of(replica, asking())) == "Hello world"


async def test_close_closes_the_engine_and_may_come_before_it_is_there(make_replica, engine) -> None:
    await Replica(arguments_for({"type": "llamaCpp"})).close()
    replica = await make_replica()
    await replica.check_health()
    await replica.close()
    with pytest.raises(EngineError):
        await replica.check_health()
    await replica.close()


async def test_secrets_come_from_the_nodes_environment(engine, monkeypatch, tmp_path) -> None:
    mirror = {"s3_mirror_config": {"bucket_uri": str(tmp_path)}}
    environment = {"SEEN_BY_THE_ENGINE": "HELD_BY_THE_NODE"}
    replica = Replica(arguments_for({"type": "llamaCpp"}, initialization=mirror, environment=environment))
    seen = []
    monkeypatch.setenv("SEEN_BY_THE_ENGINE", "old")
    monkeypatch.setattr("runtime.loading.load", lambda *_: seen.append(os.environ["SEEN_BY_THE_ENGINE"]) or engine)
    with pytest.raises(ConfigError, match=r"env_vars: this node has no environment variable HELD_BY_THE_NODE"):
        await replica.configure(settings_for())
    monkeypatch.setenv("HELD_BY_THE_NODE", "secret")
    await replica.configure(settings_for())
    assert seen == ["secret"]


@pytest.fixture
def visit() -> Iterator[Visit]:
    """The request at work."""
    token = VISIT.set(visit := Visit())
    yield visit
    VISIT.reset(token)


async def test_a_prompt_is_on_the_account_before_there_is_an_answer(make_replica, engine, visit) -> None:
    engine.script = [asyncio.Event()]
    replica = await make_replica(max_batch_size=1, max_waiting_requests=0)
    waiting = asyncio.create_task(anext(replica.answer(asking())))
    while not engine.running:
        await asyncio.sleep(0)
    assert visit.prompt_tokens == 3
    with pytest.raises(OverloadedError):
        await anext(replica.answer(asking()))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert visit.prompt_tokens == 3


async def test_what_is_embedded_is_on_the_account_though_it_fails(make_replica, engine, visit) -> None:
    async def embed(_: Sequence[int]) -> Sequence[float]:
        assert visit.prompt_tokens == 3
        raise EngineError("boom")

    engine.embed = embed
    replica = await make_replica()
    with pytest.raises(EngineError):
        await replica.embed([(1, 2), (3,)])
    assert visit.prompt_tokens == 3
