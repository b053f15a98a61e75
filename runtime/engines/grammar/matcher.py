"""Constraints become matchers: what tokens an answer may go on with."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from runtime.engines.contract import Constraint, Tokenizer
from runtime.engines.grammar.trial import limits, problem_of, problem_with
from runtime.errors import EngineDeadError, GrammarError

_KEPT = 32
"""Grammars that are kept; the worst take 20 MB each."""
_AT_ONCE = 2
"""Grammars that are made at the same time; who has another one waits."""


class Matcher:
    """How far one answer has come, and what may come next."""

    def __init__(self, matcher: LLMatcher, size: int, allowed: NDArray[np.bool_] | None = None) -> None:
        self._matcher = matcher
        self._size = size
        self._allowed = allowed

    def copy(self) -> "Matcher":
        """Another one that has come as far."""
        return Matcher(self._matcher.deep_copy(), self._size, self._allowed)

    def look(self) -> NDArray[np.bool_]:
        """Whether each token may come next, [vocabulary]; one of them may. Raises GrammarError."""
        if self._allowed is None:
            bits = self._matcher.compute_bitmask()
            if self.problem:
                raise GrammarError(self.problem)
            each = np.unpackbits(np.frombuffer(bits, np.uint8), count=self._size, bitorder="little")
            self._allowed = each.view(np.bool_)
        return self._allowed

    def accept(self, tokens: Sequence[int]) -> None:
        """They come next. An error shows as a problem, and when the next one is looked for."""
        self._allowed = None
        self._matcher.consume_tokens(list(tokens))

    @property
    def problem(self) -> str:
        """Why it does not know what may come next; empty where it does."""
        return problem_of(self._matcher)

    @property
    def may_end(self) -> bool:
        """Whether the answer matches as it is."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def must_end(self) -> bool:
        """Whether it does, and nothing longer can."""
        return not self._matcher.is_error() and self._matcher.is_stopped()


class Grammars:
    """Matchers for one model. What is made of a constraint is kept for the next request that has the same."""

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int, end_tokens: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._size, self._end_tokens = vocabulary_size, sorted(end_tokens)
        self._kept: OrderedDict[Constraint, Matcher] = OrderedDict()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "grammar")
        self._closed = False

    async def matcher(self, constraint: Constraint) -> Matcher:
        """That of an answer which has not begun. Raises GrammarError, EngineDeadError once this is closed."""
        self._check_open()
        if constraint not in self._kept:
            loop = asyncio.get_running_loop()
            self._kept[constraint] = await loop.run_in_executor(self._threads, self._made, constraint)
        self._kept.move_to_end(constraint)
        found = self._kept[constraint].copy()
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine has stopped")

    def _made(self, constraint: Constraint) -> Matcher:
        self._check_open()
        grammar = _grammar(constraint)
        if problem := problem_with(grammar):
            raise GrammarError(problem)
        matcher = Matcher(LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits()), self._size)
        matcher.look()
        return matcher

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        """Made when the first constraint comes, which takes a part of a second."""
        if not self._end_tokens:
            raise GrammarError("this model has no token that ends an answer")
        pieces = _Pieces(self._tokenizer, self._size, self._end_tokens[0])
        return LLTokenizer(TokenizerWrapper(pieces), eos_token=self._end_tokens)

    def close(self) -> None:
        """Return when nothing is being made any more. Blocks."""
        self._closed = True
        self._threads.shutdown()


def _grammar(constraint: Constraint) -> str:
    """As llguidance takes it. Raises GrammarError where it is no JSON; other problems show later."""
    if constraint.kind == "lark":
        return LLMatcher.grammar_from_lark(constraint.text)
    try:
        return LLMatcher.grammar_from_json_schema(constraint.text)
    except ValueError as error:
        raise GrammarError(str(error)) from error


class _Pieces:
    """A vocabulary as llguidance takes it, with the text that answers are made of."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, end_token: int) -> None:
        self.tokens = [tokenizer.piece(token) for token in range(size)]
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]
        self.eos_token_id = end_token
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)
