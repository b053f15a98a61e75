"""`generated/` changes by whole files, and only where bytes differ."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from compiler.build import publish as publishing
from compiler.build.files import MARK
from compiler.build.publish import MANIFEST, Change, differences, ours
from compiler.diagnostics import ConfigErrors
from tests.compiler.support import write


def manifest(*paths: str) -> bytes:
    return json.dumps({"outputs": dict.fromkeys(paths, "")}).encode()


def publish(root: Path, changes: list[Change]) -> list[Change]:
    """As the command does it: our changes, which are returned."""
    made, _ = ours(root, changes)
    publishing.publish(root, made)
    return made


def outputs(**more: bytes) -> dict[str, bytes]:
    files = {f"generated/{name}.yaml": data for name, data in more.items()}
    return {**files, MANIFEST: manifest(*files)}


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    publish(tmp_path, differences(tmp_path, outputs(a=b"1", b=b"1")))
    for path in tmp_path.rglob("*.yaml"):
        os.utime(path, (0, 0))
    made = publish(tmp_path, differences(tmp_path, outputs(a=b"1", b=b"2")))
    assert [change.path for change in made] == ["generated/b.yaml"]
    assert (tmp_path / "generated/a.yaml").stat().st_mtime == 0
    assert differences(tmp_path, outputs(a=b"1", b=b"2")) == []


def test_what_a_compile_has_written_and_does_not_write_any_more_goes(tmp_path: Path) -> None:
    publish(tmp_path, differences(tmp_path, outputs(a=b"1", b=b"1")))
    write(tmp_path, {"generated/notes.txt": "mine"})
    changes = differences(tmp_path, outputs(a=b"1"))
    assert Change("generated/notes.txt", b"mine", None) in changes, "--check tells of it"
    made = publish(tmp_path, changes)
    assert sorted(change.path for change in made) == ["generated/b.yaml", MANIFEST]
    assert (tmp_path / "generated/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"outputs": 3}', "\xff", "[" * 100_000])
def test_a_manifest_that_somebody_broke_removes_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path, {MANIFEST: text.encode("latin-1"), "generated/b.yaml": "1"})
    publish(tmp_path, differences(tmp_path, outputs(a=b"1")))
    assert (tmp_path / "generated/b.yaml").exists()


def test_a_generated_file_is_known_by_its_head_when_the_manifest_is_lost(tmp_path: Path) -> None:
    head = f"# {MARK} from registry/b.yaml.\n"
    write(tmp_path, {MANIFEST: "<<<<<<< a merge", "generated/b.yaml": head, "generated/mine.yaml": "1"})
    publish(tmp_path, differences(tmp_path, outputs(a=b"1")))
    assert not (tmp_path / "generated/b.yaml").exists()
    kept, warnings = ours(tmp_path, differences(tmp_path, outputs(a=b"1")))
    assert kept == []
    assert [warning.message for warning in warnings] == ["generated/mine.yaml is nothing that a compile wrote"]


def test_a_folder_that_refuses_is_found_before_anything_has_changed(tmp_path: Path, monkeypatch) -> None:
    publish(tmp_path, differences(tmp_path, outputs(a=b"old", b=b"old")))
    mkstemp = tempfile.mkstemp
    made: list[object] = []

    def second_fails(**options: object) -> tuple[int, str]:
        if made:
            raise PermissionError(13, "Permission denied")
        made.append(options)
        return mkstemp(**options)

    monkeypatch.setattr(tempfile, "mkstemp", second_fails)
    with pytest.raises(ConfigErrors, match=r"cannot write generated/b\.yaml: Permission denied; nothing was written"):
        publish(tmp_path, differences(tmp_path, outputs(a=b"new", b=b"new")))
    assert (tmp_path / "generated/a.yaml").read_bytes() == b"old"
    assert len(list((tmp_path / "generated").iterdir())) == 3


def test_a_replacement_that_fails_says_how_far_it_came(tmp_path: Path, monkeypatch) -> None:
    replace = Path.replace

    def only_a(self: Path, to: Path) -> Path:
        if to.name != "a.yaml":
            raise OSError(5, "Input/output error")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", only_a)
    reason = r"cannot write generated/b\.yaml: Input/output error; 1 of 3 changes are made"
    with pytest.raises(ConfigErrors, match=reason):
        publish(tmp_path, differences(tmp_path, outputs(a=b"1", b=b"1")))
    assert [path.name for path in (tmp_path / "generated").iterdir()] == ["a.yaml"]


def test_a_manifest_cannot_make_us_remove_files_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, {MANIFEST: manifest("registry/a.yaml", "../x"), "registry/a.yaml": "a: 1\n"})
    publish(tmp_path, differences(tmp_path, outputs()))
    assert (tmp_path / "registry/a.yaml").exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, differences(tmp_path, outputs(a=b"old")))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigErrors, match=r"cannot write generated/a\.yaml: No space left on device"):
        publish(tmp_path, differences(tmp_path, outputs(a=b"new")))
    assert sorted(path.name for path in (tmp_path / "generated").iterdir()) == ["a.yaml", "manifest.json"]
    assert (tmp_path / "generated/a.yaml").read_bytes() == b"old"


def test_the_manifest_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append(Path(to).name), replace(self, to))[1])
    publish(tmp_path, differences(tmp_path, outputs(z=b"1", a=b"1")))
    assert order == ["a.yaml", "z.yaml", "manifest.json"]
