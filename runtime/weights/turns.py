"""One process of a node at a time, and who uses what: locks of the kernel's, which it frees when their holder dies."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.weights.cache import state_folder

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.2
_SAY_EVERY_S = 10.0
_LONGEST_LINE = 4096


@contextmanager
def alone(name: str) -> Iterator[Callable[[str], None]]:
    """Hold what `name` stands for; others wait for as long, and log what this one notes through what it is given."""
    path = state_folder("fetching") / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait(handle, name)

        def note(line: str) -> None:
            os.pwrite(handle, f"{line}\n".encode(), 0)
            os.ftruncate(handle, len(line.encode()) + 1)

        note(f"process {os.getpid()} begins")
        yield note
    finally:
        os.close(handle)


def _wait(handle: int, name: str) -> None:
    said = None
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if said is None or time.monotonic() - said >= _SAY_EVERY_S:
            said = time.monotonic()
            line = os.pread(handle, _LONGEST_LINE, 0).decode("utf-8", "replace").partition("\n")[0]
            _log.info("%s: another process of this node fetches it: %s", name, line)
        time.sleep(_LOOK_EVERY_S)


_held: list[int] = []
"""Locks that are held until the process ends."""


def use(snapshot: Path) -> None:
    """Say that this process uses a snapshot for as long as it lives, and that it was used now."""
    lock = _use_lock(snapshot)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:  # a cache that is mounted for reading, where nobody makes room either
        _log.warning("%s: %s: nobody knows that this process uses the model", lock, error.strerror)
        return
    fcntl.flock(handle, fcntl.LOCK_SH)
    os.utime(handle)
    _held.append(handle)


def last_used(snapshot: Path) -> float:
    """When a snapshot was used last, in seconds since 1970; when it was made, if it never was."""
    lock = _use_lock(snapshot)
    return (lock if lock.exists() else snapshot).stat().st_mtime


def is_used(snapshot: Path) -> bool:
    """Whether a process of this node uses it now."""
    lock = _use_lock(snapshot)
    if not lock.exists():
        return False
    handle = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _use_lock(snapshot: Path) -> Path:
    return state_folder("used") / f"{snapshot.parent.parent.name}@{snapshot.name}"
