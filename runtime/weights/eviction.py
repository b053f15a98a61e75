"""Room in the cache: what nobody has used for the longest time goes first, and nothing that is in use."""

import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import WeightsError
from runtime.weights.cache import cache_folder, views
from runtime.weights.turns import alone, if_nobody, is_used, last_used

_log = logging.getLogger(__name__)

LIMIT_VARIABLE = "LLM_SERVE_CACHE_MAX_BYTES"


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot in the cache. `size`: of all its files, in bytes, those too that it shares with others."""

    repository: str
    commit: str
    folder: Path
    size: int
    last_used: float
    is_used: bool


def snapshots() -> list[Kept]:
    """All that the cache has, the one that was used last at the end."""
    found = []
    named = (each for kind in ("snapshots", "views") for each in cache_folder().glob(f"models--*/{kind}/[!.]*"))
    for folder in {each.parent.parent / "snapshots" / each.name for each in named if each.is_dir()}:
        with suppress(FileNotFoundError):  # somebody else makes room
            found.append(_kept(folder))
    return sorted(found, key=lambda each: each.last_used)


def _kept(folder: Path) -> Kept:
    repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    size = _size(_blobs(folder))
    return Kept(repository, folder.name, folder, size, last_used(folder), is_used(folder))


def limit() -> int | None:
    """The most bytes that the cache should hold; None for no limit. Raises WeightsError."""
    said = os.environ.get(LIMIT_VARIABLE, "")
    if said and not said.isdecimal():
        raise WeightsError(f"{LIMIT_VARIABLE} is {said!r}, and should be a number of bytes")
    return int(said) if said else None


def make_room(most: int | None = None) -> list[Kept]:
    """Remove snapshots until the cache holds no more than `most` bytes, or what the variable says; what was removed.

    One process at a time. Raises WeightsError, OSError.
    """
    most = limit() if most is None else most
    removed: list[Kept] = []
    if most is None:
        return removed
    with alone("room in the cache"):
        for each in snapshots():
            if _size(cache_folder().glob("models--*/blobs/*")) <= most:
                break
            with if_nobody(each.folder.parent.parent.name, each.folder) as is_free:
                if is_free:
                    _remove(each)
                    removed.append(each)
    return removed


def _blobs(snapshot: Path) -> set[Path]:
    """What a snapshot and the views of its commit lead to."""
    seen_in = views(snapshot.parent.parent, snapshot.name)
    return {path.resolve() for folder in (snapshot, seen_in) for path in folder.rglob("*") if path.is_file()}


def _size(paths: Iterable[Path]) -> int:
    """Bytes of the files among paths, of which some may go meanwhile."""
    size = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _remove(kept: Kept) -> None:
    """A snapshot, its views, what stood for it, and the blobs that no other one has."""
    _log.info("removing %s at %s from the model cache", kept.repository, kept.commit[:12])
    repository = kept.folder.parent.parent
    blobs = _blobs(kept.folder)
    for folder in (views(repository, kept.commit), kept.folder):
        if folder.exists():  # somebody may have taken one of them out by hand
            shutil.rmtree(folder)
    for reference in (repository / "refs").rglob("*"):
        if reference.is_file() and reference.read_text().strip() == kept.commit:
            reference.unlink()
    rest = (repository / "snapshots", repository / "views")
    needed = {path.resolve() for folder in rest for path in folder.rglob("*") if path.is_file()}
    for blob in blobs - needed:
        if blob.parent == (repository / "blobs").resolve():
            blob.unlink(missing_ok=True)
