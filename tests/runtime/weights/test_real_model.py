"""The real model from every source into every engine: locked, fetched, verified, loaded, asked."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, product
from pathlib import Path

import pytest

from demo.model import fetch_safetensors
from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, Sampling
from runtime.loading import load_model
from runtime.phases import STARTED
from runtime.schema.lock import ModelLock, WeightsLock
from runtime.schema.weights import S3MirrorConfig
from runtime.weights import mirrors
from runtime.weights.locking import commit_held, lock_from_sources
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from tests.conftest import at_size
from tests.runtime.support import arguments_for
from tests.runtime.weights.servers import FaultProxy, HubStub, closing
from tests.runtime.weights.test_sources import git

FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
ENGINES = {
    "llamaCpp": {"model_init_kwargs": {"n_ctx": 512, "n_batch": 64}},
    "SingleDevice": {"dtype": "float32"},
    "DeviceMap": {"dtype": "float32"},
    "DeepSpeed": {"dtype": "float32"},
    "vLLM": {
        "engine_kwargs": {
            "dtype": "float32",
            "enforce_eager": True,
            "gpu_memory_utilization": 0.4,
            "kv_cache_memory_bytes": 1 << 27,
            "max_model_len": 512,
        }
    },
}


def arguments(engine: str, mirror: S3MirrorConfig | None, lock: WeightsLock | None = None) -> ModelArguments:
    initialization = {"s3_mirror_config": mirror.model_dump()} if mirror else {}
    more = {"lock": lock.model_dump()} if lock else {}
    return arguments_for({"type": engine, **ENGINES[engine]}, initialization=initialization, **more)


class Sources:
    """The files of a lock where each kind of source has them: what a registry file says of it, and the lock there."""

    def __init__(self, folder: Path, request: Request, lock: WeightsLock, s3: FaultProxy, aside: Path) -> None:
        self.folder, self.request, self.lock, self.s3, self.aside = folder, request, lock, s3, aside

    @contextmanager
    def local(self, _: pytest.MonkeyPatch) -> Iterator[tuple[S3MirrorConfig | None, WeightsLock]]:
        yield S3MirrorConfig(bucket_uri=str(self.folder)), self.lock

    @contextmanager
    def bucket(self, _: pytest.MonkeyPatch) -> Iterator[tuple[S3MirrorConfig | None, WeightsLock]]:
        """It resets every third of the first downloads in its middle: fewer than the attempts that a part has."""
        mirror = S3MirrorConfig(bucket_uri="s3://models/smollm2/", endpoint_url=self.s3.url)
        mirrors.push(self.request, self.folder, self.lock.commit, mirror, Pace())
        faults = iter(["reset at 50%", None, None] * 5)
        self.s3.choose = lambda method, _: next(faults, None) if method == "GET" else None
        yield mirror, self.lock

    @contextmanager
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3MirrorConfig | None, WeightsLock]]:
        files = {each.path: (self.folder / each.path).read_bytes() for each in self.lock.files}
        stub = HubStub("acme/model", files)
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        with closing(stub):
            yield None, self.lock.model_copy(update={"commit": stub.commit})

    @contextmanager
    def git(self, _: pytest.MonkeyPatch) -> Iterator[tuple[S3MirrorConfig | None, WeightsLock]]:
        self.aside.mkdir()
        for each in self.lock.files:
            shutil.copyfile(self.folder / each.path, self.aside / each.path)
        git(self.aside, "init", "--quiet", "--initial-branch=main")
        git(self.aside, "add", ".")
        git(self.aside, "commit", "--quiet", "-m", "weights")
        commit = git(self.aside, "rev-parse", "HEAD")
        yield S3MirrorConfig(git_uri=f"file://{self.aside}"), self.lock.model_copy(update={"commit": commit})


SOURCES = ("bucket", "hub", "git", "local")
PAIRS = at_size(list(zip(cycle(SOURCES), ENGINES, strict=False)), list(product(SOURCES, ENGINES)))


@pytest.mark.parametrize(("source", "engine"), PAIRS)
def test_it_answers_from_each_source(
    source: str, engine: str, s3: FaultProxy, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LLM_SERVE_CACHE")
    folder = fetch_safetensors()
    monkeypatch.setenv("LLM_SERVE_CACHE", str(cache))
    request = Request.of(arguments(engine, S3MirrorConfig(bucket_uri=str(folder))))
    made = lock_from_sources(request, Pace())
    check_facts(made, folder)
    STARTED.seconds.clear()
    sources = Sources(folder, request, made.weights, s3, tmp_path / "origin")
    with getattr(sources, source)(monkeypatch) as (mirror, lock):
        model = load_model(arguments(engine, mirror, lock), Batching(1))
    assert set(STARTED.seconds) >= {"verify", "load", *(["fetch"] if source != "local" else [])}
    assert asyncio.run(answer(model)) == "The capital of France is Paris."


def check_facts(lock: ModelLock, folder: Path) -> None:
    assert lock.weights.commit == commit_held(folder)
    assert (lock.facts.layers, lock.facts.kv_heads, lock.facts.parameters) == (30, 3, 134_515_008)


async def answer(model: Engine) -> str:
    prompt = model.tokenizer.encode(FRANCE)
    sampling = Sampling(max_new_tokens=16, temperature=0)
    tokens = [token async for batch in model.generate(prompt, sampling) for token in batch]
    text = b"".join(map(model.tokenizer.piece, tokens)).decode()
    await model.close()
    return text
