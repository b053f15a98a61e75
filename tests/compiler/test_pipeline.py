"""A compile is a function of its sources: nothing else shows in the bytes."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.cli import main
from compiler.diagnostics import ConfigErrors
from compiler.pipeline import compile_project, outputs
from compiler.report.printing import print_diagnostics
from compiler.source.project import Project
from tests.compiler.support import write

REPO = Path(__file__).resolve().parents[2]


def test_what_is_committed_is_what_the_registry_says() -> None:
    compiled = compile_project(Project(REPO))
    assert compiled.found == []
    for path, data in outputs(compiled).items():
        assert (REPO / path).read_bytes() == data, f"{path}: run `make compile`"


def test_every_shipped_model_is_served_somewhere() -> None:
    served = (REPO / "generated/serve.yaml").read_text() + (REPO / "generated/clusters/gpu.yaml").read_text()
    names = [path.stem for path in (REPO / "registry").glob("*.yaml")]
    assert [name for name in names if f"  - name: {name}\n" not in served] == []
    assert len(names) >= 15


def test_the_same_sources_give_the_same_bytes_everywhere(tmp_path: Path) -> None:
    digests = set()
    for number, (seed, locale, zone, umask) in enumerate(
        [("0", "C", "UTC", 0o022), ("1", "C.UTF-8", "Asia/Tokyo", 0o077), ("42", "POSIX", "America/New_York", 0)]
    ):
        root = tmp_path / f"a folder {number}" / ("x" * 10 * number)
        for folder in ("registry", "base"):
            shutil.copytree(REPO / folder, root / folder)
        for path in root.rglob("*.yaml"):
            os.utime(path, (number, number))
        environment = {"PATH": "", "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone, "PYTHONPATH": str(REPO)}
        program = f"import os, sys; os.umask({umask}); from compiler.cli import main; sys.exit(main(['compile']))"
        subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=True, capture_output=True)
        digest = hashlib.sha256()
        for path in sorted((root / "generated").rglob("*.*")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
        digests.add(digest.hexdigest())
    assert len(digests) == 1


def test_a_comment_changes_nothing_that_is_written(tmp_path: Path) -> None:
    file = "registry/acme--a.yaml"
    model = "model_config:\n  model_id: acme/a\n  initialization: {initializer: {type: vLLM}}\n"
    write(tmp_path, {file: model})
    before = outputs(compile_project(Project(tmp_path)))
    write(tmp_path, {file: "# why\n" + model.replace(": acme/a", ":   acme/a  # who")})
    assert outputs(compile_project(Project(tmp_path))) == before


def test_a_mistake_in_a_base_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"registry/m{n}.yaml": f"model_config: {{model_id: a/m{n}}}\n" for n in range(20)}
    engine = "model_config: {initialization: {initializer: {type: vLLM, x: 1}}}\n"
    write(tmp_path, {**files, "base/defaults.yaml": engine})
    with pytest.raises(ConfigErrors) as caught:
        compile_project(Project(tmp_path))
    assert len(caught.value.diagnostics) == 1
    print_diagnostics(caught.value.diagnostics, Project(tmp_path).line)
    assert capsys.readouterr().err.count("unknown key `x`") == 1


SOURCES = sorted(
    path.relative_to(REPO).as_posix() for folder in ("base", "registry") for path in (REPO / folder).rglob("*.yaml")
)
INSERTS = [
    b"[",
    b"}",
    b": ",
    b"\n",
    b"\t",
    b"- ",
    b"&a ",
    b"*a",
    b"!x ",
    b"'",
    b'"',
    b"#",
    b"\xff",
    b"\0",
    b"null",
    b"7",
    b"extends: ",
    b"?",
]


@given(st.data())
def test_no_damage_to_a_file_makes_the_compiler_fail(tmp_path_factory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("damaged")
    for folder in ("base", "registry"):
        (root / folder).symlink_to(REPO / folder)
    name = data.draw(st.sampled_from(SOURCES))
    content = (REPO / name).read_bytes()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    damaged = content[:start] + data.draw(st.sampled_from(INSERTS)) + content[min(end, start + 20) :]

    class Damaged(Project):
        def _read(self, file: str) -> bytes:
            return damaged if file == name else super()._read(file)

    try:
        compile_project(Damaged(root))
    except ConfigErrors as errors:
        lines = damaged.decode("utf-8", "replace").split("\n")
        for diagnostic in errors.diagnostics:
            span = diagnostic.primary.span
            assert (root / span.file).exists()
            assert span.file != name or 1 <= span.line <= len(lines)


def test_a_damaged_file_ends_with_exit_code_1_and_no_traceback(tmp_path: Path, capsys) -> None:
    write(tmp_path, {"registry/a.yaml": b"\x80\x02}q\x00."})
    assert main(["compile", "--root", str(tmp_path)]) == 1
    assert "error[E103]" in capsys.readouterr().err
