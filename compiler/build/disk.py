"""The file system's refusals, in words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from compiler.diagnostics import ConfigErrors, Diagnostic


@contextmanager
def explained(path: str, outcome: str = "nothing was written", doing: str = "write") -> Iterator[None]:
    """Whatever the disk refuses within becomes ConfigErrors (E501) that names `path`."""
    try:
        yield
    except OSError as error:
        raise _refused(path, doing, error.strerror or str(error), outcome) from error
    except sqlite3.OperationalError as error:
        raise _refused(path, doing, str(error), outcome) from error


def _refused(path: str, doing: str, reason: str, outcome: str) -> ConfigErrors:
    problem = f"cannot {doing} {path}: {reason}"
    return ConfigErrors([Diagnostic("E501", f"{problem}; {outcome}" if outcome else problem, None)])
