"""Models of one commit with different locks: each is given its own files, and leaves the others' alone."""

import logging
import os
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.phases import Phases
from runtime.schema.lock import WeightsLock
from runtime.weights.cache import snapshot, store
from runtime.weights.commands import snapshots
from runtime.weights.eviction import make_room
from runtime.weights.inspection import Trust
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.selection import Wanted
from runtime.weights.sources import held, obtain
from runtime.weights.verification import cached, check_content
from tests.runtime.weights.conftest import bucket
from tests.runtime.weights.models import gguf, write_model
from tests.runtime.weights.servers import FaultProxy
from tests.runtime.weights.test_s3 import asked, content, fetch, lock_of, put

CODE = {"modeling_x.py": b"x = 1", "custom.json": b"{}"}
SMALL, LARGE = {"a-Q4.gguf": gguf({"a": 1})}, {"b-Q8.gguf": gguf({"a": 2})}


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    return write_model(tmp_path / "source")


def loaded(request: Request) -> Path:
    """As a replica does it."""
    folder = fetch(request)
    check_content(request, folder)
    return folder


def requests_of(s3: FaultProxy, model: dict[str, bytes]) -> list[tuple[Request, dict[str, bytes]]]:
    """Four models of one commit, and what each should be given."""
    trusting = Wanted(trust=Trust(code=True))
    common = {"config.json": model["config.json"]}
    cases = [(Wanted(), model), (trusting, {**model, **CODE})]
    cases += [(Wanted(gguf=True, filename=next(iter(files))), {**common, **files}) for files in (SMALL, LARGE)]
    return [(asked(s3, lock_of(files), wanted=wanted), files) for wanted, files in cases]


@pytest.mark.parametrize("turn", [1, -1])
def test_each_is_given_the_files_of_its_own_lock(s3: FaultProxy, model, turn: int) -> None:
    put(s3, {**model, **CODE, **SMALL, **LARGE})
    found = {}
    for request, files in requests_of(s3, model)[::turn]:
        folder = loaded(request)
        assert content(folder) == files
        found[folder] = files
    assert {folder: content(folder) for folder in found} == found, "those that came later took nothing away"
    before = len(s3.seen)
    for request, files in requests_of(s3, model):
        assert content(loaded(request)) == files
    assert len(s3.seen) == before, "nobody is asked again"


def test_a_file_that_two_locks_say_different_things_of(s3: FaultProxy, model) -> None:
    """Mirrors may hold what they like under one `hash`; a model that is loaded keeps its own."""
    put(s3, model)
    own = asked(s3, lock_of(model))
    folder = loaded(own)
    changed = {**model, "config.json": model["config.json"].replace(b"llama", b"olmoe")}
    put(s3, changed)
    assert content(loaded(asked(s3, lock_of(changed)))) == changed
    assert content(folder) == model
    before = len(s3.seen)
    assert loaded(own) == folder and content(folder) == model
    assert len(s3.seen) == before


