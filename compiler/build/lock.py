"""One build at a time in a project. The lock goes with its process, however that ends."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compiler.build.disk import explained
from compiler.build.places import LOCK

_PATIENCE_S = 1.0
_POLL_S = 0.02


@contextmanager
def locked(root: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock. `waiting` is told once, after a second, which process has it. Raises ConfigErrors (E501)."""
    with explained(LOCK):
        (root / LOCK).parent.mkdir(exist_ok=True)
        handle = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with explained(LOCK):
            _take(handle, waiting)
        yield
    finally:
        os.close(handle)


def _take(handle: int, waiting: Callable[[str], None]) -> None:
    start, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told and time.monotonic() - start > _PATIENCE_S:
                waiting(os.pread(handle, 20, 0).decode("ascii", "replace"))
                told = True
            time.sleep(_POLL_S)
        else:
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            return
