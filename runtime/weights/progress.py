"""How far a download is: a bar for people at a terminal, lines in a log for everybody else."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

_log = logging.getLogger(__name__)
_LOG_EVERY_S = 10.0
_NOTE_EVERY_S = 1.0


class Progress:
    """Called with bytes as they come, from any thread. `note` gets a line now and then, for others who wait."""

    def __init__(
        self, what: str, total: int, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._total, self._note, self._clock = what, total, note, clock
        self._done, self._began = 0, clock()
        self._logged = self._noted = self._began
        self._lock = threading.Lock()
        self._bar = tqdm(total=total, unit="B", unit_scale=True, desc=what, disable=not sys.stderr.isatty())

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._bar.update(count)
            now = self._clock()
            if now - self._noted >= _NOTE_EVERY_S:
                self._noted = now
                self._note(self.line())
            if now - self._logged >= _LOG_EVERY_S:
                self._logged = now
                _log.info("%s: %s", self._what, self.line())

    def line(self) -> str:
        """How far, how fast, and for how long still."""
        rate = self._done / max(self._clock() - self._began, 1e-3)
        left = f", {max(0.0, self._total - self._done) / rate:.0f} s left" if rate > 0 else ""
        return f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB, {rate / 1e6:.0f} MB/s{left}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._bar.close()
        if kind is None:
            _log.info("%s: there, in %.1f s", self._what, self._clock() - self._began)
