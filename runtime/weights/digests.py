"""What content a file has: its digest, worked out on all cores and remembered for as long as the file is untouched."""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_CLOCK_TICK_S = 2.0
"""A file system's clock may tick as rarely as that: a file that was written within a tick may change again unseen."""


class Digest(NamedTuple):
    """An algorithm (`sha256`, `git-sha1`, `md5`) and what it makes of a content, in hex."""

    algorithm: str
    hex: str


class Hash(Protocol):
    """One of hashlib's."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """The digest of all that was taken."""


def new_hash(algorithm: str, size: int) -> Hash:
    """A hash of a content of so many bytes."""
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    assert algorithm == "git-sha1"
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file's content, in hex."""
    found = new_hash(algorithm, path.stat().st_size)
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            found.update(view[:count])
    return found.hexdigest()


class Digests:
    """Digests of files, kept in a file: one that looks as it did when it was read is not read again.

    Looks: inode, size, and both its times. Whoever can forge those can write the kept file as well.
    """

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._known: dict[str, list[object]] = {}
        with suppress(OSError, ValueError):
            said = json.loads(kept.read_bytes())
            self._known = said if isinstance(said, dict) else {}
        self._is_new = False

    def of_all(self, files: Iterable[tuple[Path, str]]) -> list[str]:
        """The digest of each file by the algorithm beside it, those that are not known on all cores at once."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda each: self.of(*each), files))

    def of(self, path: Path, algorithm: str = "sha256") -> str:
        """The digest of a file."""
        key = f"{algorithm} {path}"
        looks = looks_of(path)
        known = self._known.get(key)
        if isinstance(known, list) and known[:-1] == looks:
            return str(known[-1])
        started = time.time()
        found = digest_of(path, algorithm)
        if looks == looks_of(path) and path.stat().st_mtime + _CLOCK_TICK_S < started:
            self._remember(key, looks, found)
        return found

    def note(self, path: Path, looks: list[object], digest: str) -> None:
        """Remember a file that this process has written and read, as it looked then."""
        self._remember(f"sha256 {path}", looks, digest)

    def _remember(self, key: str, looks: list[object], digest: str) -> None:
        self._known[key] = [*looks, digest]
        self._is_new = True

    def keep(self) -> None:
        """Write down what is known. Another process may do so at the same time: the last one wins."""
        if not self._is_new:
            return
        there = {key: each for key, each in self._known.items() if Path(key.partition(" ")[2]).exists()}
        try:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._kept, json.dumps(there))
        except OSError as error:  # a cache that is mounted for reading
            _log.warning("%s: %s: every start reads all files again", self._kept, error.strerror)
        self._is_new = False


def looks_of(path: Path) -> list[object]:
    """What changes when a file does."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def write_atomically(path: Path, text: str) -> None:
    """A small file, wholly old or wholly new for whoever reads it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    Path(temporary).replace(path)
