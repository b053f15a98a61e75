"""Runs a function in a forked process, which may be killed or find its disk broken: all is loaded there already."""

import os
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import compiler.build.store
from compiler.cli import main

_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}


def run(function: Callable[[], int], kill_after: float | None = None) -> tuple[int, str]:
    """The exit code, negative for a signal's, and all that was printed. `kill_after`: seconds until SIGKILL."""
    read, write = os.pipe()  # not a file, which may have a limit of its own; what is printed fits a pipe
    process = os.fork()
    if process == 0:
        code = 99
        sys.dont_write_bytecode = True  # of what is imported late: whoever counts or watches writes wants the build's
        try:
            os.dup2(write, 1)
            os.dup2(write, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            code = function()
        except BaseException:  # noqa: BLE001 (or the child would go on as a second test run)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    with os.fdopen(read) as printed:
        text = printed.read()
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), text


def compile_in(root: Path, *options: str) -> Callable[[], int]:
    """A compile, as the command line does it."""
    return lambda: main(["compile", "--root", str(root), *options])


def at_each_write(strike: Callable[[], None], number: int) -> None:
    """Have `strike` called before this process touches the disk for the `number`th time.

    Python tells of opening, renaming and removing; writing, syncing and SQLite's statements are listened to by taking
    their place. For good: only for a process that ends with it.
    """
    count = 0

    def next_one() -> None:
        nonlocal count
        count += 1
        if count == number:
            strike()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in _WRITES:
            next_one()

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: object) -> sqlite3.Cursor:
            next_one()
            return super().execute(*arguments)  # type: ignore[arg-type]

        def executemany(self, *arguments: object) -> sqlite3.Cursor:
            next_one()
            return super().executemany(*arguments)  # type: ignore[arg-type]

    connect, fsync, sync = sqlite3.connect, os.fsync, os.sync
    compiler.build.store.sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs)
    os.fsync = lambda handle: (next_one(), fsync(handle))[1]
    os.sync = lambda: (next_one(), sync())[1]
    sys.addaudithook(hook)
