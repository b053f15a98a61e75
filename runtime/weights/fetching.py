"""A model's files into the cache, from the first of its sources that has them."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import WeightsError
from runtime.schema.lock import WeightsLock
from runtime.weights.cache import (
    blob_algorithm,
    cache_folder,
    folder_name,
    named_by_content,
    publish,
    repository_folder,
    store_commit,
    view,
)
from runtime.weights.digests import Digest, Digests, digest_of
from runtime.weights.download import download
from runtime.weights.durability import remember_once_safe
from runtime.weights.git import clone
from runtime.weights.hub import Hub
from runtime.weights.inspection import check_name
from runtime.weights.progress import Progress
from runtime.weights.remote import Pace, Remote, RemoteFile
from runtime.weights.request import Request
from runtime.weights.s3 import S3Mirror
from runtime.weights.selection import SelectionError
from runtime.weights.verification import cached, check_commit, check_shards, digests_for

_log = logging.getLogger(__name__)

Note = Callable[[str], None]
"""Takes lines about how far it is."""


def fetch(request: Request, pace: Pace, note: Note, before: WeightsError | None = None) -> Path:
    """The folder in the cache, whole and verified. `before`: why what the cache had is not good enough.

    Raises WeightsError that says of each source why it has not got the model; SelectionError if one of them has no file
    of the name that is asked for.
    """
    fetch_ = _Fetch(request, pace, note)
    problems = [before] if before else []
    for source in fetch_.sources():
        try:
            return source()
        except WeightsError as error:
            _log.warning("%s: %s", request.repository, error)
            problems.append(error)
    at = f"at {request.commit[:12]}" if request.commit else f"at revision {request.revision}"
    kind = SelectionError if any(isinstance(each, SelectionError) for each in problems) else WeightsError
    raise kind(f"cannot get {request.repository} {at}: {'; '.join(map(str, problems))}")


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One model's way into the cache."""

    request: Request
    pace: Pace
    note: Note

    def sources(self) -> list[Callable[[], Path]]:
        """In the order in which they are asked: what the registry file names, then the hub."""
        mirror = self.request.mirror
        named = [(mirror.bucket_uri, self._from_s3), (mirror.git_uri, self._from_git)]
        last = [self._from_hub] if self.request.commit or not mirror.bucket_uri else [self._from_hub, self._from_before]
        return [*(source for is_named, source in named if is_named), *last]

    def _from_s3(self) -> Path:
        request, mirror = self.request, S3Mirror(self.request.mirror, self.pace)
        commit = mirror.commit()
        check_commit(request, commit, mirror.uri)
        if request.lock:
            names = [each.path for each in request.lock.files]
        else:
            names = _wanted(request, _checked(mirror.files()), mirror.uri)
        files = mirror.described(names)
        commit = request.commit or commit or named_by_content({each.path: str(each.etag) for each in files})
        return self._into_cache(commit, mirror, files)

    def _from_hub(self) -> Path:
        request, hub = self.request, Hub(self.request.repository, self.pace)
        found = hub.revision(request.commit or request.revision)
        listed = {each.path: each for each in found.files}
        if request.lock:
            names = [each.path for each in request.lock.files]
            if missing := [name for name in names if name not in listed]:
                raise WeightsError(f"{hub.endpoint}/{request.repository}: has no file {missing[0]} any more")
        else:
            names = _wanted(request, listed.values(), f"{hub.endpoint}/{request.repository}")
        check_commit(request, found.commit, hub.endpoint)
        return self._into_cache(found.commit, hub, _checked(listed[name] for name in names))

    def _from_git(self) -> Path:
        request, uri = self.request, str(self.request.mirror.git_uri)
        cache_folder().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=".git-"))
        try:
            commit = clone(uri, request.commit or request.revision, folder)
            check_commit(request, commit, uri)
            there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if _is_plain(path)}
            listed = _checked(RemoteFile(name, uri, path.stat().st_size) for name, path in there.items())
            locked = {each.path: each.sha256 for each in request.lock.files} if request.lock else {}
            names = list(locked) or _wanted(request, listed, uri)
            if missing := [name for name in names if name not in there]:
                raise WeightsError(f"{uri}: has no file {missing[0]}")
            files = {name: there[name] for name in names}
            digests = {name: digest_of(path) for name, path in files.items()}
            if wrong := [name for name, digest in locked.items() if digests[name] != digest]:
                raise WeightsError(f"{uri}: {wrong[0]} is not what the lock says")
            check_shards(files)
            snapshot = store_commit(request.repository, commit, _name_of(request), files, digests)
            return self._as_asked(snapshot, digests)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _from_before(self) -> Path:
        """What was fetched the last time, where no source answers."""
        request = self.request
        folder = cached(request)
        if folder is None:
            raise WeightsError(f"and the model cache {cache_folder()} has none")
        _log.warning("%s: no source answers; commit %s of the cache is used", request.repository, folder.name[:12])
        return folder

    def _into_cache(self, commit: str, remote: Remote, files: Sequence[RemoteFile]) -> Path:
        """Fetch what is missing, and only then let it be found."""
        request, files = self.request, _as_locked(self.request, remote, files)
        repository = repository_folder(request.repository)
        digests = digests_for(folder_name(request.repository))
        snapshot = repository / "snapshots" / commit
        blobs = {each.path: blob for each in files if (blob := _blob_of(each, snapshot, request.lock))}
        found = digests.of_all((blob, blob_algorithm(blob)) for blob in blobs.values())
        wanted = {each.path: each.digest for each in files}
        there = {
            path: blob.name
            for (path, blob), digest in zip(blobs.items(), found, strict=True)
            if digest == blob.name and _has(blob, wanted[path], digests)
        }
        missing = [each for each in files if each.path not in there]
        if missing:
            with Progress(request.repository, sum(each.size for each in missing), self.note) as progress:
                fetched = download(remote, missing, repository / "blobs", self.pace, progress)
            blobs_fetched = [(repository / "blobs" / sha256).resolve() for sha256 in set(fetched.values())]
            remember_once_safe(blobs_fetched, digests_for(folder_name(request.repository)))
            there |= fetched
        check_shards({name: repository / "blobs" / blob for name, blob in there.items()})
        return self._as_asked(publish(request.repository, commit, there, _name_of(request)), there)

    def _as_asked(self, snapshot: Path, blobs: Mapping[str, str]) -> Path:
        """The snapshot, or the lock's own view of it."""
        lock, home = self.request.lock, snapshot.parent.parent
        files = {path: home / "blobs" / blob for path, blob in blobs.items()}
        return view(self.request.repository, lock, files) if lock else snapshot


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and ".git" not in path.parts


