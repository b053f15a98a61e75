"""Tries a grammar in a process of its own, which gets so much time and memory and is gone afterwards.

llguidance has limits, but not for all that it does with a schema: `minItems` of a thousand million takes all memory
there is, `multipleOf` of a million many seconds, and some things end the process. Whatever comes through here costs no
more the second time.

This file is run as it is, without the package that it is in, which takes longer to load than most grammars.
"""

import logging
import os
import resource
import subprocess
import sys

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_log = logging.getLogger(__name__)

_CPU_S = 1
_MEMORY = 512 << 20
"""Bytes of address space, of which Python and llguidance take a tenth."""
_PATIENCE_S = 30
"""Seconds by the clock, on a machine that has other things to do."""


def limits() -> LLParserLimits:
    """For a grammar, and for what may come next each time: that takes a tenth of a second at the most."""
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        max_lexer_states=10_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def problem_with(grammar: str) -> str:
    """What is wrong with it; empty where nothing is. Blocks."""
    command = [sys.executable, "-P", __file__]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # and nothing that is secret
    try:
        done = subprocess.run(command, input=grammar.encode(), capture_output=True, timeout=_PATIENCE_S, env=path)
    except subprocess.TimeoutExpired:
        return "it takes too much time"
    if done.returncode:
        _log.warning("a grammar has ended the process that tried it: %s", done.stderr.decode("utf-8", "replace")[-400:])
        return "it takes too much time or memory"
    return done.stdout.decode().strip()


def problem_of(matcher: LLMatcher) -> str:
    """What llguidance says is wrong, in one line; empty where nothing is."""
    said = " ".join(matcher.get_error().partition("<non-verbose/>")[0].partition("<backtrace>")[0].split())
    return "nothing can match it" if said.startswith("NoExtension") else said


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    matcher = LLMatcher(LLTokenizer("byte"), sys.stdin.buffer.read().decode(), log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
        matcher.consume_tokens(list(matcher.compute_ff_bytes()))  # what it must begin with, such as a brace
        matcher.compute_bitmask()
    sys.stdout.buffer.write(problem_of(matcher).encode())


if __name__ == "__main__":
    _main()
