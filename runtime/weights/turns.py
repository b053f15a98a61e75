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
    handle = _opened(_turn_lock(name))
    try:
        _wait(handle, name)

        def note(line: str) -> None:
            os.pwrite(handle, f"{line}\n".encode(), 0)
            os.ftruncate(handle, len(line.encode()) + 1)

        note(f"process {os.getpid()} begins")
        yield note
    finally:
        os.close(handle)


@contextmanager
def if_nobody(name: str, snapshot: Path) -> Iterator[bool]:
    """Hold what `name` stands for and a snapshot, where nobody holds the one nor uses the other; whether that is so."""
    with _if_free(_turn_lock(name)) as nobody_fetches, _if_free(_use_lock(snapshot)) as nobody_uses:
        yield nobody_fetches and nobody_uses


@contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    handle = _opened(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_free = False
    else:
        is_free = True
    try:
        yield is_free
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _turn_lock(name: str) -> Path:
    return state_folder("fetching") / f"{name}.lock"


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
            _log.info("%s: another process of this node is at it: %s", name, line)
        time.sleep(_LOOK_EVERY_S)


_held: dict[Path, int] = {}
"""Locks that are held until the process ends."""


def use(snapshot: Path) -> None:
    """Say that this process uses a snapshot for as long as it lives, and that it was used now.

    Whoever removes it at this moment is waited for.
    """
    lock = _use_lock(snapshot)
    if lock in _held:
        os.utime(_held[lock])
        return
    try:
        handle = _opened(lock)
    except OSError as error:  # a cache that is mounted for reading, where nobody makes room either
        _log.warning("%s: %s: nobody knows that this process uses the model", lock, error.strerror)
        return
    fcntl.flock(handle, fcntl.LOCK_SH)
    os.utime(handle)
    _held[lock] = handle


def last_used(snapshot: Path) -> float:
    """When a snapshot was used last, in seconds since 1970; when it was made, if it never was."""
    lock = _use_lock(snapshot)
    return (lock if lock.exists() else snapshot).stat().st_mtime


def is_used(snapshot: Path) -> bool:
    """Whether a process of this node uses it now."""
    lock = _use_lock(snapshot)
    if not lock.exists():
        return False
    with _if_free(lock) as is_free:
        return not is_free


def _use_lock(snapshot: Path) -> Path:
    return state_folder("used") / f"{snapshot.parent.parent.name}@{snapshot.name}"
