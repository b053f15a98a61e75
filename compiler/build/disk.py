"""The file system's refusals, in words."""

from collections.abc import Iterator
from contextlib import contextmanager

from compiler.diagnostics import ConfigErrors, Diagnostic


@contextmanager
def explained(path: str, outcome: str = "nothing was written", doing: str = "write") -> Iterator[None]:
    """Whatever the disk refuses within becomes ConfigErrors (E501) that names `path`."""
    try:
        yield
    except OSError as error:
        raise refused(path, doing, error.strerror or str(error), outcome) from error


def refused(path: str, doing: str, reason: str, outcome: str) -> ConfigErrors:
    """That the disk refuses something, why, and what has come of it."""
    problem = f"cannot {doing} {path}: {reason}"
    return ConfigErrors([Diagnostic("E501", f"{problem}; {outcome}" if outcome else problem, None)])
