"""Room in the cache: the one that was used last goes last, and what is in use not at all."""

import os
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.weights.cache import state_folder, store
from runtime.weights.eviction import limit, make_room, snapshots


def put(tmp_path: Path, name: str, used: float, *files: bytes) -> Path:
    sources = {}
    for number, data in enumerate(files):
        sources[f"{number}.bin"] = tmp_path / f"{name}-{number}"
        sources[f"{number}.bin"].write_bytes(data)
    folder = store(f"acme/{name}", sources)
    lock = state_folder("used") / f"models--acme--{name}@{folder.name}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (used, used))
    return folder


def test_the_oldest_goes_first(tmp_path: Path, cache: Path) -> None:
    old = put(tmp_path, "old", 100, b"x" * 1000)
    new = put(tmp_path, "new", 300, b"y" * 1000)
    middle = put(tmp_path, "middle", 200, b"z" * 1000)
    assert [each.repository for each in snapshots()] == ["acme/old", "acme/middle", "acme/new"]
    assert [each.size for each in snapshots()] == [1000] * 3
    assert [each.repository for each in make_room(1500)] == ["acme/old", "acme/middle"]
    assert not old.exists() and not middle.exists() and new.is_dir()
    assert not list((cache / "models--acme--old").glob("refs/*"))


def test_blobs_that_others_have_stay(tmp_path: Path) -> None:
    put(tmp_path, "a", 100, b"x" * 1000)
    second = put(tmp_path, "a", 200, b"x" * 1000, b"y" * 1000)
    (first,) = make_room(2000) or [snapshots()[0]]
    assert first.commit != second.name
    make_room(1500)
    assert not second.exists()


def test_the_limit_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a", 100, b"x" * 1000)
    assert make_room() == []
    monkeypatch.setenv("LLM_SERVE_CACHE_MAX_BYTES", "10")
    assert len(make_room()) == 1
    monkeypatch.setenv("LLM_SERVE_CACHE_MAX_BYTES", "10 GB")
    with pytest.raises(WeightsError, match="'10 GB', and should be a number of bytes"):
        limit()
