"""The model cache: the Hugging Face hub's folder layout under the user's cache folder.

    models--ORG--NAME/refs/main                    the commit that `main` stands for
    models--ORG--NAME/snapshots/<commit>/<file>    a link into blobs/
    models--ORG--NAME/blobs/<digest>               the content, named by its own digest

A blob's name is its checksum: SHA-256 for large files, git's SHA-1 for small ones. So whatever `hf download
--cache-dir` has fetched can be verified, and a damaged file is never loaded.
Source: huggingface_hub, "Understand caching".
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

CACHE_VARIABLE = "LLM_SERVE_CACHE"
_CHUNK = 1 << 20


class CacheError(Exception):
    """The cache does not hold what was asked for, or not as it should be."""


def cache_folder() -> Path:
    """`$LLM_SERVE_CACHE`, else `llm-serve/hub` under the user's cache folder (XDG)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-serve" / "hub"


def snapshot(repository: str, revision: str) -> Path:
    """The folder with the files of `repository` at `revision` (branch, tag or commit).

    Raises CacheError where there is none.
    """
    folder = _repository_folder(repository)
    if not folder.is_dir():
        raise CacheError(f"{repository} is not in the model cache {cache_folder()}")
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    found = folder / "snapshots" / commit
    if not found.is_dir():
        raise CacheError(f"{repository} is in the model cache {cache_folder()}, but not its revision {revision}")
    return found


def verify(path: Path) -> None:
    """Raises CacheError unless the blob behind `path` has the digest that it is named after.

    A file that is no link into `blobs/` (a local folder's) has no such name, and passes.
    """
    blob = path.resolve()
    if blob.parent.name != "blobs":
        return
    digest = _sha256(blob) if len(blob.name) == 64 else _git_sha1(blob)
    if digest != blob.name:
        raise CacheError(
            f"bad checksum: {path.name} has digest {digest[:12]}..., its name in the cache says "
            f"{blob.name[:12]}...; the file is damaged: delete {blob} and fetch it again"
        )


def store(repository: str, files: Mapping[str, Path]) -> Path:
    """Copy files into the cache as `repository`'s main revision, name -> where it is now; the revision's folder.

    The revision is named after the content. Every step is atomic, so a cache that was interrupted is only older.
    """
    digests = {name: _sha256(source) for name, source in sorted(files.items())}
    listed = "".join(f"{digest} {name}\n" for name, digest in digests.items())
    commit = hashlib.sha256(listed.encode()).hexdigest()[:40]
    folder = _repository_folder(repository)
    for name in ("blobs", f"snapshots/{commit}", "refs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, digest in digests.items():
        blob = folder / "blobs" / digest
        if not blob.exists() or _sha256(blob) != digest:
            handle, temporary = tempfile.mkstemp(dir=blob.parent)
            os.close(handle)
            shutil.copyfile(files[name], temporary)
            Path(temporary).replace(blob)
        link = folder / "snapshots" / commit / name
        if not link.is_symlink():
            link.symlink_to(Path("../..", "blobs", digest))
    _write_atomically(folder / "refs" / "main", commit)
    return folder / "snapshots" / commit


def _repository_folder(repository: str) -> Path:
    return cache_folder() / f"models--{repository.replace('/', '--')}"


def _write_atomically(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    Path(temporary).replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
