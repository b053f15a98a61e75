"""What builds have made, by its hash, and what is known of it: `.llm-serve/store.db`.

SQLite keeps it, as it keeps Nix's own records: thousands of files of three kilobytes are what file systems are worst
at, and a transaction is whole or was never there, also where the process is killed or the disk is full. Everything
but the generations can be built again from the sources.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from compiler.build.disk import explained, refused
from compiler.build.places import STORE
from compiler.diagnostics import ConfigErrors

FORMAT = 1
_SCHEMA = (
    "CREATE TABLE blob (digest TEXT PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TRIGGER read_only BEFORE UPDATE ON blob BEGIN SELECT RAISE(ABORT, 'blobs are read-only'); END",
    "CREATE TABLE action (key TEXT PRIMARY KEY, compiler TEXT NOT NULL, inputs TEXT NOT NULL, output TEXT,"
    " entry TEXT NOT NULL, model_id TEXT NOT NULL, enabled INTEGER NOT NULL, found TEXT, facts TEXT NOT NULL)",
    "CREATE TABLE checked (file TEXT, digest TEXT, found TEXT, waives TEXT, PRIMARY KEY (file, digest))",
    "CREATE TABLE source (file TEXT PRIMARY KEY, digest TEXT NOT NULL)",
    "CREATE TABLE model (name TEXT PRIMARY KEY, key TEXT NOT NULL, previous TEXT, found TEXT)",
    "CREATE TABLE cluster (name TEXT PRIMARY KEY, key TEXT NOT NULL, output TEXT NOT NULL, members TEXT NOT NULL,"
    " found TEXT)",
    "CREATE TABLE generation (number INTEGER PRIMARY KEY, parent INTEGER, created TEXT NOT NULL, revision TEXT,"
    " manifest TEXT NOT NULL, pinned INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


class DamagedError(Exception):
    """The store does not hold what it should. The message says what."""


class Action(NamedTuple):
    """A build that was done: what went in (by which compiler; a line each, `DIGEST FILE`), and what came out.

    `output`: the blob of its file, None for a disabled model. `entry`: its line of the manifest. `found` and `facts`
    are JSON.
    """

    key: str
    compiler: str
    inputs: str
    output: str | None
    entry: str
    model_id: str
    enabled: bool
    found: str | None
    facts: str


class Store:
    """An open store. Its methods raise ConfigErrors (E501) where the disk refuses, and DamagedError."""

    def __init__(self, root: Path | None) -> None:
        """Open the store of a project; None: one in memory, which trusts nothing and keeps nothing."""
        with explained(STORE):
            if root:
                (root / STORE).parent.mkdir(exist_ok=True)
                ignored = (root / STORE).with_name(".gitignore")
                if not ignored.exists():
                    ignored.write_text("*\n")
        try:
            self._db = sqlite3.connect(str(root / STORE) if root else ":memory:", isolation_level=None)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        with self.writing():
            version = self.value("PRAGMA user_version")
            for statement in _SCHEMA if version == 0 else ():
                self.rows(statement)
            self.rows(f"PRAGMA user_version = {FORMAT}")
        if version not in (0, FORMAT):
            raise DamagedError(f"{STORE} is of another version of llm-serve")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @staticmethod
    def _failure(error: sqlite3.Error) -> ConfigErrors | DamagedError:
        """What a refusal of SQLite's means: the disk's, or a file that is none of its own any more."""
        if isinstance(error, sqlite3.OperationalError):
            return refused(STORE, "write", str(error), "nothing was written")
        return DamagedError(f"{STORE} is damaged: {error}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written within is written, or nothing of it."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """The rows of a query."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def value(self, query: str, *values: object) -> object | None:
        """The first column of the first row."""
        found = self.rows(query, *values)
        return found[0][0] if found else None

    def write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """One statement, for each row."""
        try:
            self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def put(self, data: bytes) -> str:
        """Keep a blob; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.write("INSERT OR IGNORE INTO blob VALUES (?, ?)", [(digest, data)])
        return digest

    def has(self, digest: str) -> bool:
        """Whether there is a blob of that name, right or wrong."""
        return self.value("SELECT 1 FROM blob WHERE digest = ?", digest) is not None

    def blob(self, digest: str) -> bytes:
        """A blob, verified. Raises DamagedError where it is lost or is not what its name says."""
        data = self.value("SELECT data FROM blob WHERE digest = ?", digest)
        if not isinstance(data, bytes):
            raise DamagedError(f"{STORE} has lost {digest}")
        if not _is(data, digest):
            raise DamagedError(f"{STORE} has something else under {digest}")
        return data

    def action(self, key: str) -> Action | None:
        """The build of that key, if it was done."""
        rows = self.rows("SELECT * FROM action WHERE key = ?", key)
        return Action(*rows[0]) if rows else None  # type: ignore[arg-type]

    def is_done(self, key: str) -> bool:
        """Whether the build of that key was done, and what it made is there."""
        query = "SELECT 1 FROM action WHERE key = ? AND (output IS NULL OR output IN (SELECT digest FROM blob))"
        return self.value(query, key) is not None

    def keep(self, action: Action) -> None:
        """Remember a build."""
        self.write("INSERT OR REPLACE INTO action VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [action])

    def keep_as(self, key: str, other: str, inputs: str) -> None:
        """Remember that the build of `key` is the one of another key, too, with those inputs."""
        columns = "compiler, ?, output, entry, model_id, enabled, found, facts"
        statement = f"INSERT OR IGNORE INTO action SELECT ?, {columns} FROM action WHERE key = ?"  # noqa: S608
        self.write(statement, [(other, inputs, key)])

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with its file, a line each."""
        return [str(row[0]) for row in self.rows("PRAGMA integrity_check") if row[0] != "ok"]

    def shrink(self) -> None:
        """Give the disk back what is not used."""
        self.rows("VACUUM")

    def state(self, name: str) -> str | None:
        """Something that was noted."""
        value = self.value("SELECT value FROM state WHERE name = ?", name)
        return None if value is None else str(value)

    def note(self, name: str, value: str) -> None:
        """Note something."""
        self.write("INSERT OR REPLACE INTO state VALUES (?, ?)", [(name, value)])

    def forget_damaged(self) -> int:
        """Drop every blob that is not what its name says, and the builds of what is not there; how many."""
        names = [str(sha) for (sha,) in self.rows("SELECT digest FROM blob")]
        bad = [sha for sha in names if not _is(self.value("SELECT data FROM blob WHERE digest = ?", sha), sha)]
        with self.writing():
            self.write("DELETE FROM blob WHERE digest = ?", [(sha,) for sha in bad])
            for table in ("action", "cluster"):
                self.write(f"DELETE FROM {table} WHERE output NOT IN (SELECT digest FROM blob)", [()])  # noqa: S608
            self.write("UPDATE model SET key = '' WHERE key NOT IN (SELECT key FROM action)", [()])
        return len(bad)


def _is(data: object, digest: str) -> bool:
    return isinstance(data, bytes) and hashlib.sha256(data).hexdigest() == digest
