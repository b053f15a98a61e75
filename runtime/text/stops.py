"""Stopping sequences: strings found in the text, also across tokens, and runs of token ids.

Nothing of a stop is let through: text that may still turn out to be the beginning of one is held back.
"""

from collections.abc import Sequence

from runtime.schema.generation import StopSequence


class StopMatcher:
    """Watches one answer. Feed it each token with its text; it returns the text that may be sent."""

    def __init__(self, stops: Sequence[StopSequence]) -> None:
        self._strings = [stop for stop in stops if isinstance(stop, str)]
        runs = [stop if isinstance(stop, list) else [stop] for stop in stops if not isinstance(stop, str)]
        self._runs = [tuple(run) for run in runs]
        self._recent: list[tuple[int, int]] = []
        """The newest tokens and how much of `_held` came before each; as many as the longest run."""
        self._longest_run = max((len(run) for run in self._runs), default=0)
        self._held = ""
        self.stopped = False

    def feed(self, token: int, text: str, *, may_stop: bool = True) -> str:
        """The text that is safe to send now. After a stop `stopped` is set, and nothing more comes."""
        self._recent.append((token, len(self._held)))
        self._held += text
        if may_stop:
            cuts = [self._held.find(stop) for stop in self._strings]
            cuts += [cut for run in self._runs if (cut := self._start_of(run, len(run))) is not None]
            cut = min((cut for cut in cuts if cut >= 0), default=None)
            if cut is not None:
                self.stopped = True
                return self._release(cut)
        del self._recent[: -self._longest_run or len(self._recent)]
        return self._release(self._safe_length())

    def flush(self) -> str:
        """What was held back, now that the answer has ended without a stop."""
        return "" if self.stopped else self._release(len(self._held))

    def _start_of(self, run: tuple[int, ...], length: int) -> int | None:
        """Where the text of the newest `length` tokens begins, if they are the first `length` of `run`."""
        newest = self._recent[-length:]
        if len(newest) < length or tuple(token for token, _ in newest) != run[:length]:
            return None
        return max(0, newest[0][1])

    def _safe_length(self) -> int:
        """Length of the held text before anything that may be the beginning of a stop."""
        safe = len(self._held)
        for stop in self._strings:
            for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
                if self._held.endswith(stop[:length]):
                    safe = min(safe, len(self._held) - length)
                    break
        for run in self._runs:
            starts = (self._start_of(run, length) for length in range(1, len(run)))
            safe = min([safe, *(start for start in starts if start is not None)])
        return safe

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self._recent = [(token, offset - length) for token, offset in self._recent]
        return text
