"""The cache in the hub's layout: what is stored is found, what is damaged is refused."""

import hashlib
from pathlib import Path

import pytest

from runtime.weights.cache import CacheError, cache_folder, snapshot, store, verify


@pytest.fixture
def folder(cache: Path) -> Path:
    return cache


def put(tmp_path: Path, content: bytes) -> Path:
    source = tmp_path / "source.gguf"
    source.write_bytes(content)
    return store("acme/model", {"model.gguf": source}) / "model.gguf"


def test_stored_files_lie_as_the_hub_lays_them(tmp_path: Path, folder: Path) -> None:
    path = put(tmp_path, b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    commit = hashlib.sha256(f"{digest} model.gguf\n".encode()).hexdigest()[:40]
    top = folder / "models--acme--model"
    assert path == snapshot("acme/model", "main") / "model.gguf" == top / "snapshots" / commit / "model.gguf"
    assert path.resolve() == top / "blobs" / digest
    assert (top / "refs" / "main").read_text() == commit
    assert snapshot("acme/model", commit) == path.parent
    verify(path)


def test_storing_again_changes_nothing_and_new_content_moves_main(tmp_path: Path) -> None:
    first = put(tmp_path, b"one")
    assert put(tmp_path, b"one") == first
    second = put(tmp_path, b"two")
    assert snapshot("acme/model", "main") == second.parent != first.parent
    assert first.read_bytes() == b"one"


def test_a_damaged_blob_is_refused_and_storing_repairs_it(tmp_path: Path) -> None:
    path = put(tmp_path, b"weights")
    path.resolve().write_bytes(b"weightz")
    with pytest.raises(CacheError, match=r"bad checksum: model\.gguf"):
        verify(path)
    verify(put(tmp_path, b"weights"))


def test_small_files_carry_gits_digest(tmp_path: Path, folder: Path) -> None:
    blob = folder / "models--acme--model" / "blobs" / "d670460b4b4aece5915caf5c68d12f560a9fe3e4"  # git hash-object
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"test content\n")
    verify(blob)
    blob.write_bytes(b"test contents\n")
    with pytest.raises(CacheError):
        verify(blob)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="acme/model is not in the model cache"):
        snapshot("acme/model", "main")
    put(tmp_path, b"weights")
    with pytest.raises(CacheError, match="not its revision v2"):
        snapshot("acme/model", "v2")


def test_the_cache_is_under_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_SERVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/llm-serve/hub")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_folder() == Path("/home/ada/.cache/llm-serve/hub")
