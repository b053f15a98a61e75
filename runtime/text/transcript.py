"""What of one answer may be sent: text up to its stop, and each token once all of its text has gone.

A token whose text a stop has cut is not sent, nor is one that was a part of the stop.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from runtime.engines.contract import EndToken, ScoredToken, Tokenizer
from runtime.schema.generation import StopSequence
from runtime.text.detokenize import Detokenizer
from runtime.text.stops import StopMatcher


@dataclass(frozen=True, slots=True)
class Score:
    """A token that was sent, in bytes, and its natural log-probability."""

    label: bytes
    logprob: float | None
    """None: the first one of a prompt; nothing comes before it."""
    top: tuple[tuple[bytes, float], ...]
    """The most likely tokens in its place, the best one first."""
    offset: int
    """Characters before it, those of an echo included."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that goes before its answer."""

    text: str = ""
    tokens: Sequence[int] = ()
    """Where they are to be scored: the engine gives all but the first, before those of the answer."""

    def offsets(self, tokenizer: Tokenizer) -> Iterator[int]:
        """The characters before each token. What the text does not have, such as a start token, has no width."""
        data, at, characters, detokenizer = self.text.encode(), 0, 0, Detokenizer()
        for token in self.tokens:
            yield characters
            label = tokenizer.label(token)
            if not data.startswith(label, at):
                label = label.removeprefix(b" ") if tokenizer.piece(token) else b""
            at += len(label)
            characters = min(characters + len(detokenizer.feed(label)), len(self.text))


NO_ECHO = Echo()


class Transcript:
    """Feed it each token that the engine gives; it returns the text that may be sent, behind the echo's."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[StopSequence],
        min_new_tokens: int = 0,
        marks: Collection[bytes] = frozenset(),
        echo: Echo = NO_ECHO,
    ) -> None:
        """`marks`: control tokens that are text here, by their names."""
        self._tokenizer = tokenizer
        self._marks = marks
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(stops)
        self._min_new_tokens = min_new_tokens
        self._read = self._sent = len(echo.text)
        self._scores: deque[tuple[int, Score]] = deque()
        """Tokens that were not sent yet, and the characters to send before."""
        self._echo_offsets = deque(echo.offsets(tokenizer))
        """Of the prompt's tokens that are still to come."""
        if echo.tokens:
            first = Score(tokenizer.label(echo.tokens[0]), None, (), self._echo_offsets.popleft())
            self._scores.append((0, first))
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop has come: nothing is sent after it."""
        return self._matcher.stopped

    def feed(self, token: int) -> str:
        """The text that is safe to send now."""
        if self._echo_offsets and isinstance(token, ScoredToken):
            self._tell(0, token, self._echo_offsets.popleft())
            return ""
        if isinstance(token, EndToken):
            self._tell(self._read + 1, token, self._read)
            return ""
        self.tokens += 1
        text = self._detokenizer.feed(self._tokenizer.piece(token) or self._mark(token))
        if isinstance(token, ScoredToken):
            end = self._read + len(text) + self._detokenizer.is_inside_character
            is_empty = end == self._read  # what comes next says whether it was the beginning of a stop
            self._tell(end + is_empty, token, self._read)
        self._read += len(text)
        sent = self._matcher.feed(token, text, may_stop=self.tokens > self._min_new_tokens)
        self._sent += len(sent)
        return sent

    def _mark(self, token: int) -> bytes:
        if not self._marks:
            return b""
        label = self._tokenizer.label(token)
        return label if label in self._marks else b""

    def _tell(self, due: int, token: ScoredToken, offset: int) -> None:
        """Tell of a token once so many characters are sent."""
        top = tuple((self._tokenizer.label(each), logprob) for each, logprob in token.top)
        self._scores.append((due, Score(self._tokenizer.label(token), token.logprob, top, offset)))

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
            found.append(self._scores.popleft()[1])
        return tuple(found)
