"""The way to the process in which chat templates run: one for all templates of this process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, cast

from runtime.errors import EngineError

_COMMAND = (sys.executable, "-P", "-m", "runtime.text.sandbox")
_PASSED_ON = ("TZ", "LANG", "LC_ALL")
"""Variables that it gets, for dates; not one with a secret."""


class RenderingEnded(Exception):
    """The process has ended in the middle of a prompt: it took too much of the machine."""


class Renderer:
    """Starts the process when it is needed, and again when it has ended."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: Mapping[str, Any]) -> dict[str, str]:
        """The process's answer. Blocks. Raises RenderingEnded; EngineError when the process does not start."""
        asked = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            answer = _ask(self._process, asked)
        if not answer:
            raise RenderingEnded
        return cast(dict[str, str], json.loads(answer))

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                _end(self._process)
                self._process = None


def _start() -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100 (an entry may be empty)
    process = subprocess.Popen(
        _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment | {"PYTHONPATH": path}
    )
    if not _ask(process, b""):
        raise EngineError(f"the process for chat templates does not start: `{' '.join(_COMMAND)}` ended at once")
    return process


def _ask(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """The next line; nothing when the process has ended, and then all of it is gone."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = b""
    if not answer:
        _end(process)
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdin is not None and process.stdout is not None
    process.stdout.close()
    with suppress(BrokenPipeError):  # what was left to write
        process.stdin.close()


RENDERER = Renderer()
