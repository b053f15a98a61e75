"""Room in the cache: what nobody has used for the longest time goes first, and nothing that is in use."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import WeightsError
from runtime.weights.cache import cache_folder
from runtime.weights.turns import is_used, last_used

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
    found = [_kept(folder) for folder in cache_folder().glob("models--*/snapshots/[!.]*") if folder.is_dir()]
    return sorted(found, key=lambda each: each.last_used)


def _kept(folder: Path) -> Kept:
    repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Kept(repository, folder.name, folder, size, last_used(folder), is_used(folder))


def limit() -> int | None:
    """The most bytes that the cache should hold; None for no limit. Raises WeightsError."""
    said = os.environ.get(LIMIT_VARIABLE, "")
    if said and not said.isdecimal():
        raise WeightsError(f"{LIMIT_VARIABLE} is {said!r}, and should be a number of bytes")
    return int(said) if said else None


def make_room(most: int | None = None) -> list[Kept]:
    """Remove snapshots until the cache holds no more than `most` bytes, or what the variable says; what was removed."""
    most = limit() if most is None else most
    removed: list[Kept] = []
    if most is None:
        return removed
    for each in snapshots():
        if _total() <= most:
            break
        if not each.is_used:
            _remove(each)
            removed.append(each)
    return removed


def _total() -> int:
    return sum(path.stat().st_size for path in cache_folder().glob("models--*/blobs/*") if path.is_file())


def _remove(kept: Kept) -> None:
    """A snapshot, what stood for it, and the blobs that no other one has."""
    _log.info("removing %s at %s from the model cache", kept.repository, kept.commit[:12])
    repository = kept.folder.parent.parent
    blobs = {path.resolve() for path in kept.folder.rglob("*") if path.is_file()}
    shutil.rmtree(kept.folder)
    for reference in (repository / "refs").rglob("*"):
        if reference.is_file() and reference.read_text().strip() == kept.commit:
            reference.unlink()
    needed = {path.resolve() for path in (repository / "snapshots").rglob("*") if path.is_file()}
    for blob in blobs - needed:
        if blob.parent == (repository / "blobs").resolve():
            blob.unlink(missing_ok=True)
