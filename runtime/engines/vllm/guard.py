"""Ends vLLM's processes when the one that started them is killed: by themselves they stay, and keep the GPU's memory.

A process of its own waits for the end of its standard input, which the kernel brings about however that one ends.
"""

import subprocess
import sys
from contextlib import suppress

import psutil


def guard_children() -> "subprocess.Popen[bytes]":
    """Guard the processes that this one has started so far. Whoever ends them in peace kills the guard."""
    started = [f"{child.pid}:{child.create_time()}" for child in psutil.Process().children(recursive=True)]
    command = [sys.executable, "-m", __name__, *started]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _wait_and_kill(guarded: list[str]) -> None:
    """`guarded`: pid:start, since a number may come again."""
    sys.stdin.read()
    for each in guarded:
        pid, _, start = each.partition(":")
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.create_time() == float(start):
                process.kill()


if __name__ == "__main__":
    _wait_and_kill(sys.argv[1:])
