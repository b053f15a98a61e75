"""The store gives back what was put in, or says that it cannot."""

import sqlite3
from pathlib import Path

import pytest

from compiler.build.places import STORE
from compiler.build.store import DamagedError, Store
from compiler.diagnostics import ConfigErrors


def spoil(root: Path, digest: str, data: bytes) -> None:
    """What a failing disk does: the trigger stands only in the way of honest programs."""
    with sqlite3.connect(root / STORE) as db:
        db.execute("DROP TRIGGER IF EXISTS read_only")
        db.execute("UPDATE blob SET data = ? WHERE digest = ?", (data, digest))
    db.close()


def test_a_blob_is_found_by_its_digest(tmp_path: Path) -> None:
    digest = Store(tmp_path).put(b"data")
    assert digest == "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    assert Store(tmp_path).blob(digest) == b"data"


def test_a_blob_is_verified_when_it_is_read(tmp_path: Path) -> None:
    digest = Store(tmp_path).put(b"data")
    spoil(tmp_path, digest, b"date")
    with pytest.raises(DamagedError, match="has something else under 3a6eb"):
        Store(tmp_path).blob(digest)
    with pytest.raises(DamagedError, match="has lost 00"):
        Store(tmp_path).blob("00")


def test_blobs_are_read_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(b"data")
    with pytest.raises(DamagedError, match="blobs are read-only"):
        store.write("UPDATE blob SET data = ?", [(b"",)])


def test_what_is_damaged_is_forgotten_with_the_builds_that_made_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good, bad = store.put(b"good"), store.put(b"bad")
    store.write("INSERT INTO cluster VALUES (?, ?, ?, '[]', NULL)", [("a", good, good), ("b", bad, bad)])
    spoil(tmp_path, bad, b"spoilt")
    assert store.forget_damaged() == 1
    assert (store.has(good), store.has(bad)) == (True, False)
    assert store.rows("SELECT name FROM cluster") == [("a",)]


def test_a_write_is_whole_or_was_never_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyError), store.writing():
        digest = store.put(b"half")
        raise KeyError
    assert not store.has(digest)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_store(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STORE).parent.mkdir()
    (tmp_path / STORE).write_bytes(content)
    with pytest.raises(DamagedError, match=r"store\.db is damaged: file is not a database"):
        Store(tmp_path)


def test_a_store_of_another_version(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / STORE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(DamagedError, match="of another version"):
        Store(tmp_path)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.rows("PRAGMA max_page_count = 1")  # SQLite's own limit stands for the disk's: it says the same of both
    with pytest.raises(ConfigErrors, match=r"cannot write \.llm-serve/store\.db: database or disk is full"):
        store.put(bytes(1_000_000))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / ".llm-serve").write_text("")
    with pytest.raises(ConfigErrors, match=r"cannot write \.llm-serve/store\.db: "):
        Store(tmp_path)
