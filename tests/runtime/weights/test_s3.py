"""A mirror in a bucket, over the wire: what is there is fetched and checked, what breaks is mended or told."""

import hashlib
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.phases import Phases
from runtime.schema.lock import WeightsLock
from runtime.schema.weights import S3MirrorConfig
from runtime.weights.durability import wait_until_safe
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.sources import obtain
from tests.runtime.weights.conftest import bucket
from tests.runtime.weights.models import write_model
from tests.runtime.weights.servers import FAULTS, FaultProxy

COMMIT = "c0ffee" * 6 + "c0ff"
IN_FULL = os.environ.get("HYPOTHESIS_PROFILE") == "full"
PACE = Pace(connections=4, part_bytes=64 << 10, note_bytes=16 << 10, sleep=lambda _: None)


def put(proxy: FaultProxy, files: dict[str, bytes], commit: str | None = COMMIT, prefix: str = "m/") -> None:
    client = bucket(proxy)
    for name, data in {**files, **({"hash": f"{commit}\n".encode()} if commit else {})}.items():
        client.put_object(Bucket="models", Key=f"{prefix}{name}", Body=data)


def lock_of(files: dict[str, bytes], commit: str = COMMIT) -> WeightsLock:
    entries = [
        {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    ]
    return WeightsLock.model_validate({"commit": commit, "files": entries})


def asked(proxy: FaultProxy, lock: WeightsLock | None = None, *flags: str, **more) -> Request:
    mirror = S3MirrorConfig(bucket_uri="s3://models/m/", endpoint_url=proxy.url, s3_sync_args=list(flags))
    return Request("acme/model", lock=lock, mirror=mirror, **more)


def fetch(request: Request, pace: Pace = PACE) -> Path:
    return obtain(request, pace, Phases())


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    return write_model(tmp_path / "source", 500_000)


@pytest.mark.parametrize("locked", [True, False])
def test_the_original_mirrors_layout_becomes_the_hubs(s3: FaultProxy, model, cache: Path, locked: bool) -> None:
    put(s3, {**model, "pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "README.md": b"x"})
    folder = fetch(asked(s3, lock_of(model) if locked else None))
    snapshot = cache / "models--acme--model" / "snapshots" / COMMIT
    assert content(folder) == content(snapshot) == model
    assert (folder == snapshot) is not locked
    assert (cache / "models--acme--model" / "refs" / "main").read_text() == COMMIT
    assert {path.name for path in (cache / "models--acme--model" / "blobs").iterdir()} == {
        hashlib.sha256(data).hexdigest() for data in model.values()
    }
    assert all(each.range for each in s3.seen if "model.safetensors" in each.path and each.method == "GET")


def test_a_locked_model_in_the_cache_asks_nobody(s3: FaultProxy, model) -> None:
    put(s3, model)
    request = asked(s3, lock_of(model))
    folder, before = fetch(request), len(s3.seen)
    assert fetch(request) == folder
    assert len(s3.seen) == before


def test_what_was_fetched_is_not_read_again(s3: FaultProxy, model, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, model)
    request = asked(s3, lock_of(model))
    folder = fetch(request)
    wait_until_safe()
    monkeypatch.setattr("runtime.weights.digests.digest_of", lambda *_: pytest.fail("a file was read again"))
    assert fetch(request) == folder


def test_an_unlocked_model_follows_its_mirror(s3: FaultProxy, model) -> None:
    put(s3, model)
    first, before = fetch(asked(s3)), s3.bodies()
    assert fetch(asked(s3)) == first
    assert s3.bodies() - before < 1000, "only `hash` is read again"
    changed = {**model, "config.json": b"{}"}
    put(s3, changed, commit="d" * 40)
    assert content(fetch(asked(s3))) == changed
    s3.choose = lambda *_: "500"
    assert content(fetch(asked(s3))) == changed, "no source answers: what is there is used"


def test_a_file_that_changed_under_the_same_hash(s3: FaultProxy, model) -> None:
    put(s3, model)
    fetch(asked(s3))
    changed = {**model, "config.json": model["config.json"].replace(b"llama", b"olmoe")}
    assert len(changed["config.json"]) == len(model["config.json"])
    put(s3, changed)
    assert content(fetch(asked(s3))) == changed


def test_a_mirror_without_hash_is_named_by_its_content(s3: FaultProxy, model) -> None:
    put(s3, model, commit=None)
    assert content(fetch(asked(s3))) == model
    assert content(fetch(asked(s3, lock_of(model)))) == model


def test_a_commit_without_a_lock_needs_a_mirror_with_hash(s3: FaultProxy, model) -> None:
    put(s3, model, commit=None)
    with pytest.raises(WeightsError, match=f"s3://models/m has no `hash`, and commit {COMMIT} is asked for"):
        fetch(asked(s3, revision=COMMIT))
    put(s3, model)
    assert content(fetch(asked(s3, revision=COMMIT))) == model


def test_what_is_not_as_locked_is_never_found(s3: FaultProxy, model, cache: Path) -> None:
    put(s3, {**model, "model.safetensors": model["model.safetensors"][:-1] + b"X"})
    with pytest.raises(WeightsError, match=r"s3://models/m/model\.safetensors: its sha256 is .* expected, 2 times"):
        fetch(asked(s3, lock_of(model)))
    put(s3, {**model, "config.json": b"{}"})
    with pytest.raises(WeightsError, match=r"s3://models/m/config\.json: has 2 bytes, and \d+ are locked"):
        fetch(asked(s3, lock_of(model)))
    put(s3, model, commit="d" * 40)
    with pytest.raises(WeightsError, match=f"holds commit {'d' * 40}, and {COMMIT} is asked for"):
        fetch(asked(s3, lock_of(model)))
    assert not (cache / "models--acme--model" / "snapshots").exists()


def test_a_damaged_blob_is_fetched_again(s3: FaultProxy, model, cache: Path) -> None:
    put(s3, model)
    request = asked(s3, lock_of(model))
    blob = (fetch(request) / "config.json").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    os.utime(blob, (1, 1))  # another time, however rarely the clock ticks
    assert content(fetch(request)) == model


def test_a_damaged_blob_of_an_unlocked_model(s3: FaultProxy, model) -> None:
    put(s3, model)
    blob = (fetch(asked(s3)) / "config.json").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    os.utime(blob, (1, 1))  # another time, however rarely the clock ticks
    assert content(fetch(asked(s3))) == model
    blob.write_bytes(b"!")
    s3.choose = lambda *_: "500"
    with pytest.raises(WeightsError, match=r"bad checksum: .*config\.json is damaged"):
        fetch(asked(s3))


def test_errors_say_what_is_missing(s3: FaultProxy, model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"s3://models/m/config\.json: is not there, says http://127"):
        fetch(asked(s3, lock_of(model)))
    with pytest.raises(WeightsError, match=r"s3://models/m: .*no safetensors files: no weights"):
        fetch(asked(s3))
    put(s3, {"pytorch_model.bin": b"x"})
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin, which may run code"):
        fetch(asked(s3))
    put(s3, {"../../../evil.json": b"x"})
    with pytest.raises(WeightsError, match=r"'\.\./\.\./\.\./evil\.json' is no name"):
        fetch(asked(s3))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(WeightsError, match=r"there are no credentials; set AWS_ACCESS_KEY_ID .*--no-sign-request"):
        fetch(asked(s3))
    with pytest.raises(WeightsError, match=r"s3://models/m/hash: access denied; a request without signature has not"):
        fetch(asked(s3, None, "--no-sign-request"))


def test_a_public_bucket_needs_no_credentials(s3: FaultProxy, model, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, model)
    for name in (*model, "hash"):
        bucket(s3).put_object_acl(Bucket="models", Key=f"m/{name}", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert content(fetch(asked(s3, lock_of(model), "--no-sign-request"))) == model


def test_keys_that_differ_in_case_alone(s3: FaultProxy, model) -> None:
    put(s3, {**model, "Config.json": b"{}"})
    with pytest.raises(WeightsError, match=r"differs from .onfig\.json in case only"):
        fetch(asked(s3))


def test_filters_of_s3_sync(s3: FaultProxy, model) -> None:
    put(s3, {**model, "extra.json": b"{}"})
    assert content(fetch(asked(s3, None, "--exclude", "extra*"))) == model


def test_a_list_in_several_pages(s3: FaultProxy, model, cache: Path) -> None:
    put(s3, model)
    s3.page_size = 2
    assert content(fetch(asked(s3))) == model
    fault = "no next page"
    s3.choose = lambda _, path: fault if "list-type" in path else None
    cold = asked(s3, None)
    (cache / "models--acme--model").rename(cache / "away")
    with pytest.raises(WeightsError, match="the list of its files breaks off"):
        fetch(cold)
    s3.choose = lambda _, path: "500" if "continuation-token" in path else None
    with pytest.raises(WeightsError, match=r"s3://models/m/: gave up after 6 attempts"):
        fetch(cold)


def test_an_index_whose_shards_are_not_listed(s3: FaultProxy, model) -> None:
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    shards = {"model-00001-of-00002.safetensors": model["model.safetensors"], "model.safetensors.index.json": index}
    put(s3, shards)
    with pytest.raises(WeightsError, match=r"names model-00002-of-00002\.safetensors"):
        fetch(asked(s3))


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_of_each_kind_is_mended(s3: FaultProxy, model, fault: str) -> None:
    put(s3, model)
    left = [fault]
    s3.choose = lambda method, path: left.pop() if left and method == "GET" and "safetensors" in path else None
    assert content(fetch(asked(s3, lock_of(model)))) == model
    assert s3.faults == [fault]


@pytest.mark.parametrize(("fault", "problem"), [("no date", "timestamp"), ("no size", "the answer has no `Size`")])
def test_a_list_that_cannot_be_read_is_asked_for_again(s3: FaultProxy, model, fault: str, problem: str) -> None:
    put(s3, model)
    s3.choose = lambda _, path: fault if "list-type=2" in path and not s3.faults else None
    assert content(fetch(asked(s3))) == model
    s3.choose = lambda _, path: fault if "list-type=2" in path else None
    with pytest.raises(WeightsError, match=rf"s3://models/m/: gave up after 6 attempts: .*{problem}"):
        fetch(asked(s3, revision="dev"))


def test_a_file_without_etag_is_asked_for_again(s3: FaultProxy, model) -> None:
    put(s3, model)
    s3.choose = lambda method, _: "no etag" if method == "HEAD" else None
    with pytest.raises(WeightsError, match=r"s3://models/m/.*: gave up after 6 attempts: the answer has no `ETag`"):
        fetch(asked(s3, lock_of(model)))
    left = ["no etag"]
    s3.choose = lambda method, _: left.pop() if left and method == "HEAD" else None
    assert content(fetch(asked(s3, lock_of(model)))) == model


def test_half_a_hash_is_asked_for_again(s3: FaultProxy, model) -> None:
    put(s3, model)
    s3.choose = lambda method, path: "truncated" if method == "GET" and "/hash" in path and not s3.faults else None
    assert content(fetch(asked(s3, lock_of(model)))) == model
    assert s3.faults == ["truncated"]


def test_a_part_goes_on_where_it_broke_off(s3: FaultProxy, model) -> None:
    """Half of the requests break off in the middle: still hardly a byte comes twice."""
    put(s3, model)
    turn = iter(range(1000))
    s3.choose = lambda method, path: "truncated" if "safetensors" in path and next(turn) % 2 == 0 else None
    patient = replace(PACE, attempts=100)  # one part may meet all that break off
    assert content(fetch(asked(s3, lock_of(model)), patient)) == model
    size = sum(map(len, model.values()))
    assert s3.bodies() < 1.1 * size
    starts = {int(each.range.removeprefix("bytes=").partition("-")[0]) for each in s3.seen if each.range}
    assert any(start % PACE.part_bytes for start in starts), "no request has gone on in the middle of a part"


def test_any_faults_leave_a_whole_model_or_none(s3: FaultProxy, model, cache: Path) -> None:
    """Random faults at random requests, often more than are mended."""
    put(s3, model)
    locked, random_, failed = lock_of(model), random.Random(7), 0

    def fault(path: str, share: float) -> str | None:
        has_digest = any(name in path for name in model)  # one that flips in a list or in `hash` may be believed
        kinds = [each for each in FAULTS if has_digest or each != "bit flip"]
        return random_.choice(kinds) if random_.random() < share else None

    wanted = 200 if IN_FULL else 30
    for number in range(10 * wanted):
        if len(s3.faults) >= wanted and failed:
            break
        share = random_.choice([0.1, 0.4, 0.9])
        s3.choose = lambda _, path, share=share: fault(path, share)
        request = asked(s3, locked if random_.random() < 0.7 else None)
        try:
            assert content(fetch(request)) == model
        except WeightsError as error:
            failed += 1
            assert "s3://models/m/" in str(error)
            assert not (cache / "models--acme--model" / "snapshots" / COMMIT).exists()
        else:
            (cache / "models--acme--model").rename(cache / f"done-{number}")
    assert failed and len(s3.faults) >= wanted
    s3.choose = lambda *_: None
    assert content(fetch(asked(s3, locked))) == model


def test_no_room_on_the_disk(s3: FaultProxy, model, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, model)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(WeightsError, match=r"no room in .*blobs: 0\.00 GB are to come .*LLM_SERVE_CACHE"):
        fetch(asked(s3, lock_of(model)))
