"""Golden cases: a folder is a project, and what `llm-serve compile` makes of it lies in its `expected/`.

`pytest --snapshot-update` writes `expected/` anew; read its diff before you commit it.
"""

import re
import shutil
from pathlib import Path

import pytest

from compiler.cli import main
from compiler.codes import CODES

CASES = Path(__file__).parent / "cases"
NAMES = sorted(folder.name for folder in CASES.iterdir())
SECONDS = re.compile(r"in \d+\.\d\d s")

NOT_OF_A_COMPILE = ["E503", "E504"]
"""See test_generations.py and test_cache.py in tests/compiler/build."""

Files = dict[str, bytes]


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    project = tmp_path / "project"
    shutil.copytree(CASES / name, project, ignore=shutil.ignore_patterns("expected"))
    before = files_under(project)
    exit_code = main(["compile", "--root", str(project)])
    after, printed = files_under(project), capsys.readouterr()
    output = f"{SECONDS.sub('in N s', printed.out)}{printed.err}exit code {exit_code}\n"
    found = {path: data for path, data in after.items() if before.get(path) != data} | {"output.txt": output.encode()}
    assert [path for path in found if not path.startswith(("generated/", "output.txt"))] == [], "sources were written"
    if exit_code:
        assert after == before, "there are errors, and something was written all the same"
    else:
        assert main(["compile", "--check", "--root", str(project)]) == (2 if "not ours" in str(before) else 0)
    if request.config.getoption("update_snapshots"):
        write(CASES / name / "expected", found)
    assert found == files_under(CASES / name / "expected")


def test_every_code_has_a_case() -> None:
    printed = "".join((CASES / name / "expected" / "output.txt").read_text() for name in NAMES)
    assert [code for code in CODES if f"[{code}]" not in printed] == NOT_OF_A_COMPILE


def test_no_case_shows_a_path_of_the_machine() -> None:
    for path in CASES.rglob("expected/**/*"):
        assert path.is_dir() or not re.search(rb"/tmp|/home|/root|/work", path.read_bytes()), path


def files_under(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".llm-serve" not in path.parts
    }


def write(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
