"""Files fetched into a folder of blobs: in parts over several connections, checked, each there as a whole or not."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from runtime.errors import WeightsError
from runtime.weights.partial import Partial
from runtime.weights.remote import BrokenOffError, ChangedError, Pace, Remote, RemoteFile

_DELIVERIES = 2
"""How often a whole file is fetched that arrives damaged."""
_HEADROOM = 64 << 20
"""Bytes of disk that are left to others."""


def download(
    remote: Remote, files: Sequence[RemoteFile], blobs: Path, pace: Pace, tell: Callable[[int], None]
) -> dict[str, str]:
    """Fetch files; path -> SHA-256, which is its blob's name. `tell` hears of bytes as they come, from any thread.

    What has come stays when this fails, for the next attempt. Raises WeightsError that names the file.
    """
    blobs.mkdir(parents=True, exist_ok=True)
    transfers: list[_Transfer] = []
    try:
        for file in files:
            transfers.append(_Transfer(remote, file, blobs, pace, tell))
        _check_space(blobs, sum(each.file.size - each.partial.resumed for each in transfers))
        waiting = transfers
        for delivery in range(1, _DELIVERIES + 1):
            _run(waiting, pace)
            waiting = [each for each in waiting if not each.settle(is_last=delivery == _DELIVERIES)]
    finally:
        for each in transfers:
            each.stop()
    return {each.file.path: each.sha256 for each in transfers}


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _HEADROOM > free:
        raise WeightsError(
            f"no room in {folder}: {needed / 1e9:.2f} GB are to come and {free / 1e9:.2f} GB are free; LLM_SERVE_CACHE"
            " names another folder, and `llm-serve weights gc` makes room"
        )


def _run(transfers: Sequence["_Transfer"], pace: Pace) -> None:
    """Fetch all parts that are missing. Raises what the first of them fails with; the others stop."""
    stopping = threading.Event()
    with ThreadPoolExecutor(pace.connections) as pool:
        parts: list[Future[None]] = [
            pool.submit(each.fetch, index, stopping) for each in transfers for index in each.partial.missing()
        ]
        try:
            done, _ = wait(parts, return_when=FIRST_EXCEPTION)
        finally:
            stopping.set()  # also where somebody has pressed Ctrl-C
            pool.shutdown(cancel_futures=True)
        for part in done:
            part.result()


class _Transfer:
    """One file on its way. `sha256`: once it is there."""

    def __init__(self, remote: Remote, file: RemoteFile, blobs: Path, pace: Pace, tell: Callable[[int], None]) -> None:
        self.file, self.sha256 = file, ""
        self._remote, self._blobs, self._pace, self._tell = remote, blobs, pace, tell
        self._has_changed = False
        name = f"{remote.name_of(file)} {file.etag} {file.digest}"
        self.partial = Partial(file, blobs / hashlib.sha256(name.encode()).hexdigest()[:40], pace)
        tell(self.partial.resumed)

    def fetch(self, index: int, stopping: threading.Event) -> None:
        """One part, in as many attempts as it takes. Raises WeightsError."""
        attempt = 0
        while not (stopping.is_set() or self._has_changed):
            attempt += 1
            try:
                self._attempt(index, stopping)
                break
            except ChangedError:
                self._has_changed = True  # `settle` decides
            except BrokenOffError as error:
                if attempt >= self._pace.attempts:
                    problem = f"gave up after {attempt} attempts: {error}"
                    raise WeightsError(f"{self._remote.name_of(self.file)}: {problem}") from error
                self._pace.wait(attempt)
        self.partial.hash_on()

    def _attempt(self, index: int, stopping: threading.Event) -> None:
        """The rest of a part. Raises BrokenOffError where less came than was asked for."""
        start, end = self.partial.place(index)
        with self._remote.read(self.file, start, end) as pieces:
            for piece in pieces:
                wanted = piece[: self.partial.place(index)[1] - self.partial.place(index)[0]]
                self._write(index, wanted)
                self._tell(len(wanted))
                if stopping.is_set():
                    return
        start, end = self.partial.place(index)
        if start < end:
            raise BrokenOffError(f"{end - start} bytes of a part did not come")

    def _write(self, index: int, piece: bytes | memoryview) -> None:
        try:
            self.partial.write(index, piece)
        except OSError as error:
            raise WeightsError(f"{self._blobs}: cannot be written: {error.strerror}") from error

    def settle(self, *, is_last: bool) -> bool:
        """Check the whole file; whether it is what it should be. Where it is not, nothing of it is left.

        Raises WeightsError if that was its last chance.
        """
        problem = self._problem()
        if problem is None:
            self.partial.finish(self._blobs / self.sha256)
            return True
        self.partial.start_over()
        self._tell(-self.file.size)
        self._has_changed = False
        if is_last:
            name = self._remote.name_of(self.file)
            raise WeightsError(f"{name}: {problem}, {_DELIVERIES} times; nothing of it is kept")
        return False

    def _problem(self) -> str | None:
        """What is wrong with the file that has come."""
        expected = self.file.digest
        if self._has_changed:
            return "changed while it was fetched"
        found = self.partial.digests()
        if expected and found[expected.algorithm] != expected.hex:
            got = found[expected.algorithm]
            return f"its {expected.algorithm} is {got[:16]}..., and {expected.hex[:16]}... is expected"
        self.sha256 = found["sha256"]
        return None

    def stop(self) -> None:
        """Close the file, if it has not become a blob."""
        if not self.sha256:
            with suppress(OSError):
                self.partial.pause()