def _name_of(request: Request) -> str:
    """The name that stands for the commit from now on: transformers looks for `main`."""
    return "main" if request.commit else request.revision


def _wanted(request: Request, files: Iterable[RemoteFile], where: str) -> list[str]:
    try:
        return request.wanted.of(each.path for each in files)
    except WeightsError as error:
        raise type(error)(f"{where}: {error}") from error


def _checked(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Files whose names are none that could lead out of the cache. Raises WeightsError."""
    checked = []
    twins: dict[str, str] = {}
    for each in files:
        if not any(part.startswith(".") for part in each.path.split("/")) or ".." in each.path.split("/"):
            check_name(each.path)
            if twins.setdefault(each.path.casefold(), each.path) != each.path:
                raise WeightsError(f"{each.path}: differs from {twins[each.path.casefold()]} in case only")
            checked.append(each)
    return checked


def _as_locked(request: Request, remote: Remote, files: Sequence[RemoteFile]) -> Sequence[RemoteFile]:
    """The files with the digests that they must have. Raises WeightsError where a size says that they have not."""
    if request.lock is None:
        return files
    locked = {each.path: each for each in request.lock.files}
    for each in files:
        if each.size != locked[each.path].size:
            sizes = f"has {each.size} bytes, and {locked[each.path].size} are locked"
            raise WeightsError(f"{remote.name_of(each)}: {sizes}")
    return [replace(each, digest=Digest("sha256", locked[each.path].sha256)) for each in files]


def _has(blob: Path, wanted: Digest | None, digests: Digests) -> bool:
    """Whether a blob that is what its name says is what the source has, as far as that says."""
    return wanted is None or wanted.hex == blob.name or digests.of(blob, wanted.algorithm) == wanted.hex


def _blob_of(file: RemoteFile, snapshot: Path, lock: WeightsLock | None) -> Path | None:
    """The blob that should hold a file already, if there is one."""
    if lock and file.digest:
        blob = snapshot.parent.parent / "blobs" / file.digest.hex
        return blob if blob.is_file() else None
    link = snapshot / file.path
    return link.resolve() if link.is_file() and link.stat().st_size == file.size else None
