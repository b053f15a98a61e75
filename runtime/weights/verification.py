"""Whether the files that are there are all that a model needs, and what they should be."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import WeightsError
from runtime.schema.lock import WeightsLock
from runtime.weights.cache import (
    CacheError,
    blob_algorithm,
    commit_of,
    folder_name,
    home_of,
    repository_folder,
    state_folder,
    view,
    view_folder,
)
from runtime.weights.digests import Digests
from runtime.weights.inspection import inspect
from runtime.weights.request import Request

_log = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_INDEX = "model.safetensors.index.json"
_INERT = frozenset({"", ".gif", ".gguf", ".jpg", ".md", ".pdf", ".png", ".rst", ".svg"})
"""Suffixes of files that no engine opens unless a registry file names them."""


def digests_for(name: str) -> Digests:
    """What is remembered of the files of a repository, or of a folder."""
    return Digests(_remembered(name))


def forget(request: Request) -> None:
    """Remember nothing of a model's files: they are read again."""
    _remembered(_name_of(request)).unlink(missing_ok=True)


def _remembered(name: str) -> Path:
    return state_folder("verified") / f"{name}.json"


def _name_of(request: Request) -> str:
    folder = request.local_folder
    return f"folder-{str(folder.resolve()).replace('/', '-')[-100:]}" if folder else folder_name(request.repository)


def snapshot_of(request: Request) -> Path | None:
    """The folder in the cache that has the model, or a part of it; None where there is none."""
    commit = request.commit or commit_of(request.repository, request.revision)
    folder = repository_folder(request.repository) / "snapshots" / commit if commit else None
    return folder if folder and folder.is_dir() else None


def cached(request: Request) -> Path | None:
    """The folder that the cache has of a model, whole and verified; None where it has none.

    With a lock that is a view of the lock's files, whatever else the cache has of the commit.

    Raises CacheError where it has only a part, or something in it is damaged; SelectionError where it has not the file
    that the model asks for by name.
    """
    folder = snapshot_of(request)
    if folder is None:
        return None
    digests = digests_for(_name_of(request))
    locked = _locked_files(request.repository, folder, request.lock) if request.lock else {}
    try:
        damaged = _not_as_locked(locked, request.lock, digests) if request.lock else _damaged(folder, digests)
    finally:
        digests.keep()
    if damaged is None:
        raise CacheError(f"{folder} does not hold all files that are locked")
    if damaged:
        raise CacheError(f"bad checksum: {folder / damaged[0]} is damaged")
    if request.lock:
        return _view(request.repository, request.lock, locked, folder)
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    request.wanted.of(there)
    check_shards(there)
    return folder


def _locked_files(repository: str, snapshot: Path, lock: WeightsLock) -> dict[str, Path]:
    """What the cache has of a lock's files: in the lock's own view, or in the commit's folder.

    In no other place: what only another commit has may go while it is looked at. A file of the commit's folder that is
    called by another digest is another lock's, and not damaged.
    """
    found: dict[str, Path] = {}
    for each in lock.files:
        places = (view_folder(repository, lock) / each.path, snapshot / each.path)
        for blob in (place.resolve() for place in places if place.is_file()):
            if blob_algorithm(blob) != "sha256" or blob.name == each.sha256:
                found.setdefault(each.path, blob)
    return found


def _view(repository: str, lock: WeightsLock, files: Mapping[str, Path], snapshot: Path) -> Path:
    try:
        return view(repository, lock, files)
    except OSError as error:  # a cache that is mounted for reading
        if any((snapshot / path).resolve() != file for path, file in files.items()):
            raise
        _log.warning("%s: %s: the commit's folder is loaded as it is", snapshot, error.strerror)
        return snapshot


def _not_as_locked(files: Mapping[str, Path], lock: WeightsLock, digests: Digests) -> list[str] | None:
    """Files, path -> where it is, whose content is not the locked one; None where one is missing."""
    if not all(each.path in files and files[each.path].is_file() for each in lock.files):
        return None
    blobs = [files[each.path] for each in lock.files]
    sizes_differ = {blob for each, blob in zip(lock.files, blobs, strict=True) if blob.stat().st_size != each.size}
    found = digests.of_all((blob, "sha256") for blob in blobs if blob not in sizes_differ)
    known = dict(zip((blob for blob in blobs if blob not in sizes_differ), found, strict=True))
    return [each.path for each, blob in zip(lock.files, blobs, strict=True) if known.get(blob) != each.sha256]


def _damaged(folder: Path, digests: Digests) -> list[str]:
    """Files whose blob is not what its name says."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    blobs = [path.resolve() for path in files]
    named = [(path, blob) for path, blob in zip(files, blobs, strict=True) if blob.parent.name == "blobs"]
    found = digests.of_all((blob, blob_algorithm(blob)) for _, blob in named)
    pairs = zip(named, found, strict=True)
    return [path.relative_to(folder).as_posix() for (path, blob), digest in pairs if digest != blob.name]


def check_shards(files: Mapping[str, Path]) -> None:
    """Raise WeightsError unless all files that the index of the weights names are there, name -> where."""
    index = files.get(_INDEX)
    if index is None:
        return
    try:
        named = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{_INDEX}: has no `weight_map`") from error
    if missing := sorted(str(each) for each in named - files.keys()):
        raise WeightsError(f"{_INDEX} names {missing[0]} ({len(missing)} such files), which is not there")


def check_commit(request: Request, commit: str | None, mirror: str) -> None:
    """Hold what a mirror's `hash` says, if it has one, against the commit that is asked for. Raises WeightsError."""
    if commit is not None and not _COMMIT.fullmatch(commit):
        raise WeightsError(f"{mirror}/hash: says {commit[:60]!r}, which is no commit; is it being filled?")
    if commit is None and request.commit and request.lock is None:
        raise WeightsError(f"{mirror} has no `hash`, and commit {request.commit} is asked for: lock the model")
    if request.commit and commit not in (None, request.commit):
        raise WeightsError(f"{mirror} holds commit {commit}, and {request.commit} is asked for")


def check_folder(request: Request, folder: Path) -> None:
    """Hold a folder that is used where it lies against the lock, or the commit asked for. Raises WeightsError."""
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {folder}")
    known = folder / "hash"
    check_commit(request, known.read_text().strip() if known.is_file() else None, str(folder))
    if request.lock is None:
        return
    digests = digests_for(_name_of(request))
    files = {each.path: (folder / each.path).resolve() for each in request.lock.files}
    try:
        wrong = _not_as_locked(files, request.lock, digests)
    finally:
        digests.keep()
    if wrong is None:
        missing = next(each.path for each in request.lock.files if not (folder / each.path).is_file())
        raise WeightsError(f"{folder} does not hold {missing}, which is locked")
    if wrong:
        raise WeightsError(f"{folder / wrong[0]}: bad checksum: it is not what the lock says")


def check_content(request: Request, folder: Path) -> None:
    """Let no library see what it should not: see `inspection`. Raises WeightsError."""
    inspect(folder, request.wanted.trust, home_of(folder))
    if request.lock is None:
        return
    locked = {each.path for each in request.lock.files}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.is_file() and not hidden and name not in locked and not _is_inert(path, request):
            raise WeightsError(f"{path}: is not in the lock, and an engine might load it; remove it, or lock anew")


def _is_inert(path: Path, request: Request) -> bool:
    """Whether no engine opens the file. Who reads a GGUF reads no safetensors, but transformers adds any adapter."""
    suffix = path.suffix.lower()
    is_other_format = request.wanted.gguf and suffix == ".safetensors" and not path.name.startswith("adapter_")
    return suffix in _INERT or is_other_format
