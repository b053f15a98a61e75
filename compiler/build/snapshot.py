"""What the files looked like when they were last known to be right: the proof that a build has nothing to do.

A file is one line: path, size, time of change, inode. If every line is as it was, nothing has changed; the lines that
are not say what has. Light, because most builds end here: it imports neither the language nor the schema.
"""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

from compiler.build.places import GENERATED, SNAPSHOT
from compiler.source.walk import walk

_CLOCK_TICK_NS = 20_000_000
"""A file system's clock may tick as rarely as every 10 ms: a file that changed within a tick may do so again unseen."""
_COARSE_TICK_NS = 2_000_000_000
"""That of file systems which keep whole seconds, the coarsest two."""
_SUFFIXES = (".py", ".json")


Lines = dict[str, str]
"""A snapshot: the line of each file, by its path."""


def take(root: str) -> Lines:
    """How things are. Raises OSError where a folder cannot be looked into."""
    lines = {}
    for folder in ("base", "registry", GENERATED):
        for path, entry in walk(root, folder):
            lines[path] = _line(path, entry.stat(follow_symlinks=False))
    return _compiler() | lines


def last(root: str) -> Lines:
    """What was kept; nothing where that is lost."""
    _, *lines = _kept(root).decode("utf-8", "surrogateescape").split("\n")
    return {line.partition("\t")[0]: line for line in lines}


def changed(before: Lines, now: Lines) -> set[str]:
    """The paths that have come, gone or changed."""
    return {path for path, _ in before.items() ^ now.items()}


def unchanged(root: str) -> str | None:
    """The summary of the last build, if nothing has changed since, and it had nothing else to say."""
    kept = _kept(root)
    summary = kept.partition(b"\n")[0].decode("ascii", "replace")
    return summary if summary and _encoded(summary, take(root)) == kept else None


def keep(root: str, seen: Lines, taken_ns: int, written: Iterable[str], summary: str) -> None:
    """Keep what was seen before a build, and how what it has written looks. Raises OSError.

    A file that was changed while it was looked at is left out, so that the next build looks again. `summary`: what to
    say of a build that has nothing to do; empty if it has to speak for itself.
    """
    lines = {path: line for path, line in seen.items() if _is_old(line, taken_ns)}
    for path in written:
        lines.pop(path, None)
        with suppress(FileNotFoundError):  # it was removed
            lines[path] = _line(path, os.lstat(f"{root}/{path}"))
    temporary = f"{root}/{SNAPSHOT}.new"
    with open(temporary, "wb") as stream:
        stream.write(_encoded(summary, lines))
    os.replace(temporary, f"{root}/{SNAPSHOT}")


def now_ns() -> int:
    """The clock that files' times are of."""
    return time.time_ns()


def _encoded(summary: str, lines: Lines) -> bytes:
    return "\n".join([summary, *sorted(lines.values())]).encode("utf-8", "surrogateescape")


def _kept(root: str) -> bytes:
    try:
        with open(f"{root}/{SNAPSHOT}", "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def _is_old(line: str, taken_ns: int) -> bool:
    changed = int(line.split("\t")[2])
    tick = _CLOCK_TICK_NS if changed % 1_000_000_000 else _COARSE_TICK_NS
    return changed + tick < taken_ns


def _line(path: str, stat: os.stat_result) -> str:
    if (stat.st_mode & 0o170000) == 0o120000:
        return f"{path}\t0\t{now_ns()}\tlink"  # what it leads to may change: it is read each time
    return f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ino}"


def _compiler() -> dict[str, str]:
    """The compiler itself, and, as one line, what is installed beside it."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    lines = {}
    for folder in ("compiler", "runtime"):
        for path, entry in walk(here, folder):
            if path.endswith(_SUFFIXES):
                lines[f"//{path}"] = _line(f"//{path}", entry.stat())
    libraries = next((folder for folder in sys.path if folder.endswith("site-packages")), sys.prefix)
    lines["//python"] = f"//python\t{sys.version_info[:3]}\t{os.stat(libraries).st_mtime_ns}\t{sys.prefix}"
    return lines
