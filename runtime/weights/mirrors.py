"""A mirror filled: a model's files and `hash`, in a bucket or a folder."""

import shutil
from pathlib import Path

from runtime.errors import WeightsError
from runtime.schema.weights import S3MirrorConfig
from runtime.weights.cache import folder_name
from runtime.weights.digests import write_atomically
from runtime.weights.progress import Progress
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.s3 import HASH_FILE, S3Mirror
from runtime.weights.turns import alone

INCOMPLETE = "incomplete"
"""What `hash` says while a mirror is filled; no commit is called so."""


def push(request: Request, folder: Path, commit: str, target: S3MirrorConfig, pace: Pace) -> list[str]:
    """Send the files that the model needs; the names of what was sent.

    What is half there is no mirror: until all is, `hash` says that it is not. Raises WeightsError.
    """
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names = [each.path for each in request.lock.files] if request.lock else request.wanted.of(there)
    assert target.bucket_uri is not None
    is_folder = not target.bucket_uri.startswith("s3://")
    to = Path(target.bucket_uri.removeprefix("file://"))
    if is_folder and ":" in str(to).partition("/")[0]:
        raise WeightsError(f"{target.bucket_uri}: is neither an address such as s3://bucket/prefix/ nor a folder")
    total = sum(there[name].stat().st_size for name in names)
    with alone(f"push-{folder_name(request.repository)}") as note, Progress("push", total, note) as progress:
        if is_folder:
            _copy({name: there[name] for name in names}, commit, to, progress)
            return names
        mirror = S3Mirror(target, pace)
        mirror.put_commit(INCOMPLETE)
        for name in names:
            mirror.put(name, there[name], progress)
        mirror.put_commit(commit)
    return names


def _copy(files: dict[str, Path], commit: str, target: Path, progress: Progress) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / HASH_FILE, f"{INCOMPLETE}\n")
        for name, path in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            temporary = target / f".{Path(name).name}.new"
            shutil.copyfile(path, temporary)
            temporary.replace(target / name)
            progress(path.stat().st_size)
        write_atomically(target / HASH_FILE, f"{commit}\n")
    except OSError as error:
        raise WeightsError(f"{error.filename or target}: {error.strerror or error}") from error
