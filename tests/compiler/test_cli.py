"""What a person, a shell and a machine see of `llm-serve`."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from compiler import cli, exits
from compiler.report.printing import Progress
from runtime.access.keys import FILE, keys_from
from tests.compiler.support import ENGINE, write

GOOD = {"base/defaults.yaml": ENGINE, "registry/acme--a.yaml": "model_config: {model_id: acme/a}\n"}
LOCK = """\
repository: {}
revision: main
commit: 0123456789abcdef0123456789abcdef01234567
files: [{{path: model.gguf, size: 1, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}}]
"""
BROKEN = {"registry/acme--a.yaml": "model_config: {model_id: acme/a\n"}


def run(*arguments: str) -> int:
    """The exit code, however it is given."""
    try:
        return cli.main(list(arguments))
    except SystemExit as done:
        return int(done.code or 0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def generated(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project / "generated").rglob("*") if path.is_file()}


def test_help_shows_examples(capsys) -> None:
    assert run("--help") == 0
    assert "examples:\n  llm-serve compile " in capsys.readouterr().out
    assert run("compile", "--help") == 0
    assert "--check" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["compil"], ["compile", "--chek"], ["compile", "--format", "xml"], ["compile", "x"]]
)
def test_wrong_usage_is_64_and_says_where_help_is(arguments: list[str], capsys) -> None:
    assert run(*arguments) == exits.WRONG_USAGE
    assert "see `llm-serve --help`" in capsys.readouterr().err


def test_a_project_is_found_from_a_folder_inside(project: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(project / "base")
    assert run("compile") == 0
    assert (project / "generated" / "serve.yaml").exists()


def test_without_a_project_there_is_nothing_to_do(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("compile") == exits.WRONG_CONFIG
    assert "there is no registry/" in capsys.readouterr().err
    assert run("compile", "--root", str(tmp_path / "none")) == exits.WRONG_CONFIG
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_generated_as_it_was(project: Path, capsys) -> None:
    assert run("compile") == 0
    before = generated(project)
    write(project, BROKEN)
    write(project, {"registry/acme--b.yaml": "model_config: {model_id: acme/b}\n"})
    assert run("compile") == exits.WRONG_CONFIG
    assert generated(project) == before
    assert "registry/acme--a.yaml:1:" in capsys.readouterr().err


def test_check_shows_what_would_change_and_writes_nothing(project: Path, capsys) -> None:
    assert run("compile", "--check") == exits.DIFFERENT
    assert not (project / "generated").exists()
    assert run("compile") == run("compile", "--check") == 0
    edited = project / "generated" / "serve.yaml"
    edited.write_text(edited.read_text().replace("max_replicas: 1", "max_replicas: 9"))
    capsys.readouterr()
    assert run("compile", "--check") == exits.DIFFERENT
    printed = capsys.readouterr()
    assert "-          max_replicas: 9\n+          max_replicas: 1\n" in printed.out
    assert "1 file differs" in printed.err
    assert "max_replicas: 9" in edited.read_text()


def test_a_second_compile_writes_nothing(project: Path, capsys) -> None:
    run("compile")
    times = {path: path.stat().st_mtime_ns for path in project.rglob("generated/**/*")}
    capsys.readouterr()
    assert run("compile") == 0
    assert "generated/ was up to date" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in project.rglob("generated/**/*")} == times


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("a", "warning: 1 model without a lock (acme--a): see `llm-serve lock`\n"),
        ("abc", "warning: 3 models without a lock (acme--a, acme--b, acme--c): see `llm-serve lock`\n"),
        ("abcd", "warning: 4 models without a lock: see `llm-serve lock`\n"),
    ],
)
@pytest.mark.parametrize(
    "command", ["compile", "compile --check", "compile --format json", "compile --check --format json", "lint"]
)
def test_models_without_a_lock_are_one_line(project: Path, capsys, command: str, models: str, said: str) -> None:
    write(project, {f"registry/acme--{each}.yaml": f"model_config: {{model_id: acme/{each}}}\n" for each in models})
    assert run("compile") == 0
    assert capsys.readouterr().err == said
    assert run(*command.split()) == 0
    assert capsys.readouterr().err == said, "with nothing to do too"


def test_a_compile_with_nothing_to_do_knows_the_models_without_a_lock(project: Path, monkeypatch, capsys) -> None:
    for file in project.rglob("*.yaml"):
        os.utime(file, (1, 1))  # what has just been written is read again
    assert run("compile") == 0
    said = capsys.readouterr().err
    monkeypatch.setattr("compiler.verbs.compile.make", None)
    assert run("compile") == 0
    assert capsys.readouterr().err == said != ""


def test_json_names_each_model_without_a_lock(project: Path, capsys) -> None:
    names = [f"acme--{each}" for each in "abcdef"]
    write(
        project, {f"registry/{name}.yaml": f"model_config: {{model_id: {name.replace('--', '/')}}}\n" for name in names}
    )
    for command in ("compile", "compile --check", "lint"):
        assert run(*command.split(), "--format", "json") == 0
        assert json.loads(capsys.readouterr().out)["unlocked"] == names


def test_a_lock_and_a_model_that_nobody_serves_end_the_warning(project: Path, capsys) -> None:
    write(project, {"registry/acme--b.yaml": "enabled: false\nmodel_config: {model_id: acme/b}\n"})
    assert run("compile") == 0
    assert "1 model without a lock (acme--a)" in capsys.readouterr().err
    write(project, {"registry/locks/acme--a.yaml": LOCK.format("acme/a")})
    for command in ("compile", "compile", "compile --check", "lint"):
        assert run(*command.split()) == 0
        assert capsys.readouterr().err == ""
    (project / "registry/locks/acme--a.yaml").unlink()
    assert run("compile") == 0
    assert "1 model without a lock (acme--a)" in capsys.readouterr().err


def test_json_is_one_object_with_places(project: Path, capsys) -> None:
    assert run("compile", "--format", "json") == 0
    assert "generated/serve.yaml" in json.loads(capsys.readouterr().out)["changes"]
    write(project, {"registry/acme--a.yaml": "model_config: {model_id: acme/a}\nwarmup: true\n"})
    assert run("compile", "--format", "json") == exits.WRONG_CONFIG
    (finding,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert (finding["severity"], finding["code"]) == ("error", "E301")
    assert finding["help"] == "`warmup` belongs to `model_config.warmup`"
    assert finding["primary"]["span"] == {
        "file": "registry/acme--a.yaml", "line": 2, "column": 1, "end_line": 2, "end_column": 7,
    }  # fmt: skip


def test_a_bug_of_ours_is_70_and_no_traceback(project: Path, monkeypatch, capsys) -> None:
    def bug(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("compiler.verbs.compile.make", bug)
    assert run("compile") == exits.OUR_BUG
    printed = capsys.readouterr().err
    assert "internal error: KeyError: 'oops'" in printed and "Traceback" not in printed
    with pytest.raises(KeyError):
        run("compile", "--traceback")


class Terminal:
    """A standard error that is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("number", ["x", "-1", "1.5", ""])
