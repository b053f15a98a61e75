"""Room in the cache: the one that was used last goes last, and what is in use not at all."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.phases import Phases
from runtime.weights.cache import state_folder, store
from runtime.weights.eviction import limit, make_room, snapshots
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.sources import obtain
from runtime.weights.turns import alone
from runtime.weights.verification import cached
from tests.runtime.weights.models import write_model
from tests.runtime.weights.servers import FaultProxy
from tests.runtime.weights.test_s3 import asked
from tests.runtime.weights.test_s3 import put as put_into_s3


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


def test_what_is_looked_at_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "source")
    folder = store("acme/model", {path.name: path for path in (tmp_path / "source").iterdir()})

    def looked_at(request: Request) -> Path | None:
        found = cached(request)
        assert make_room(0) == []
        return found

    monkeypatch.setattr("runtime.weights.sources.cached", looked_at)
    assert obtain(Request("acme/model"), Pace(), Phases()) == folder
    assert (folder / "config.json").is_file()


def test_what_is_being_fetched_stays(tmp_path: Path) -> None:
    folder = put(tmp_path, "a", 100, b"x" * 1000)
    with alone("models--acme--a"):
        assert make_room(0) == []
    assert [each.folder for each in make_room(0)] == [folder]


def test_two_that_make_room_at_once(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path, f"m{number}", number, *(bytes([number]) * each for each in range(1, 20)))
    with ThreadPoolExecutor(4) as pool:
        removed = [each for found in pool.map(make_room, [0] * 4) for each in found]
        assert all(pool.map(lambda _: snapshots() == [], range(4)))
    assert len(removed) == 20


def test_a_model_that_is_there_starts_though_no_room_can_be_made(
    s3: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_into_s3(s3, write_model(tmp_path / "source"))
    monkeypatch.setenv("LLM_SERVE_CACHE_MAX_BYTES", "10 GB")
    assert obtain(asked(s3), Pace(), Phases()).is_dir()
    assert "no room is made in the model cache: LLM_SERVE_CACHE_MAX_BYTES is '10 GB'" in caplog.text
