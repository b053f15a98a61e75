"""Tool calls in the text of an answer, told from its content while it comes.

Text that may be the beginning of a call is held back, and a call comes when it is whole, so that one which turns out
to be none is content after all: nothing is lost. White space next to calls is a part of neither.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from runtime.text.tools import Call, Tool, ToolFormat

_ESCAPED = re.compile(r"\\.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Calls:
    """What the calls of an answer may be."""

    format: ToolFormat
    names: frozenset[str]
    """The tools that may be called; a call of another one is content."""
    tools: tuple[Tool, ...] = ()
    """Those that the model is told of."""
    only_one: bool = False
    """What follows the first call is nothing."""
    forced: bool = False
    """The answer goes on from `format.forced`, which the prompt ends with."""


class CallReader:
    """Watches one answer. Feed it the text as it comes; it returns content and calls in their order."""

    def __init__(self, calls: Calls) -> None:
        self._calls, self._format = calls, calls.format
        self._held = calls.format.forced if calls.forced else ""
        self.settled = -len(self._held)
        """Characters of the answer whose part is known."""
        self.not_content: list[range] = []
        """Those of them that are calls, or white space next to them."""
        self._mark: range | None = None
        """Where in the held text the call begins, if it has begun; and how long its mark is."""
        self._searched = 0
        """Up to here in the held text no end of it was found."""
        self._is_start = True
        self._after_call = False
        self._done = False

    def feed(self, text: str) -> list[str | Call]:
        """What of the answer is certain now."""
        self._held += text
        return self._advance(ended=False)

    def flush(self) -> list[str | Call]:
        """What was held back, now that the answer has ended."""
        return self._advance(ended=True)

    def _advance(self, *, ended: bool) -> list[str | Call]:
        found: list[str | Call] = []
        while not self._done:
            if self._mark is None:
                self._mark = self._next_mark()
                found += self._content(self._safe_length(ended=ended))
                if self._mark is None:
                    return found
                self._searched = self._mark.stop
            block = self._block(ended=ended)
            if block is None:
                return found
            length, calls = block
            if calls:
                found += self._taken(length, calls)
            else:
                found += self._content(self._mark.start + max(1, len(self._mark)))
            self._mark = None
        self._skip(len(self._held))
        return found

    def _next_mark(self) -> range | None:
        starts_with, begin = self._format.starts_with, self._format.begin
        blank = len(self._held) - len(self._held.lstrip())
        if self._is_start and starts_with is not None and self._held.startswith(starts_with, blank):
            return range(blank, blank)
        at = self._held.find(begin)
        return None if at < 0 else range(at, at + len(begin))

    def _safe_length(self, *, ended: bool) -> int:
        """Length of the held text that is content, whatever comes."""
        if self._mark is None and ended:
            return len(self._held)
        safe = len(self._held) if self._mark is None else self._mark.start
        if self._mark is None:
            begin = self._format.begin
            safe -= next((n for n in range(len(begin) - 1, 0, -1) if self._held.endswith(begin[:n])), 0)
        return len(self._held[:safe].rstrip())

    def _block(self, *, ended: bool) -> tuple[int, list[Call]] | None:
        """Where the call ends and what it is, nothing if it is none; None while that is open."""
        assert self._mark is not None
        end, begun = self._format.end, self._mark.stop
        while end and (at := self._held.find(end, self._searched)) >= 0:
            inner = self._held[begun:at]
            calls = self._read(inner)
            if calls or not _is_inside_string(inner):
                return at + len(end), calls
            self._searched = at + len(end)
        self._searched = max(self._searched, len(self._held) - len(end) + 1) if end else self._searched
        return (len(self._held), self._read(self._held[begun:])) if ended else None

    def _read(self, text: str) -> list[Call]:
        try:
            calls = self._format.read(text)
        except ValueError:
            return []
        return calls if all(call.name in self._calls.names for call in calls) else []

    def _taken(self, length: int, calls: list[Call]) -> list[Call]:
        self._skip(length)
        self._after_call, self._is_start = True, False
        self._done = self._calls.only_one
        return calls[:1] if self._calls.only_one else calls

    def _content(self, length: int) -> list[str]:
        """Let go of so much as content, less the white space after a call."""
        if self._after_call:
            blank = min(length, len(self._held) - len(self._held.lstrip()))
            self._skip(blank)
            length -= blank
        if not length:
            return []
        text = self._drop(length)
        self._after_call = self._is_start = False
        return [text]

    def _skip(self, length: int) -> None:
        self.not_content.append(range(self.settled, self.settled + length))
        self._drop(length)

    def _drop(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self.settled += length
        if self._mark is not None:
            self._mark = range(self._mark.start - length, self._mark.stop - length)
        return text


def _is_inside_string(text: str) -> bool:
    """Whether a string of JSON is open at its end."""
    return _ESCAPED.sub("", text).count('"') % 2 == 1


def is_content(offset: int, not_content: Collection[range]) -> bool:
    """Whether the character there is content."""
    return not any(offset in part for part in not_content)
