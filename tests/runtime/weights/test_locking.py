"""Locks made from the hub and from files: the same bytes, the same facts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.schema.lock import WeightsFacts
from runtime.weights.facts import facts_of
from runtime.weights.inspection import reader
from runtime.weights.locking import lock_from_hub, lock_from_sources
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.selection import Wanted
from tests.runtime.weights.models import gguf, write_model
from tests.runtime.weights.servers import HubStub, closing
from tests.runtime.weights.test_s3 import PACE, lock_of

FACTS = WeightsFacts(
    architecture="LlamaForCausalLM", layers=2, heads=4, kv_heads=2, hidden_size=64, vocabulary=300, context_length=512,
    dtype="U8", parameters=500_000,
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    return write_model(tmp_path / "source", 500_000)


@pytest.fixture
def hub(model, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    stub = HubStub("acme/model", {**model, "pytorch_model.bin": b"x" * 200, "README.md": b"x"})
    monkeypatch.setenv("HF_ENDPOINT", stub.url)
    with closing(stub):
        yield stub


def test_a_lock_from_the_hub_fetches_no_weights(hub: HubStub, model) -> None:
    lock = lock_from_hub(Request("acme/model"), PACE)
    assert lock.weights.model_dump() == {**lock_of(dict(sorted(model.items())), hub.commit).model_dump()}
    assert (lock.repository, lock.revision, lock.licence, lock.gated) == ("acme/model", "main", "apache-2.0", False)
    assert lock.facts == FACTS
    assert sum(each.sent for each in hub.seen) < 5000


def test_a_lock_from_what_is_here_is_the_same(hub: HubStub) -> None:
    one, other = lock_from_hub(Request("acme/model"), PACE), lock_from_sources(Request("acme/model"), PACE)
    assert one.model_dump(exclude={"licence"}) == other.model_dump(exclude={"licence"})


def test_a_local_folder_says_its_commit(model, tmp_path: Path) -> None:
    from runtime.schema.weights import S3MirrorConfig

    request = Request("acme/model", mirror=S3MirrorConfig(bucket_uri=str(tmp_path / "source")))
    with pytest.raises(
        WeightsError, match=r"does not say which commit it holds: write all 40 digits of it into .*hash"
    ):
        lock_from_sources(request, Pace())
    (tmp_path / "source" / "hash").write_text("c" * 40)
    assert lock_from_sources(request, Pace()).commit == "c" * 40


def test_a_gguf_speaks_for_itself(tmp_path: Path) -> None:
    metadata: dict[str, str | int] = {"general.architecture": "llama", "llama.block_count": 3}
    metadata |= {"llama.attention.head_count": 8, "llama.embedding_length": 64, "llama.context_length": 128}
    metadata |= {"llama.vocab_size": 10}
    (tmp_path / "m.gguf").write_bytes(gguf(metadata, {"t": ([64], 2, 0)}, b"x" * 36))
    facts = facts_of({"m.gguf": (tmp_path / "m.gguf").stat().st_size}, lambda path: reader(tmp_path / path))
    assert facts == WeightsFacts(
        architecture="llama", layers=3, heads=8, kv_heads=8, hidden_size=64, vocabulary=10, context_length=128,
        dtype="Q4_0", parameters=64,
    )  # fmt: skip


def test_a_broken_header_is_no_lock(hub: HubStub) -> None:
    hub.files["model.safetensors"] = b"\xff" * 500
    with pytest.raises(WeightsError, match=r"model\.safetensors: it says that its header has"):
        lock_from_hub(Request("acme/model"), PACE)
    with pytest.raises(WeightsError, match=r"no \.gguf file"):
        lock_from_hub(Request("acme/model", wanted=Wanted(gguf=True)), PACE)
