"""One build at a time; a dead process holds no lock."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from compiler.build.lock import locked
from compiler.build.places import LOCK
from compiler.diagnostics import ConfigErrors

HOLDER = """
import sys
from pathlib import Path
from compiler.build.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(root: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock until its input is closed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, root], **pipes, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def hold_for(seconds: float, process: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on only while somebody sleeps."""
    now = 0.0

    def sleep(duration: float) -> None:
        nonlocal now
        now += duration
        if now >= seconds:
            process.communicate()

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr("compiler.build.lock.time", clock)


def test_who_waits_is_told_for_whom_after_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with holder(tmp_path) as process:
        hold_for(1.5, process, monkeypatch)
        with locked(tmp_path, told.append):
            assert process.returncode == 0
    assert told == [str(process.pid)]


def test_a_short_wait_is_not_worth_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path) as process:
        hold_for(0.9, process, monkeypatch)
        with locked(tmp_path, lambda _: pytest.fail("told")):
            assert process.returncode == 0


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with locked(tmp_path, lambda _: pytest.fail("waited")):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK).parent.mkdir()
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigErrors, match=r"cannot write \.llm-serve/lock"), locked(tmp_path, print):
        pass
    assert not (tmp_path / "elsewhere").exists()
