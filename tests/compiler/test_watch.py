"""`compile --watch`, as a person uses it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.exits import INTERRUPTED
from tests.compiler.support import write

MODEL = "model_config:\n  model_id: acme/a\n  max_input_words: {}\n  initialization: {{initializer: {{type: vLLM}}}}\n"


@pytest.fixture
def watching(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    write(tmp_path, {"registry/acme--a.yaml": MODEL.format(1)})
    command = [sys.executable, "-m", "compiler.cli", "compile", "--watch", "--root", str(tmp_path)]
    # A job in the background ignores it, and a child goes on to, unless there is a handler when it starts.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        signal.signal(signal.SIGINT, ours)
        try:
            until(process, "watching registry/")
            yield process
        finally:
            process.kill()


def save(root: Path, name: str, text: str) -> None:
    """At once: a file that is written where it lies is empty for a moment, and the watch may look then."""
    write(root, {"new": text})
    (root / "new").replace(root / "registry" / name)


def until(process: "subprocess.Popen[str]", text: str) -> str:
    """All lines up to one that has `text`."""
    lines = ""
    assert process.stdout is not None
    for line in process.stdout:
        lines += line
        if text in line:
            return lines
    raise AssertionError(f"`{text}` never came:\n{lines}")


def test_a_save_shows_what_it_changes(watching: "subprocess.Popen[str]", tmp_path: Path) -> None:
    save(tmp_path, "acme--a.yaml", MODEL.format(2))
    shown = until(watching, "max_input_words")
    assert "1 model built, 3 files written in 0." in shown
    assert "acme--a  deployments[Model].user_config.max_input_words  1  ->  2" in shown
    assert "max_input_words: 2" in (tmp_path / "generated/models/acme--a.yaml").read_text()


def test_a_model_without_a_lock_is_told_once(watching: "subprocess.Popen[str]", tmp_path: Path) -> None:
    save(tmp_path, "acme--a.yaml", MODEL.format(2))
    assert "without a lock" not in until(watching, "max_input_words")
    save(tmp_path, "acme--b.yaml", MODEL.format(2).replace("acme/a", "acme/b"))
    later = until(watching, "warning: 2 models without a lock (acme--a, acme--b): see `llm-serve lock`")
    assert "1 model without a lock" not in later


def test_a_mistake_is_shown_and_the_watch_goes_on(watching: "subprocess.Popen[str]", tmp_path: Path) -> None:
    save(tmp_path, "acme--a.yaml", MODEL.format("no"))
    assert "must be an integer" in until(watching, "1 error in 1 file; nothing was written")
    save(tmp_path, "acme--a.yaml", MODEL.format(3))
    until(watching, "1  ->  3")


def test_it_ends_when_it_is_interrupted(watching: "subprocess.Popen[str]") -> None:
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == INTERRUPTED
    assert watching.stdout is not None
    assert watching.stdout.read() == ""
