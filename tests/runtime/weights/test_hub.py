"""The hub's protocol, spoken by huggingface_hub itself, with a stand-in on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.weights.request import Request
from runtime.weights.selection import Wanted
from tests.runtime.weights.models import gguf, write_model
from tests.runtime.weights.servers import FAULTS, FaultProxy, HubStub, closing
from tests.runtime.weights.test_s3 import content, fetch, lock_of


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    return write_model(tmp_path / "source", 500_000)


@pytest.fixture
def hub(model, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    stub = HubStub("acme/model", {**model, "pytorch_model.bin": b"x" * 200, "README.md": b"x", "modeling_x.py": b"x"})
    monkeypatch.setenv("HF_ENDPOINT", stub.url)
    with closing(stub):
        yield stub


@pytest.mark.parametrize("locked", [True, False])
def test_a_revision_of_a_repository(hub: HubStub, model, cache: Path, locked: bool) -> None:
    request = Request("acme/model", lock=lock_of(model, hub.commit) if locked else None)
    folder = fetch(request)
    snapshot = cache / "models--acme--model" / "snapshots" / hub.commit
    assert content(folder) == content(snapshot) == model
    assert (folder == snapshot) is not locked
    ranges = [each.range for each in hub.seen if each.path.startswith("/storage/model.safetensors")]
    assert len(ranges) > 1 and all(ranges)
    before = len(hub.seen)
    assert fetch(request) == folder
    assert len(hub.seen) == before, "what is there is not asked for"


def test_transformers_own_library_finds_the_files(hub: HubStub, cache: Path) -> None:
    from huggingface_hub import hf_hub_download

    fetch(Request("acme/model"))
    found = hf_hub_download("acme/model", "config.json", cache_dir=cache, local_files_only=True)
    assert Path(found).read_bytes() == hub.files["config.json"]


def test_a_commit_as_revision(hub: HubStub, model) -> None:
    assert content(fetch(Request("acme/model", hub.commit))) == model
    with pytest.raises(WeightsError, match="has no revision `v9`"):
        fetch(Request("acme/model", "v9"))


def test_the_gguf_that_was_chosen(hub: HubStub) -> None:
    hub.files = {"a-Q4.gguf": gguf({"a": 1}), "b-Q8.gguf": gguf({"a": 2}), "config.json": b"{}", "x.safetensors": b"x"}
    with pytest.raises(WeightsError, match=r"model_filename` is needed: it holds a-Q4\.gguf, b-Q8\.gguf"):
        fetch(Request("acme/model", wanted=Wanted(gguf=True)))
    folder = fetch(Request("acme/model", wanted=Wanted(gguf=True, filename="b-Q8.gguf")))
    assert sorted(content(folder)) == ["b-Q8.gguf", "config.json"]
    fetch(Request("acme/model", wanted=Wanted(gguf=True, filename="a-Q4.gguf")))
    assert sorted(content(folder)) == ["a-Q4.gguf", "b-Q8.gguf", "config.json"]


def test_gated_and_private(hub: HubStub, monkeypatch: pytest.MonkeyPatch, model) -> None:
    hub.token, hub.gated = "hf_secret", True
    with pytest.raises(WeightsError, match=r"is gated, and HF_TOKEN, which is not set, .*accept its terms at http"):
        fetch(Request("acme/model"))
    hub.gated = False
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(WeightsError, match=r"no such repository, or not for this account; .*the token in HF_TOKEN"):
        fetch(Request("acme/model"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert content(fetch(Request("acme/model"))) == model


def test_a_file_that_is_not_what_the_hub_says(hub: HubStub, model, cache: Path) -> None:
    siblings = hub.siblings()
    hub.siblings = lambda: siblings  # type: ignore[method-assign]
    hub.files["model.safetensors"] = model["model.safetensors"][::-1]
    with pytest.raises(WeightsError, match=r"model\.safetensors: its sha256 is .* expected, 2 times"):
        fetch(Request("acme/model"))
    hub.files["model.safetensors"] = model["model.safetensors"]
    hub.files["config.json"] = hub.files["config.json"][::-1]
    with pytest.raises(WeightsError, match=r"config\.json: its sha256 is"):
        fetch(Request("acme/model"))
    assert not (cache / "models--acme--model" / "snapshots").exists()


@pytest.mark.parametrize("fault", [each for each in FAULTS if each != "wrong etag"])
def test_one_fault_of_each_kind_is_mended(hub: HubStub, model, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FaultProxy(hub.server.server_address[1])
    hub.url = proxy.url
    monkeypatch.setenv("HF_ENDPOINT", proxy.url)
    left = [fault]
    proxy.choose = lambda method, path: left.pop() if left and method == "GET" and path.startswith("/stor") else None
    with closing(proxy):
        assert content(fetch(Request("acme/model"))) == model
    assert proxy.faults == [fault]


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"cannot get acme/model at revision main: http://127.* gave up after 6"):
        fetch(Request("acme/model"))


@pytest.mark.parametrize("name", ["acme/foo--bar", "acme/foo.git"])
def test_a_name_that_the_hub_cannot_have(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"{name}: is no name that the hub has"):
        fetch(Request(name))


@pytest.mark.parametrize("endpoint", ["nonsense", "http://[x", "http://x:99999", "ftp://x", "huggingface.co"])
def test_an_endpoint_that_is_no_address_is_not_asked(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(WeightsError, match=r"HF_ENDPOINT is .*, and should be an address such as https:"):
        fetch(Request("acme/model"))
