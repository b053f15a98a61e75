"""What was published can be brought back, byte for byte, until somebody throws it away."""

from pathlib import Path

import pytest

from compiler.build import generations
from compiler.build.generations import collect_garbage, damage, garbage
from compiler.build.store import Store
from compiler.cli import main
from tests.compiler.build.test_store import spoil
from tests.compiler.support import write

MODEL = "model_config:\n  model_id: acme/a\n  initialization: {{initializer: {{type: vLLM}}}}\n  max_input_words: {}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with four generations, the current one the fourth."""
    for words in (1, 2, 3, 4):
        write(tmp_path, {"registry/acme--a.yaml": MODEL.format(words)})
        assert main(["compile", "--root", str(tmp_path)]) == 0
    return tmp_path


def words(root: Path) -> str:
    return (root / "generated/models/acme--a.yaml").read_text().partition("max_input_words: ")[2][0]


def run(root: Path, *arguments: str) -> int:
    return main([*arguments, "--root", str(root)])


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "generated").rglob("*") if path.is_file()}


def test_a_compile_that_publishes_nothing_new_has_no_number(root: Path) -> None:
    assert run(root, "compile") == 0
    assert [each.number for each in generations.generations(Store(root))] == [1, 2, 3, 4]


def test_rollback_is_byte_for_byte(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    fresh = tmp_path_factory.mktemp("fresh")
    write(fresh, {"registry/acme--a.yaml": MODEL.format(2)})
    assert run(fresh, "compile") == run(root, "rollback", "2") == 0
    assert contents(root) == contents(fresh)
    assert generations.current(Store(root)) == 2


def test_rollback_goes_back_one_by_one_and_a_compile_forward(root: Path) -> None:
    for expected in "321":
        assert run(root, "rollback") == 0
        assert words(root) == expected
    assert run(root, "rollback") == 1, "nothing lies before the first"
    assert run(root, "compile") == 0
    assert words(root) == "4"
    parents = {each.number: each.parent for each in generations.generations(Store(root))}
    assert parents == {1: None, 2: 1, 3: 2, 4: 3, 5: 1}


def test_rollback_keeps_its_hands_off_what_was_edited(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, {"generated/models/acme--a.yaml": "mine"})
    assert run(root, "rollback", "1") == 1
    assert "[E502]" in capsys.readouterr().err
    assert (root / "generated/models/acme--a.yaml").read_text() == "mine"
    assert run(root, "rollback", "1", "--force") == 0
    assert words(root) == "1"


def test_a_generation_that_is_not_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "rollback", "9") == 1
    assert "there is no generation 9" in capsys.readouterr().err


def test_gc_keeps_the_last_the_pinned_and_the_current(root: Path) -> None:
    assert run(root, "generations", "--pin", "1") == 0
    assert run(root, "gc", "--keep", "1") == 0
    assert [each.number for each in generations.generations(Store(root))] == [1, 4]
    assert damage(Store(root)) == []
    assert run(root, "rollback", "1") == 0
    assert words(root) == "1"


def test_gc_removes_what_it_says_and_no_more(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(root)
    assert run(root, "gc", "--keep", "0", "--dry-run") == 0
    said = capsys.readouterr().out
    assert run(root, "gc", "--keep", "0") == 0
    assert said.replace("would remove", "removed") == capsys.readouterr().out
    store = Store(root)
    assert garbage(store, 0).blobs == []
    assert damage(store) == []
    assert (contents(root), run(root, "compile", "--check")) == (before, 0)


def test_a_blob_that_was_spoilt_is_built_again_when_it_is_needed(root: Path) -> None:
    store = Store(root)
    output = store.value("SELECT output FROM action JOIN model USING (key)")
    spoil(root, str(output), b"nonsense")
    (root / "generated/models/acme--a.yaml").unlink()
    assert run(root, "compile") == 0
    assert words(root) == "4"
    assert damage(Store(root)) == []


def test_verify_tells_and_repairs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "store", "verify") == 0
    output = Store(root).value("SELECT output FROM action JOIN model USING (key)")
    spoil(root, str(output), b"nonsense")
    assert run(root, "store", "verify") == 1
    assert f"has something else under {output}" in capsys.readouterr().out
    assert run(root, "store", "verify", "--repair") == 0
    assert "built 1 model again" in capsys.readouterr().out
    assert run(root, "store", "verify") == 0


def test_an_old_generation_that_is_lost_is_told_of_and_not_half_restored(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(root)
    first = generations.generations(store)[0]
    lost = generations.outputs_of(store, first)["generated/models/acme--a.yaml"]
    spoil(root, lost, b"nonsense")
    before = contents(root)
    assert run(root, "rollback", "1") == 1
    assert "[E503]: generation 1 cannot be restored" in capsys.readouterr().err
    assert contents(root) == before
    assert run(root, "store", "verify") == 1, "no source can bring it back"
    collect_garbage(store, garbage(store, 1))
    assert run(root, "store", "verify") == 0


def test_a_store_that_is_beyond_repair_is_set_aside(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".llm-serve/store.db").write_bytes(b"x" * 5000)
    (root / "generated/models/acme--a.yaml").unlink()
    assert run(root, "compile") == 0
    assert "is damaged: file is not a database; it is kept as .llm-serve/store.db.damaged" in capsys.readouterr().err
    assert words(root) == "4"


def test_the_commit_is_read_from_gits_files(root: Path) -> None:
    from compiler.build.revision import revision

    commit = "a" * 40
    assert revision(root) is None
    write(root, {".git/HEAD": "ref: refs/heads/main\n"})
    assert revision(root) is None, "before the first commit"
    write(root, {".git/packed-refs": f"# pack-refs\n{commit} refs/heads/main\n"})
    assert revision(root) == commit
    write(root, {".git/refs/heads/main": "b" * 40 + "\n"})
    assert revision(root) == "b" * 40
    write(root, {".git/HEAD": f"{commit}\n"})
    assert revision(root) == commit
    write(root, {"tree/.git": "gitdir: ../.git/worktrees/tree\n", ".git/worktrees/tree/commondir": "../..\n"})
    write(root, {".git/worktrees/tree/HEAD": "ref: refs/heads/main\n"})
    assert revision(root / "tree") == "b" * 40
