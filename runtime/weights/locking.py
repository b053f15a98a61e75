"""Locks made: from what the hub says and the headers that it sends, or from files that are here."""

from pathlib import Path

from runtime.errors import WeightsError
from runtime.phases import Phases
from runtime.schema.lock import LockedFile, ModelLock
from runtime.weights.cache import folder_name
from runtime.weights.digests import new_hash
from runtime.weights.facts import facts_of
from runtime.weights.hub import Hub
from runtime.weights.inspection import check_name, reader
from runtime.weights.remote import BrokenOffError, Pace, RemoteFile
from runtime.weights.request import Request
from runtime.weights.safetensors import Read
from runtime.weights.sources import obtain
from runtime.weights.verification import check_content, digests_for

_SMALL = 64 << 20
"""Bytes of a file that the hub keeps in git itself; it allows fewer."""


def lock_from_hub(request: Request, pace: Pace) -> ModelLock:
    """What the revision is now. Weights are not fetched: the hub knows their digests. Raises WeightsError."""
    hub = Hub(request.repository, pace)
    found = hub.revision(request.revision)
    listed = {each.path: each for each in found.files}
    try:
        names = request.wanted.of(listed)
    except WeightsError as error:
        raise type(error)(f"{hub.endpoint}/{request.repository}: {error}") from error
    for name in names:
        check_name(name)
    files = [listed[name] for name in names]
    facts = facts_of({each.path: each.size for each in files}, lambda path: _read(hub, listed[path], pace))
    return ModelLock(
        repository=request.repository,
        revision=request.revision,
        commit=found.commit,
        licence=found.licence,
        gated=found.gated,
        facts=facts,
        files=[LockedFile(path=each.path, size=each.size, sha256=_sha256(hub, each, pace)) for each in files],
    )


def _read(hub: Hub, file: RemoteFile, pace: Pace) -> Read:
    """Reads pieces of a file on the hub."""

    def read(start: int, count: int) -> bytes:
        end = min(start + count, file.size)
        return pace.asked(lambda: _piece(hub, file, start, end), hub.name_of(file)) if start < end else b""

    return read


def _piece(hub: Hub, file: RemoteFile, start: int, end: int) -> bytes:
    with hub.read(file, start, end) as pieces:
        found = b"".join(pieces)
    if len(found) < end - start:
        raise BrokenOffError(f"{end - start - len(found)} bytes did not come")
    return found[: end - start]


def _sha256(hub: Hub, file: RemoteFile, pace: Pace) -> str:
    """What the hub says, or, for a small file, that of its content, which is what the hub says it is."""
    assert file.digest is not None
    if file.digest.algorithm == "sha256":
        return file.digest.hex
    if file.size > _SMALL:
        raise WeightsError(f"{hub.name_of(file)}: is {file.size} bytes large, and the hub does not know its SHA-256")
    content = _read(hub, file, pace)(0, file.size)
    own, sha256 = new_hash(file.digest.algorithm, file.size), new_hash("sha256", file.size)
    for each in (own, sha256):
        each.update(content)
    if own.hexdigest() != file.digest.hex:
        raise WeightsError(f"{hub.name_of(file)}: is not what the hub says it is; it was damaged on its way")
    return sha256.hexdigest()


def lock_from_sources(request: Request, pace: Pace) -> ModelLock:
    """What the model's own sources hold now: its folder, its mirror, the cache. Raises WeightsError."""
    folder = obtain(request, pace, Phases())
    check_content(request, folder)
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names = request.wanted.of(there)
    digests = digests_for(folder_name(request.repository))
    found = digests.of_all((there[name].resolve(), "sha256") for name in names)
    digests.keep()
    sizes = {name: there[name].stat().st_size for name in names}
    return ModelLock(
        repository=request.repository,
        revision=request.revision,
        commit=commit_held(folder),
        facts=facts_of(sizes, lambda path: reader(there[path])),
        files=[
            LockedFile(path=name, size=sizes[name], sha256=digest) for name, digest in zip(names, found, strict=True)
        ],
    )


def commit_held(folder: Path) -> str:
    """The commit that a folder holds: a snapshot is called like it, a mirror's folder has it in `hash`."""
    known = folder / "hash"
    commit = known.read_text().strip() if known.is_file() else folder.name
    if len(commit) != 40 or set(commit) - set("0123456789abcdef"):
        raise WeightsError(f"{folder} does not say which commit it holds: write all 40 digits of it into {known}")
    return commit