def test_what_was_put_into_a_view_is_refused(s3: FaultProxy, model) -> None:
    put(s3, model)
    request = asked(s3, lock_of(model))
    folder = loaded(request)
    (folder / "extra.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"extra\.json: is not in the lock, and an engine might load it"):
        loaded(request)
    (folder / "extra.json").unlink()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("tokenizer_config.json")
    assert content(loaded(request)) == model, "a link that leads elsewhere is mended"


def test_room_is_made_by_the_commit(s3: FaultProxy, model, cache: Path) -> None:
    """Its views go with it, and the blobs that only they have."""
    put(s3, model)
    loaded(asked(s3, lock_of(model)))
    changed = {**model, "config.json": b"{ }"}
    put(s3, changed)
    loaded(asked(s3, lock_of(changed)))
    assert len(snapshots()[1]) == 1
    assert make_room(0) == [], "this process uses it"
    for lock in (cache / ".llm-serve" / "used").iterdir():
        lock.unlink()
    assert len(make_room(0)) == 1
    assert [path for path in (cache / "models--acme--model").rglob("*") if path.is_file() or path.is_symlink()] == []


def test_the_blobs_of_another_commits_view_stay(s3: FaultProxy, model, cache: Path) -> None:
    put(s3, model)
    own = lock_of(model)
    folder = loaded(asked(s3, own))
    changed = {**model, "config.json": b"{ }"}
    put(s3, changed)
    loaded(asked(s3, lock_of(changed)))
    put(s3, model, commit="d" * 40)
    other = loaded(asked(s3, lock_of(model, "d" * 40)))
    (cache / ".llm-serve" / "used" / f"models--acme--model@{'d' * 40}").unlink()
    snapshot_ = cache / "models--acme--model" / "snapshots" / ("d" * 40)
    os.utime(snapshot_, (1, 1))
    assert [each.folder for each in make_room(0)] == [snapshot_]
    assert not other.exists() and content(folder) == model


def test_what_only_another_commit_has_may_go_and_is_not_counted_on(s3: FaultProxy, model) -> None:
    """Until its turn has come: then nobody makes room, and it is not fetched again."""
    for commit, files in (("a" * 40, {"config.json": model["config.json"]}), ("b" * 40, model)):
        put(s3, model, commit)
        loaded(asked(s3, lock_of(files, commit)))
    put(s3, model, "a" * 40)
    request = asked(s3, lock_of(model, "a" * 40))
    with pytest.raises(WeightsError, match="does not hold all files that are locked"):
        cached(request)
    before = [each.path for each in s3.seen if "model.safetensors" in each.path and each.range]
    assert content(loaded(request)) == model
    assert [each.path for each in s3.seen if "model.safetensors" in each.path and each.range] == before


def test_what_the_hubs_own_tools_have_fetched(tmp_path: Path, cache: Path, model) -> None:
    """Small files are named by git's digest there, and copies of a cache may have files where links were."""
    request, folder = _stored(tmp_path, model)
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(model["config.json"])
    (folder / "other.json").write_text("{}")
    view = held(request)
    check_content(request, view)
    assert content(view) == model


def test_a_cache_that_can_only_be_read(
    tmp_path: Path, model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request, folder = _stored(tmp_path, model)

    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(Path, "symlink_to", refuse)
        assert obtain(request, Pace(), Phases()) == folder
        assert "Read-only file system: the commit's folder is loaded as it is" in caplog.text
        (folder / "extra.json").write_text("{}")
        with pytest.raises(WeightsError, match=r"extra\.json: is not in the lock"):
            check_content(request, held(request))
        (folder / "extra.json").unlink()
        blob = (folder / "config.json").readlink()
        (folder / "config.json").unlink()
        (folder / "config.json").write_text("{}")
        with pytest.raises(WeightsError, match=r"config\.json is damaged"):
            held(request)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(blob)
    view = held(request)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert held(request) == view, "there is one already"


def _stored(tmp_path: Path, model: dict[str, bytes]) -> tuple[Request, Path]:
    folder = store("acme/model", {name: tmp_path / "source" / name for name in model})
    assert folder == snapshot("acme/model", "main")
    lock: WeightsLock = lock_of(model, folder.name)
    return Request("acme/model", lock=lock), folder


def test_a_mirror_is_filled_from_a_view(s3: FaultProxy, model, tmp_path: Path) -> None:
    from runtime.weights.commands import push
    from tests.runtime.support import arguments_for

    put(s3, {**model, **LARGE})
    loaded(asked(s3, lock_of({"config.json": model["config.json"], **LARGE})))
    mirror = {"s3_mirror_config": {"bucket_uri": "s3://models/m/", "endpoint_url": s3.url}}
    arguments = arguments_for({"type": "SingleDevice"}, initialization=mirror, lock=lock_of(model).model_dump())
    push(arguments, str(tmp_path / "mirror"))
    assert content(tmp_path / "mirror").keys() == {*model, "hash"}
    assert bucket(s3).list_objects_v2(Bucket="models")["KeyCount"] == len({**model, **LARGE}) + 1
