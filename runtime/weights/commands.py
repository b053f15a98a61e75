"""What `llm-serve lock` and `llm-serve weights` do, for the model that an application's arguments describe.

The one door through which the compiler's command line comes in: what is fetched and verified for people is fetched and
verified as on a replica.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from runtime.application import ModelArguments
from runtime.errors import WeightsError
from runtime.phases import Phases
from runtime.schema.lock import ModelLock
from runtime.schema.weights import S3MirrorConfig
from runtime.weights import eviction, locking, mirrors
from runtime.weights.cache import CACHE_VARIABLE, cache_folder
from runtime.weights.durability import wait_until_safe
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.sources import held, obtain
from runtime.weights.verification import check_content, forget


class Snapshot(NamedTuple):
    """A model in the cache; `size` in bytes, `last_used` in seconds since 1970."""

    repository: str
    commit: str
    size: int
    last_used: float
    is_used: bool


def lock(arguments: ModelArguments, *, here: bool) -> ModelLock:
    """The lock of a model as it is now: on the hub, or `here`, in its own sources. Raises WeightsError."""
    request = Request.of(arguments, will_be_locked=True)
    return locking.lock_from_sources(request, Pace()) if here else locking.lock_from_hub(request, Pace())


def pull(arguments: ModelArguments) -> Path:
    """The model's folder, fetched and verified as a replica does it. Raises WeightsError."""
    request = Request.of(arguments)
    folder = obtain(request, Pace(), Phases())
    check_content(request, folder)
    wait_until_safe()
    return folder


def verify(arguments: ModelArguments) -> Path:
    """The model's folder, every file in it read again, whatever is remembered of it; nobody is asked.

    Raises WeightsError where something is missing or damaged.
    """
    request = Request.of(arguments)
    forget(request)
    folder = held(request)
    check_content(request, folder)
    return folder


def push(arguments: ModelArguments, target: str | None) -> tuple[str, list[str]]:
    """Fill a mirror with the model: `target`, or the one that its file names; its address, and the files' names.

    Raises WeightsError.
    """
    request = Request.of(arguments)
    own = request.mirror
    uri = target or own.bucket_uri
    if uri is None:
        raise WeightsError(f"{request.declared_in} names no mirror; say which with `--to s3://bucket/prefix/`")
    others = own if target and target != own.bucket_uri else S3MirrorConfig(git_uri=own.git_uri)
    source = replace(request, mirror=others)
    folder = obtain(source, Pace(), Phases())
    check_content(source, folder)
    mirror = S3MirrorConfig(bucket_uri=uri, endpoint_url=own.endpoint_url, s3_sync_args=own.s3_sync_args)
    commit = source.lock.commit if source.lock else locking.commit_held(folder)
    return uri, mirrors.push(source, folder, commit, mirror, Pace())


def snapshots() -> tuple[Path, list[Snapshot]]:
    """The cache's folder, and what it has. Raises WeightsError where it is no folder."""
    if cache_folder().exists() and not cache_folder().is_dir():
        raise WeightsError(f"{cache_folder()} is no folder; {CACHE_VARIABLE} names another one")
    return cache_folder(), [_snapshot(each) for each in eviction.snapshots()]


def collect(most: int | None) -> list[Snapshot]:
    """Remove what was used least until the cache has at most so many bytes; what was removed. Raises WeightsError."""
    if most is None and eviction.limit() is None:
        raise WeightsError(f"how much may stay? Say `--keep-bytes`, or set {eviction.LIMIT_VARIABLE}")
    return [_snapshot(each) for each in eviction.make_room(most)]


def _snapshot(kept: eviction.Kept) -> Snapshot:
    return Snapshot(kept.repository, kept.commit, kept.size, kept.last_used, kept.is_used)
