"""`generated/` changes by whole files, only where bytes differ, and never over what somebody has edited."""

import os
from pathlib import Path

import pytest

from compiler.build import publish as publishing
from compiler.build.files import MARK
from compiler.build.keys import digest
from compiler.build.manifest import manifest
from compiler.build.places import MANIFEST
from compiler.build.publish import differences, digests_on_disk, fetched, ours
from compiler.build.store import Store
from compiler.diagnostics import ConfigErrors
from tests.compiler.support import write


@pytest.fixture
def store() -> Store:
    return Store(None)


def outputs(store: Store, **more: bytes) -> dict[str, str]:
    files = {f"generated/{name}.yaml": store.put(data) for name, data in more.items()}
    return {**files, MANIFEST: store.put(manifest([], files))}


def publish(root: Path, store: Store, *, force: bool = False, **more: bytes) -> tuple[list[str], list[str]]:
    """As a compile does it: the paths that were written, and what was said."""
    found = differences(digests_on_disk(root), outputs(store, **more))
    mine, others = ours(root, store, found, force=force)
    publishing.publish(root, fetched(store, mine))
    return [each.path for each in mine], [f"{each.code} {each.message}" for each in others]


def test_only_what_differs_is_written(tmp_path: Path, store: Store) -> None:
    publish(tmp_path, store, a=b"1", b=b"1")
    for path in tmp_path.rglob("*.yaml"):
        os.utime(path, (0, 0))
    assert publish(tmp_path, store, a=b"1", b=b"2") == (["generated/b.yaml", MANIFEST], [])
    assert (tmp_path / "generated/a.yaml").stat().st_mtime == 0
    assert publish(tmp_path, store, a=b"1", b=b"2") == ([], [])


def test_what_is_not_compiled_any_more_goes_and_a_strangers_file_stays(tmp_path: Path, store: Store) -> None:
    publish(tmp_path, store, a=b"1", b=b"1")
    write(tmp_path, {"generated/notes.txt": "mine"})
    made, said = publish(tmp_path, store, a=b"1")
    assert made == ["generated/b.yaml", MANIFEST]
    assert said == ["W501 generated/notes.txt is nothing that a compile wrote"]
    assert sorted(path.name for path in (tmp_path / "generated").iterdir()) == ["a.yaml", "manifest.json", "notes.txt"]


@pytest.mark.parametrize("edited", [b"", b"by hand", b"<<<<<<< ours\n"])
@pytest.mark.parametrize("wanted", [{"a": b"2"}, {}], ids=["changed", "gone"])
def test_an_edited_file_stays_unless_forced(tmp_path: Path, store: Store, edited: bytes, wanted: dict) -> None:
    publish(tmp_path, store, a=b"1")
    write(tmp_path, {"generated/a.yaml": edited})
    _, said = publish(tmp_path, store, **wanted)
    assert said == ["E502 generated/a.yaml has been edited since it was generated, or merged"]
    assert (tmp_path / "generated/a.yaml").read_bytes() == edited


def test_force_overwrites(tmp_path: Path, store: Store) -> None:
    publish(tmp_path, store, a=b"1", b=b"1")
    write(tmp_path, {"generated/a.yaml": "by hand", "generated/b.yaml": "by hand", "generated/notes.txt": "mine"})
    _, said = publish(tmp_path, store, force=True, a=b"2")
    assert (tmp_path / "generated/a.yaml").read_bytes() == b"2"
    assert not (tmp_path / "generated/b.yaml").exists()
    assert said == ["W501 generated/notes.txt is nothing that a compile wrote"]


def test_what_an_interrupted_compile_wrote_is_no_edit(tmp_path: Path, store: Store) -> None:
    publish(tmp_path, store, a=b"1")
    outputs(store, a=b"2")
    write(tmp_path, {"generated/a.yaml": b"2"})  # it was killed here, and then the source changed once more
    assert publish(tmp_path, store, a=b"3")[1] == []


def test_a_clone_knows_its_files_by_the_manifest(tmp_path: Path, store: Store) -> None:
    publish(tmp_path, store, a=b"1", b=b"1")
    made, said = publish(tmp_path, Store(None), a=b"2")
    assert said == []
    assert made == ["generated/a.yaml", "generated/b.yaml", MANIFEST]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"outputs": 3}', '{"outputs": {"a": 1}}', "\xff", "[" * 100_000])
def test_a_manifest_that_somebody_broke_lets_nothing_be_lost(tmp_path: Path, store: Store, text: str) -> None:
    write(tmp_path, {MANIFEST: text.encode("latin-1"), "generated/b.yaml": "theirs"})
    publish(tmp_path, store, a=b"1")
    assert (tmp_path / "generated/b.yaml").exists()


def test_an_edited_file_without_a_model_is_told_by_its_head(tmp_path: Path, store: Store) -> None:
    write(tmp_path, {MANIFEST: "<<<<<<< a merge", "generated/b.yaml": f"# {MARK} from registry/b.yaml.\n"})
    assert publish(tmp_path, store, a=b"1")[1] == [
        "E502 generated/b.yaml has been edited since it was generated, or merged"
    ]


def test_a_manifest_cannot_make_us_remove_files_elsewhere(tmp_path: Path, store: Store) -> None:
    files = {"registry/a.yaml": digest(b"a: 1\n"), "../x": digest(b"x")}
    write(tmp_path, {MANIFEST: manifest([], files), "registry/a.yaml": "a: 1\n"})
    publish(tmp_path, store)
    assert (tmp_path / "registry/a.yaml").exists()


@pytest.mark.parametrize("link", ["generated", "generated/models"])
def test_a_folder_that_is_a_link_is_not_written_through(tmp_path: Path, store: Store, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(elsewhere)
    with pytest.raises(ConfigErrors, match=rf"{link} is a link; nothing was written"):
        publish(tmp_path, store, **{"models/a": b"1"})
    assert list(elsewhere.iterdir()) == []


def test_a_file_that_is_a_link_is_not_written_through(tmp_path: Path, store: Store) -> None:
    write(tmp_path, {"elsewhere": "theirs"})
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated/a.yaml").symlink_to(tmp_path / "elsewhere")
    assert publish(tmp_path, store, a=b"1")[1] == [
        "E502 generated/a.yaml has been edited since it was generated, or merged"
    ]
    publish(tmp_path, store, force=True, a=b"1")
    assert (tmp_path / "elsewhere").read_text() == "theirs"
    assert (tmp_path / "generated/a.yaml").read_bytes() == b"1"


def test_the_manifest_comes_last(tmp_path: Path, store: Store) -> None:
    assert publish(tmp_path, store, z=b"1", a=b"1")[0] == ["generated/a.yaml", "generated/z.yaml", MANIFEST]


def test_the_umask_does_not_show(tmp_path: Path, store: Store) -> None:
    umask = os.umask(0o077)
    try:
        publish(tmp_path, store, a=b"1")
    finally:
        os.umask(umask)
    assert (tmp_path / "generated/a.yaml").stat().st_mode & 0o777 == 0o644
