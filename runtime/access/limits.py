"""How much each key may take in any minute, counted by the process that it passes through."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.access.keys import Key
from runtime.errors import RateLimitError

MINUTE_S = 60.0
BEHIND_GATEWAY_S = 55.0
"""The span behind the gateway: two requests that it let in a minute apart may come here a bit closer to each other."""
_GRAIN_S = 1.0
"""What comes within it is one entry, so that a window has no more entries than its seconds."""


@dataclass(slots=True)
class _Entry:
    first: float
    last: float
    amount: int


class Window:
    """What was taken in the last `span_s` seconds. Times are the caller's, and never go back."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._entries: deque[_Entry] = deque()
        self._sum = 0

    def take(self, now: float, amount: int) -> None:
        """Count something."""
        self._sum += amount
        if self._entries and now - self._entries[-1].first < _GRAIN_S:
            self._entries[-1].last = now
            self._entries[-1].amount += amount
        else:
            self._entries.append(_Entry(now, now, amount))

    def used(self, now: float) -> int:
        """What still counts."""
        while self._entries and now - self._entries[0].last >= self._span_s:
            self._sum -= self._entries.popleft().amount
        return self._sum

    def wait_s(self, now: float, limit: int) -> float:
        """Seconds until less than `limit` counts; 0 if that is so now."""
        left, wait = self.used(now), 0.0
        for entry in self._entries:
            if left < limit:
                break
            left -= entry.amount
            wait = entry.last + self._span_s - now
        return wait

    def reset_s(self, now: float) -> float:
        """Seconds until nothing counts."""
        return self._entries[-1].last + self._span_s - now if self.used(now) else 0.0


class Limits:
    """The windows of all keys of one process."""

    def __init__(
        self, span_s: float = MINUTE_S, clock: Callable[[], float] = time.monotonic, *, tokens: bool = True
    ) -> None:
        """`tokens`: they are counted here."""
        self._span_s = span_s
        self._clock = clock
        self._tokens = tokens
        self._windows: dict[tuple[str, str], Window] = {}

    def admit(self, key: Key, requests: int = 1) -> None:
        """Count requests. Raises RateLimitError, and counts nothing, where the key's minute has no room for them."""
        now = self._clock()
        for what, limit in self._limits_of(key):
            room = limit - (requests - 1 if what == "requests" else 0)
            wait = self._window(key, what).wait_s(now, room) if room > 0 else self._span_s
            if wait:
                problem = f"the key `{key.name}` has used up its {limit} {what} of a minute"
                seconds = max(1, math.ceil(wait))
                raise RateLimitError(f"{problem}; try again in {seconds} s", seconds)
        self._window(key, "requests").take(now, requests)

    def take_tokens(self, key: Key, count: int) -> None:
        """Count tokens. An answer that has begun goes on: the next request pays for it."""
        self._window(key, "tokens").take(self._clock(), count)

    def headers(self, key: Key) -> Mapping[str, str]:
        """Where the key stands, as OpenAI's clients read it."""
        now, found = self._clock(), {}
        for what, limit in self._limits_of(key):
            window = self._window(key, what)
            found[f"x-ratelimit-limit-{what}"] = str(limit)
            found[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - window.used(now)))
            found[f"x-ratelimit-reset-{what}"] = f"{math.ceil(window.reset_s(now))}s"
        return found

    def _window(self, key: Key, what: str) -> Window:
        return self._windows.setdefault((key.name, what), Window(self._span_s))

    def _limits_of(self, key: Key) -> list[tuple[str, int]]:
        limits = [("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute if self._tokens else None)]
        return [(what, limit) for what, limit in limits if limit is not None]
