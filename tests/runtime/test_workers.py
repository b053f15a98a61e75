"""Engines in Ray actors, on a cluster of several nodes that this machine plays."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
import ray
from ray.cluster_utils import Cluster

from demo.model import REPOSITORY, fetch_safetensors
from runtime import workers
from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, Sampling
from runtime.errors import ConfigError, EngineDeadError, EngineError
from tests.runtime.support import ScriptedEngine, arguments_for, first_token

FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
GREEDY = Sampling(max_new_tokens=16, temperature=0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head for the coordinators, and two nodes for workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("ELSEWHERE", str(tmp_path_factory.mktemp("cache")))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"instance_type_m5": 1}})
        for _ in range(2):
            cluster.add_node(num_cpus=2, resources={"instance_type_g5": 1})
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def arguments(initialization: dict | None = None, **scaling) -> ModelArguments:
    fetch_safetensors()
    initialization = {"hf_model_id": REPOSITORY, **(initialization or {})}
    found = arguments_for({"type": "SingleDevice", "dtype": "float32"}, initialization=initialization)
    plain = {"num_gpus_per_worker": 0.0, "pg_timeout_s": 60.0} | scaling
    return found.model_copy(update={"scaling_config": found.scaling_config.model_copy(update=plain)})


@pytest.fixture
async def engine(cluster: Cluster) -> AsyncIterator[workers.RemoteEngine]:
    started = await workers.start(arguments(resources_per_worker={"instance_type_g5": 0.01}), Batching(4))
    assert isinstance(started, workers.RemoteEngine)
    yield started
    await started.close()


async def text_of(engine: Engine, prompt: str = FRANCE, sampling: Sampling = GREEDY) -> str:
    async with aclosing(engine.generate(engine.tokenizer.encode(prompt), sampling)) as batches:
        tokens = [token async for batch in batches for token in batch]
    return b"".join(map(engine.tokenizer.piece, tokens)).decode()


@pytest.mark.parametrize(
    ("scaling", "problem"),
    [
        (
            {"resources_per_worker": {"instance_type_p4d": 0.01}},
            r"no place for 1 x \{CPU: 1, instance_type_p4d: 0.01\} \(PACK\) within 1 s: "
            r"no node has 0.01 of `instance_type_p4d`",
        ),
        ({"num_gpus_per_worker": 1.0}, "no node has 1 of `GPU`"),
        ({"num_cpus_per_worker": 8.0}, "no node has 8 of `CPU`, the most is 2"),
        ({"resources_per_worker": {"instance_type_m5": 0.5, "instance_type_g5": 0.5}}, "no node has all of that"),
        (
            {
                "num_workers": 3,
                "placement_strategy": "STRICT_SPREAD",
                "resources_per_worker": {"instance_type_g5": 0.1},
            },
            "the nodes that have all of that are too few, or taken",
        ),
    ],
    ids=["unknown", "gpu", "too-much", "apart", "strict"],
)
async def test_what_cannot_be_placed_says_what_is_missing(cluster: Cluster, scaling: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        await workers.start(arguments(**{"num_cpus_per_worker": 1.0, "pg_timeout_s": 1.0} | scaling), Batching(1))
    assert not [each for each in ray.util.placement_group_table().values() if each["state"] == "PENDING"]


@pytest.mark.parametrize(("strategy", "nodes"), [("STRICT_PACK", 1), ("PACK", 1), ("SPREAD", 2), ("STRICT_SPREAD", 2)])
def test_workers_lie_on_the_node_type_and_as_close_as_told(cluster: Cluster, strategy: str, nodes: int) -> None:
    wanted = arguments(
        num_workers=2,
        num_cpus_per_worker=1.0,
        placement_strategy=strategy,
        resources_per_worker={"instance_type_g5": 0.01},
    )
    group = workers._place(wanted)
    placed = ray.util.placement_group_table(group)["bundles_to_node_id"].values()
    ray.util.remove_placement_group(group)
    g5 = {node["NodeID"] for node in ray.nodes() if "instance_type_g5" in node["Resources"]}
    assert len(set(placed)) == nodes
    assert set(placed) <= g5


async def test_it_is_the_engine_that_it_holds(engine: workers.RemoteEngine) -> None:
    assert engine.limits.context_length == 8192
    assert await asyncio.gather(*(text_of(engine) for _ in range(6))) == ["The capital of France is Paris."] * 6
    await engine.check_health()
    await engine.configure(Batching(2))
    assert await text_of(engine) == "The capital of France is Paris."


async def test_logprobs_come_with_the_tokens(engine: workers.RemoteEngine) -> None:
    asked = Sampling(max_new_tokens=3, temperature=0, logprobs=2)
    tokens = [token async for batch in engine.generate(engine.tokenizer.encode(FRANCE), asked) for token in batch]
    assert [token.top[0] for token in tokens] == [(token, token.logprob) for token in tokens]
    assert [len(token.top) for token in tokens] == [2, 2, 2]


async def test_closing_an_answer_frees_its_slot(engine: workers.RemoteEngine) -> None:
    await engine.configure(Batching(1))
    endless = engine.generate(engine.tokenizer.encode("Once"), Sampling(900, 900))
    await first_token(endless)
    waiting = asyncio.create_task(text_of(engine))
    for _ in range(30):  # steps in which it would be done, had it a slot
        await first_token(endless)
    assert not waiting.done()
    await endless.aclose()
    assert await asyncio.wait_for(waiting, 30) == "The capital of France is Paris."


async def test_a_dead_worker_fails_what_runs_and_what_comes(engine: workers.RemoteEngine) -> None:
    endless = engine.generate(engine.tokenizer.encode("Once"), Sampling(900, 900))
    await first_token(endless)
    ray.kill(engine.worker)
    with pytest.raises(EngineError, match="the worker that computes has died"):
        async for _ in endless:
            pass
    with pytest.raises(EngineError, match="has died"):
        await text_of(engine)
    with pytest.raises(EngineError, match="has died"):
        await engine.check_health()


@pytest.mark.parametrize(
    ("initialization", "problem"),
    [
        (
            {"hf_model_id": "acme/is-nowhere"},
            "model_config.initialization.hf_model_id: cannot get acme/is-nowhere .*HF_HUB_OFFLINE is set",
        ),
        (
            {"initializer": {"type": "SingleDevice", "from_pretrained_kwargs": {"no_such_thing": 1}}},
            "from_pretrained_kwargs: transformers cannot load the model: .*no_such_thing",
        ),
        (
            {"initializer": {"type": "SingleDevice", "attn_implementation": "flash_attention_2"}},
            "transformers cannot load the model: .*[Ff]lash",
        ),
    ],
    ids=["nowhere", "argument", "attention"],
)
async def test_what_a_worker_cannot_load_it_says(cluster: Cluster, initialization: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        await workers.start(arguments(initialization), Batching(1))
    left = [each for each in ray.util.placement_group_table().values() if each["state"] != "REMOVED"]
    assert not left


async def test_a_variable_of_the_workers_node_reaches_the_worker(cluster: Cluster) -> None:
    missing = arguments().model_copy(update={"environment": {"TOKEN": "NO_NODE_HAS_THIS"}})
    with pytest.raises(ConfigError, match="this node has no environment variable NO_NODE_HAS_THIS"):
        await workers.start(missing, Batching(1))
    elsewhere = arguments().model_copy(update={"environment": {"LLM_SERVE_CACHE": "ELSEWHERE"}})
    with pytest.raises(ConfigError, match=f"cannot get {REPOSITORY} .*HF_HUB_OFFLINE is set"):
        await workers.start(elsewhere, Batching(1))


@pytest.fixture
async def parallel_engine(cluster: Cluster) -> AsyncIterator[workers.RemoteEngine]:
    """DeepSpeed over both nodes."""
    wanted = arguments(
        {"initializer": {"type": "DeepSpeed", "dtype": "float32"}},
        num_workers=2,
        placement_strategy="STRICT_SPREAD",
        resources_per_worker={"instance_type_g5": 0.01},
    )
    started = await workers.start(wanted, Batching(4))
    assert isinstance(started, workers.RemoteEngine)
    yield started
    await started.close()
    assert not [each for each in ray.util.placement_group_table().values() if each["state"] != "REMOVED"]


async def test_one_model_computes_on_two_nodes(parallel_engine: workers.RemoteEngine) -> None:
    assert len(parallel_engine.followers) == 1
    assert (
        await asyncio.gather(*(text_of(parallel_engine) for _ in range(6))) == ["The capital of France is Paris."] * 6
    )
    await parallel_engine.configure(Batching(2))
    assert await text_of(parallel_engine) == "The capital of France is Paris."


async def test_a_dead_follower_is_told_of_before_anybody_asks(parallel_engine: workers.RemoteEngine) -> None:
    await parallel_engine.check_health()
    ray.kill(parallel_engine.followers[0])
    async with asyncio.timeout(30):
        with pytest.raises(EngineDeadError, match="a worker has died"):
            while True:
                await parallel_engine.check_health()
                await asyncio.sleep(0.1)
    with pytest.raises(EngineDeadError, match="a worker has died"):
        await text_of(parallel_engine)


async def test_closing_ends_what_runs_and_refuses_what_comes(cluster: Cluster) -> None:
    engine = await workers.start(arguments(), Batching(4))
    endless = engine.generate(engine.tokenizer.encode("Once"), Sampling(900, 900))
    await first_token(endless)
    await engine.close()
    with pytest.raises(EngineDeadError, match="has stopped"):
        async for _ in endless:
            pass
    with pytest.raises(EngineDeadError, match="has stopped"):
        await text_of(engine)
    with pytest.raises(EngineDeadError, match="has stopped"):
        await engine.check_health()
    await engine.close()


async def test_an_answer_that_fails_in_a_way_nobody_thought_of_ends() -> None:
    worker = workers.Worker(arguments())
    worker._engine = engine = ScriptedEngine()
    engine.script = [b"ab", TypeError("no such thing")]
    await worker.begin(7, [1], GREEDY)
    said: list[workers.Item] = []
    async with aclosing(worker.news()) as news:
        while len(said) < 2:
            said += [item for _, item in await anext(news)]
    assert said[0] == list(b"ab")
    assert isinstance(said[1], EngineError)
    assert str(said[1]) == "the engine failed: TypeError('no such thing')"
    assert not worker._answers


@pytest.mark.parametrize("victim", ["first", "follower"])
async def test_one_dead_worker_of_several_fails_what_runs(parallel_engine: workers.RemoteEngine, victim: str) -> None:
    endless = parallel_engine.generate(parallel_engine.tokenizer.encode("Once"), Sampling(900, 900))
    await first_token(endless)
    ray.kill(parallel_engine.worker if victim == "first" else parallel_engine.followers[0])
    async with asyncio.timeout(30):
        with pytest.raises(EngineDeadError, match="has died"):
            async for _ in endless:
                pass
        with pytest.raises(EngineDeadError, match="has died"):
            await parallel_engine.check_health()