def test_a_number_that_is_none_is_named(project: Path, capsys: pytest.CaptureFixture[str], number: str) -> None:
    assert run("compile", f"--jobs={number}") == exits.WRONG_USAGE
    assert f"argument --jobs: `{number}` is not a number from 0 on" in capsys.readouterr().err


def test_a_long_build_shows_a_bar_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("compiler.report.printing.time.monotonic", lambda: clock[0])
    for looks in (True, False):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr(terminal, "isatty", lambda looks=looks: looks)
        progress = Progress()
        progress(0, 10)
        assert terminal.text == "", "a second has not passed"
        clock[0] += 2
        progress(5, 10)
        assert ("5/10" in terminal.text) is looks
        progress(10, 10)
        assert terminal.text.endswith("\r") is looks, "the bar goes when it is done"


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(project: Path, monkeypatch, no_colour: str, coloured: bool) -> None:
    write(project, BROKEN)
    monkeypatch.setenv("NO_COLOR", no_colour)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run("compile")
    assert ("\x1b[" in terminal.text) is coloured


def test_what_a_file_says_cannot_steer_the_terminal(project: Path, capsys) -> None:
    write(project, {"registry/acme--a.yaml": 'model_config: {"\\e[2Jx": 1}\n# \u202e\n'})
    assert run("compile") == exits.WRONG_CONFIG
    printed = capsys.readouterr().err
    assert "\x1b" not in printed and "\u202e" not in printed


def test_a_reader_that_leaves_is_no_bug(project: Path) -> None:
    write(project, {f"registry/acme--m{n}.yaml": f"model_config: {{model_id: acme/m{n}}}\n" for n in range(99)})
    program = f"{sys.executable} -m compiler.cli compile --check"
    done = subprocess.run(["bash", "-c", f"{program} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (exits.READER_GONE, "")


def test_a_terminal_without_unicode_shows_numbers(project: Path) -> None:
    write(project, {"registry/acme--a.yaml": "model_config: {model_id: acme/a, model_description: caf\u00e9}\n"})
    done = subprocess.run(
        [sys.executable, "-m", "compiler.cli", "compile", "--check"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == exits.DIFFERENT
    assert "caf\\xe9" in done.stdout


def test_version(capsys) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"llm-serve {version('llm-serve')}\n"


def test_a_new_key_opens_by_its_entry(tmp_path: Path, capsys) -> None:
    entries, shown = "", []
    for name in ("team-a", "team.b"):
        assert run("keys", "new", name) == 0
        printed = capsys.readouterr()
        entries += printed.out
        shown.append(re.search(r"sk-[\w-]{43}$", printed.err, re.MULTILINE)[0])
        assert shown[-1] not in printed.out
    file = tmp_path / "keys.toml"
    file.write_text(entries)
    file.chmod(0o600)
    keys = keys_from({FILE: str(file)})
    assert [keys.find(key.encode()).name for key in shown] == ["team-a", "team.b"]


@pytest.mark.parametrize("name", ["", "a b", "a\n", "a\x1b[31m", "x" * 65, '"'])
def test_a_key_needs_a_name_that_logs_can_show(capsys, name: str) -> None:
    assert run("keys", "new", name) == exits.WRONG_CONFIG
    printed = capsys.readouterr()
    assert printed.out == "" and "is no name" in printed.err
