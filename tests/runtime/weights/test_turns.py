"""Several processes want one model: one fetches it; and when that one dies, another goes on."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.weights.cache import state_folder
from runtime.weights.turns import alone, is_used, use
from tests.runtime.weights.servers import FaultProxy
from tests.runtime.weights.test_s3 import COMMIT, content, lock_of, put

CHILD = """
import logging, sys, time
from runtime.phases import Phases
from runtime.schema.lock import WeightsLock
from runtime.schema.weights import S3MirrorConfig
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.sources import obtain
logging.basicConfig(level=logging.INFO)
mirror = S3MirrorConfig(bucket_uri="s3://models/m/", endpoint_url=sys.argv[1])
request = Request("acme/model", lock=WeightsLock.model_validate_json(sys.argv[2]), mirror=mirror)
print(obtain(request, Pace(connections=2, part_bytes=64 << 10, note_bytes=16 << 10), Phases()))
"""
ROOT = Path(__file__).resolve().parents[3]


def child(url: str, lock: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, url, lock]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    from tests.runtime.weights.models import write_model

    return write_model(tmp_path / "source", 1_000_000)


def test_four_processes_and_one_download(s3: FaultProxy, model) -> None:
    put(s3, model)
    lock = lock_of(model).model_dump_json()
    children = [child(s3.url, lock) for _ in range(4)]
    outcomes = [each.communicate(timeout=120) for each in children]
    assert [each.returncode for each in children] == [0] * 4, outcomes
    assert len({out for out, _ in outcomes}) == 1
    assert content(Path(outcomes[0][0].strip())) == model
    assert s3.bodies() - len(COMMIT) - 1 == sum(map(len, model.values())), "something was fetched twice"


def test_one_that_is_killed_in_the_middle(s3: FaultProxy, model, cache: Path) -> None:
    """The kernel frees its lock, and the next one goes on with what has come."""
    put(s3, model)
    lock, half, go_on = lock_of(model).model_dump_json(), threading.Event(), threading.Event()
    count = iter(range(10_000))

    def hold(method: str, path: str) -> str | None:
        if method == "GET" and "safetensors" in path and next(count) >= 8:
            half.set()
            go_on.wait(60)
        return None

    s3.choose = hold
    first = child(s3.url, lock)
    assert half.wait(60)
    second = child(s3.url, lock)
    assert second.stderr is not None
    while "another process of this node is at it: " not in second.stderr.readline():
        assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    go_on.set()
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert content(Path(out.strip())) == model
    size = sum(map(len, model.values()))
    assert s3.bodies() < size + 3 * (64 << 10), "more came twice than was under way"
    assert not list((cache / "models--acme--model" / "blobs").glob("*.part*"))


def test_the_lock_tells_how_far_it_is() -> None:
    with alone("models--acme--x") as note:
        note("0.10 of 0.20 GB")
        assert (state_folder("fetching") / "models--acme--x.lock").read_text() == "0.10 of 0.20 GB\n"


def test_what_is_in_use_is_known_until_its_process_ends(cache: Path) -> None:
    folder = cache / "models--acme--x" / "snapshots" / ("c" * 40)
    folder.mkdir(parents=True)
    assert not is_used(folder)
    code = f"import pathlib, sys; from runtime.weights.turns import use; use(pathlib.Path({str(folder)!r}))"
    command = [sys.executable, "-c", f"{code}; print('held', flush=True); sys.stdin.read()"]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert is_used(folder)
    holder.kill()
    holder.communicate(timeout=60)
    assert not is_used(folder)
    use(folder)
    assert is_used(folder)
