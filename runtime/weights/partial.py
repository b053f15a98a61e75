"""A file that is on its way: its parts come in any order, and its digest grows with its beginning.

    <name>.part        the bytes that are there
    <name>.part.done   which: a line that says of what they are, then a line for each piece that came

Both stay when the process dies, and the next one goes on from there.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runtime.weights.digests import Hash, new_hash
from runtime.weights.remote import Pace, RemoteFile

_CHUNK = 1 << 20


class Partial:
    """Used by several threads at once."""

    def __init__(self, file: RemoteFile, path: Path, pace: Pace) -> None:
        self.file, self._pace = file, pace
        self._path, self._journal_path = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.done")
        self._count = -(-file.size // pace.part_bytes)
        self._received = [0] * self._count
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        self._open()

    def _open(self) -> None:
        title = f"{self.file.size} {self._pace.part_bytes} {self.file.etag} {self.file.digest}\n"
        lines = self._journal_path.read_text().splitlines(keepends=True) if self._journal_path.exists() else []
        can_go_on = lines[:1] == [title] and self._path.exists() and self._path.stat().st_size == self.file.size
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | (0 if can_go_on else os.O_TRUNC), 0o644)
        os.ftruncate(self._handle, self.file.size)
        if can_go_on:
            for line in lines[1:]:
                self._recall(line)
        self._journal = self._journal_path.open("a" if can_go_on else "w", buffering=1)
        if not can_go_on:
            self._journal.write(title)
        self._noted = list(self._received)
        self.resumed = sum(self._received)
        algorithms = {"sha256", *([self.file.digest.algorithm] if self.file.digest else [])}
        self._hashes: dict[str, Hash] = {name: new_hash(name, self.file.size) for name in algorithms}
        self._hashed = 0

    def _recall(self, line: str) -> None:
        with suppress(ValueError):  # the last line may have been cut
            index, received = map(int, line.split())
            if line.endswith("\n") and 0 <= index < self._count and 0 <= received <= self._length(index):
                self._received[index] = max(self._received[index], received)

    def _length(self, index: int) -> int:
        return min(self._pace.part_bytes, self.file.size - index * self._pace.part_bytes)

    def missing(self) -> Iterator[int]:
        """The numbers of the parts that are not all there."""
        return (index for index in range(self._count) if self._received[index] < self._length(index))

    def place(self, index: int) -> tuple[int, int]:
        """From where up to where a part is still to come."""
        start = index * self._pace.part_bytes
        return start + self._received[index], start + self._length(index)

    def write(self, index: int, data: bytes | memoryview) -> None:
        """The next piece of a part."""
        view = memoryview(data)
        position = self.place(index)[0]
        while view:
            written = os.pwrite(self._handle, view, position)
            view, position = view[written:], position + written
        self._received[index] += len(data)
        if self._received[index] - self._noted[index] >= self._pace.note_bytes:
            self._note(index)

    def _note(self, index: int) -> None:
        with self._lock:
            self._journal.write(f"{index} {self._received[index]}\n")
            self._noted[index] = self._received[index]

    def pause(self) -> None:
        """Write down what is there, and close."""
        for index in range(self._count):
            if self._received[index] > self._noted[index]:
                self._note(index)
        self._journal.close()
        os.close(self._handle)

    def hash_on(self) -> None:
        """Take what is there in one piece from the beginning into the digest, unless another thread does so now."""
        while self._is_ready() and self._hashing.acquire(blocking=False):
            try:
                while self._is_ready():
                    self._hash_part(self._hashed)
                    self._hashed += 1
            finally:
                self._hashing.release()

    def _is_ready(self) -> bool:
        return self._hashed < self._count and self._received[self._hashed] == self._length(self._hashed)

    def _hash_part(self, index: int) -> None:
        position, end = index * self._pace.part_bytes, index * self._pace.part_bytes + self._length(index)
        buffer = bytearray(_CHUNK)
        while position < end:
            view = memoryview(buffer)[: min(_CHUNK, end - position)]
            count = os.preadv(self._handle, [view], position)
            for each in self._hashes.values():
                each.update(view[:count])
            position += count

    def digests(self) -> dict[str, str]:
        """Of the whole file, by algorithm. All parts must be there."""
        with self._hashing:
            while self._hashed < self._count:
                self._hash_part(self._hashed)
                self._hashed += 1
        return {name: each.hexdigest() for name, each in self._hashes.items()}

    def finish(self, target: Path) -> None:
        """The file is whole: give it its name."""
        self._journal.close()
        os.close(self._handle)
        self._path.replace(target)
        self._journal_path.unlink()

    def start_over(self) -> None:
        """Forget what is there: it is not what it should be."""
        self._journal.close()
        os.close(self._handle)
        self._journal_path.unlink()
        self._received = [0] * self._count
        self._open()
