"""Golden sessions: a folder is a project with a file `commands`; what each prints lies in `expected/session.txt`.

Beside it lie the files that the commands have written. `pytest --snapshot-update` writes `expected/` anew.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.compiler.test_cases import SECONDS, files_under, write
from tests.compiler.test_cli import run

SESSIONS = Path(__file__).parent / "sessions"
VERSION = re.compile(r'"version": "0\.[\d.]+"')


@pytest.mark.parametrize("name", sorted(folder.name for folder in SESSIONS.iterdir()))
def test_session(name: str, tmp_path: Path, capsys, monkeypatch, request: pytest.FixtureRequest) -> None:
    project = tmp_path / "project"
    shutil.copytree(SESSIONS / name, project, ignore=shutil.ignore_patterns("expected"))
    before = files_under(project)
    monkeypatch.chdir(project)
    said = ""
    for line in (project / "commands").read_text().splitlines():
        exit_code = run(*shlex.split(line))
        printed = capsys.readouterr()
        said += f"$ llm-serve {line}\n{printed.out}{printed.err}"
        said += f"exit code {exit_code}\n\n"
    said = VERSION.sub('"version": "N"', SECONDS.sub("in N s", said))
    after = {path: data for path, data in files_under(project).items() if before.get(path) != data}
    gone = {f"{path}.gone": b"" for path in before if not (project / path).exists()}
    found = {**after, **gone, "session.txt": said.encode()}
    if request.config.getoption("update_snapshots"):
        write(SESSIONS / name / "expected", found)
    assert found == files_under(SESSIONS / name / "expected")
