"""Logs: one line is one record, in JSON.

Modules log an event, a word, with what belongs to it in `extra`. Ray Serve's own formatter writes the lines; the
compiler asks for it (`logging_config`), and `forward_to` sends ours there.
"""

import logging
import os
from collections.abc import Mapping

PROMPTS = "LLM_SERVE_LOG_PROMPTS"
"""The environment variable that, if it is 1, puts the bodies of requests into their records."""


def prompts_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the node wants to see what is asked."""
    return environment.get(PROMPTS) == "1"


class _Forward(logging.Handler):
    """Hands each record to another logger, at its level."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        if self._logger.isEnabledFor(record.levelno):
            self._logger.handle(record)


def forward_to(name: str) -> None:
    """Send all that the runtime logs to another logger's handlers, and only there."""
    ours, theirs = logging.getLogger("runtime"), logging.getLogger(name)
    ours.handlers = [_Forward(theirs)]
    ours.setLevel(logging.INFO)
    ours.propagate = False
