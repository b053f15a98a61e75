"""Where files are fetched from, whatever speaks to it: a bucket, the hub."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from runtime.errors import WeightsError
from runtime.weights.digests import Digest

T = TypeVar("T")


class BrokenOffError(Exception):
    """A transfer that broke off for a reason that may be gone at the next attempt. The message says why."""


class ChangedError(Exception):
    """The file is another one than it was when its transfer began."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its source knows it.

    `key`: what the source calls it. `size`: in bytes. `etag`: the version that all parts must be of, where known.
    `digest`: what its content must have, where known.
    """

    path: str
    key: str
    size: int
    etag: str | None = None
    digest: Digest | None = None


class Remote(Protocol):
    """A source that sends parts of files."""

    def name_of(self, file: RemoteFile) -> str:
        """What to call a file in messages: bucket and key, or its address."""

    def read(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[Iterator[bytes | memoryview]]:
        """The bytes from `start` up to `end`, a piece at a time; maybe too few.

        Raises BrokenOffError, ChangedError; WeightsError for what no other attempt would mend.
        """


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard to try. `attempts`: at each part of a file, and at each question to a source.

    `part_bytes`: what one connection fetches in one go. `backoff_s`: seconds before the second attempt, and twice as
    many before each further one, up to `longest_s`; less a random part of up to a half, so that nodes do not march in
    step. `note_bytes`: how often a part's progress is written down, for whoever goes on after this process.
    """

    connections: int = 8
    part_bytes: int = 32 << 20
    note_bytes: int = 4 << 20
    attempts: int = 6
    backoff_s: float = 0.5
    longest_s: float = 20.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, attempt: int) -> None:
        """Before the attempt after the `attempt`-th, counted from 1."""
        seconds = min(self.longest_s, self.backoff_s * 2 ** (attempt - 1))
        self.sleep(seconds * (1 - random.random() / 2))  # noqa: S311 (nothing secret)

    def asked(self, question: Callable[[], T], what: str) -> T:
        """The answer to a question that a source may fail to answer at once. Raises WeightsError when it gives up."""
        for attempt in range(1, self.attempts + 1):
            try:
                return question()
            except BrokenOffError as error:
                if attempt == self.attempts:
                    raise WeightsError(f"{what}: gave up after {attempt} attempts: {error}") from error
                self.wait(attempt)
        raise AssertionError("the last attempt returns or raises")
