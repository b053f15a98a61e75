"""Ends vLLM's processes when the one that started them is killed: by themselves they stay, and keep the GPU's memory.

A process of its own waits for the end of its standard input, which the kernel brings about however that one ends.
"""

import select
import subprocess
import sys
from contextlib import suppress

import psutil

_LOOK_S = 0.5


class Guard:
    """Guards all processes that this one has by the time of `complete`, while they are started too."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", __name__, str(psutil.Process().pid)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def complete(self) -> None:
        """There will be no more of them."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def leave(self) -> None:
        """They have ended in peace."""
        self._process.kill()
        self._process.communicate()


def _watch(parent: psutil.Process) -> None:
    guarded: set[psutil.Process] = set()
    complete = False
    while True:
        with suppress(psutil.NoSuchProcess):
            guarded |= set() if complete else set(parent.children(recursive=True))
        if select.select([sys.stdin], [], [], None if complete else _LOOK_S)[0]:
            if not sys.stdin.readline():
                break
            with suppress(psutil.NoSuchProcess):
                guarded |= set(parent.children(recursive=True))
            complete = True
    for process in guarded - {psutil.Process()}:
        with suppress(psutil.NoSuchProcess):  # it knows itself by more than its number, which may come again
            process.kill()


if __name__ == "__main__":
    _watch(psutil.Process(int(sys.argv[1])))
