"""What of one answer may be sent: text up to its stop, and each token once all of its text has gone.

A token whose text a stop has cut is not sent, nor is one that was a part of the stop.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runtime.engines.contract import ScoredToken, Tokenizer
from runtime.schema.generation import StopSequence
from runtime.text.detokenize import Detokenizer
from runtime.text.stops import StopMatcher


@dataclass(frozen=True, slots=True)
class Score:
    """A token that was sent, in bytes, and its natural log-probability."""

    label: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]
    """The most likely tokens in its place, the best one first."""
    offset: int
    """Characters of the answer before it."""


class Transcript:
    """Feed it each token of the answer; it returns the text that may be sent."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[StopSequence],
        min_new_tokens: int = 0,
        marks: Collection[bytes] = frozenset(),
    ) -> None:
        """`marks`: control tokens that are text here, by their names."""
        self._tokenizer = tokenizer
        self._marks = marks
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(stops)
        self._min_new_tokens = min_new_tokens
        self._read = self._sent = 0
        self._scores: deque[tuple[int, ScoredToken, int]] = deque()
        """Tokens that were not sent yet: characters to send before, the token, and characters before it."""
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop has come: nothing is sent after it."""
        return self._matcher.stopped

    def feed(self, token: int) -> str:
        """The text that is safe to send now."""
        self.tokens += 1
        text = self._detokenizer.feed(self._tokenizer.piece(token) or self._mark(token))
        if isinstance(token, ScoredToken):
            end = self._read + len(text) + self._detokenizer.is_inside_character
            is_empty = end == self._read  # what comes next says whether it was the beginning of a stop
            self._scores.append((end + is_empty, token, self._read))
        self._read += len(text)
        sent = self._matcher.feed(token, text, may_stop=self.tokens > self._min_new_tokens)
        self._sent += len(sent)
        return sent

    def _mark(self, token: int) -> bytes:
        if not self._marks:
            return b""
        label = self._tokenizer.label(token)
        return label if label in self._marks else b""

    def flush(self) -> str:
        """What was held back, now that the answer has ended."""
        if self.stopped:
            return ""
        text = self._matcher.feed(-1, self._detokenizer.flush()) + self._matcher.flush()
        self._sent = self._read + 1 if not self.stopped else self._sent + len(text)
        return text

    def scores(self) -> tuple[Score, ...]:
        """The tokens that have become due since the last call; none where the answer was not asked for them."""
        found = []
        while self._scores and self._scores[0][0] <= self._sent:
            _, token, offset = self._scores.popleft()
            top = tuple((self._tokenizer.label(each), logprob) for each, logprob in token.top)
            found.append(Score(self._tokenizer.label(token), token.logprob, top, offset))
        return tuple(found)
