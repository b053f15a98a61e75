"""Commands about the API keys of a node: `keys new`."""

import argparse
import re
import secrets
from collections.abc import Callable
from hashlib import sha256

from compiler.exits import OK
from compiler.report import printing as report
from compiler.verbs.project import RefusedError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BYTES = 32
"""Of chance in a key: nobody guesses one, so that its plain SHA-256 gives nothing away."""


def keys(options: argparse.Namespace) -> int:
    """A new key on standard error, shown this once, and on standard output its entry, for the file of keys."""
    if not _NAME.fullmatch(options.name):
        raise RefusedError(f"`{options.name}` is no name: up to 64 letters, digits, `_`, `.` and `-`")
    key = f"sk-{secrets.token_urlsafe(_BYTES)}"
    report.print_failure(f"the key of {options.name}, which is not shown again: {key}")
    report.print_lines([
        f'[keys."{options.name}"]',
        f'sha256 = "{sha256(key.encode()).hexdigest()}"',
        '# models = ["acme/*"]',
        "# requests_per_minute = 60",
        "# tokens_per_minute = 100000",
    ])  # fmt: skip
    return OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"keys": keys}
