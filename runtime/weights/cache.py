"""The model cache: the Hugging Face hub's folder layout under the user's cache folder.

    models--ORG--NAME/refs/main                    the commit that `main` stands for
    models--ORG--NAME/snapshots/<commit>/<file>    a link into blobs/
    models--ORG--NAME/blobs/<digest>               the content, named by its own digest
    models--ORG--NAME/views/<commit>/<lock>/       links to the files of one lock, and to no others
    .llm-serve/                                    what is remembered about them, and locks

A blob's name is its checksum: SHA-256 for large files, git's SHA-1 for small ones. So whatever `hf download
--cache-dir` has fetched can be verified, and a damaged file is never loaded.
Source: huggingface_hub, "Understand caching".
"""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import WeightsError
from runtime.schema.lock import WeightsLock
from runtime.weights.digests import digest_of, write_atomically

CACHE_VARIABLE = "LLM_SERVE_CACHE"
_FOLDER = "models--"
_SHA256_DIGITS = 64


class CacheError(WeightsError):
    """The cache does not hold what was asked for, or not as it should be."""


def cache_folder() -> Path:
    """`$LLM_SERVE_CACHE`, else `llm-serve/hub` under the user's cache folder (XDG)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-serve" / "hub"


def state_folder(kind: str) -> Path:
    """Where things of one kind are kept beside the models, whether there is one or not."""
    return cache_folder() / ".llm-serve" / kind


def folder_name(repository: str) -> str:
    """The name of a repository's folder."""
    return f"{_FOLDER}{repository.replace('/', '--')}"


def repository_folder(repository: str) -> Path:
    """The folder of a repository, whether there is one or not."""
    return cache_folder() / folder_name(repository)


def home_of(path: Path) -> Path | None:
    """The repository's folder in a cache that a path is under, where links may lead to; None outside every cache."""
    homes = (each for each in path.parents if each.name.startswith(_FOLDER) and (each / "blobs").is_dir())
    return next(homes, None)


def commit_of(repository: str, revision: str) -> str | None:
    """The commit that a revision stood for when it was fetched; None for one that is no name of any."""
    reference = repository_folder(repository) / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else None


def snapshot(repository: str, revision: str) -> Path:
    """The folder with the files of `repository` at `revision` (branch, tag or commit).

    Raises CacheError where there is none.
    """
    folder = repository_folder(repository)
    if not folder.is_dir():
        raise CacheError(f"{repository} is not in the model cache {cache_folder()}")
    found = folder / "snapshots" / (commit_of(repository, revision) or revision)
    if not found.is_dir():
        raise CacheError(f"{repository} is in the model cache {cache_folder()}, but not its revision {revision}")
    return found


def blob_algorithm(blob: Path) -> str:
    """By what algorithm a blob is named."""
    return "sha256" if len(blob.name) == _SHA256_DIGITS else "git-sha1"


def verify(path: Path) -> None:
    """Raises CacheError unless the blob behind `path` has the digest that it is named after.

    A file that is no link into `blobs/` (a local folder's) has no such name, and passes.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs":
        check_blob(path, blob, digest_of(blob, blob_algorithm(blob)))


def check_blob(path: Path, blob: Path, digest: str) -> None:
    """Raise CacheError unless a blob's name is its digest."""
    if digest != blob.name:
        raise CacheError(
            f"bad checksum: {path.name} has digest {digest[:12]}..., its name in the cache says "
            f"{blob.name[:12]}...; the file is damaged: delete {blob} and fetch it again"
        )


def publish(repository: str, commit: str, blobs: Mapping[str, str], revision: str | None = None) -> Path:
    """Let a commit's files be found, name -> name of a blob that is there; the commit's folder.

    All at once if the commit is new. `revision`: a name of it, which then stands for this commit.
    """
    folder = repository_folder(repository)
    final = folder / "snapshots" / commit
    final.parent.mkdir(parents=True, exist_ok=True)
    made = final if final.is_dir() else Path(tempfile.mkdtemp(dir=final.parent, prefix=".new-"))
    for name, blob in blobs.items():
        link_to(folder / "blobs" / blob, made / name)
    if made != final:
        made.chmod(0o755)
        made.replace(final)
    if revision and revision != commit:
        reference = folder / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, commit)
    return final


def views(repository: Path, commit: str) -> Path:
    """Where the views of a commit are, in its repository's folder."""
    return repository / "views" / commit


def view_folder(repository: str, lock: WeightsLock) -> Path:
    """Where the view of a lock is, or would be. Its name is no commit's, for which nobody should take it."""
    name = f"lock-{named_by_content({each.path: each.sha256 for each in lock.files})}"
    return views(repository_folder(repository), lock.commit) / name


def view(repository: str, lock: WeightsLock, files: Mapping[str, Path]) -> Path:
    """A folder with the files of a lock, name -> where it is in the cache, and no others.

    What loads a model reads whatever lies in its folder, and a snapshot may have what other locks of its commit list.
    """
    folder = view_folder(repository, lock)
    for path, file in files.items():
        link_to(file, folder / path)
    return folder


def link_to(file: Path, link: Path) -> None:
    """Let `link` lead to a file of the cache, by a way that stays right where the cache is moved to."""
    target = Path(os.path.relpath(file.parent.resolve() / file.name, link.parent.resolve()))
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(8)}")  # several processes may make the same view
    temporary.symlink_to(target)
    temporary.replace(link)


def named_by_content(digests: Mapping[str, str]) -> str:
    """A commit for files that have none, name -> digest: the same for the same files."""
    listed = "".join(f"{digest} {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listed.encode()).hexdigest()[:40]


def store(repository: str, files: Mapping[str, Path]) -> Path:
    """Copy files into the cache as `repository`'s main revision, name -> where it is now; the revision's folder.

    The revision is named after the content. Every step is atomic, so a cache that was interrupted is only older.
    """
    digests = {name: digest_of(source) for name, source in sorted(files.items())}
    return store_commit(repository, named_by_content(digests), "main", files, digests)


def store_commit(
    repository: str, commit: str, revision: str, files: Mapping[str, Path], digests: Mapping[str, str]
) -> Path:
    """Copy files into the cache as a commit of `repository`, name -> where it is now, and its SHA-256."""
    blobs = repository_folder(repository) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for name, digest in digests.items():
        blob = blobs / digest
        if not blob.exists() or digest_of(blob) != digest:
            handle, temporary = tempfile.mkstemp(dir=blobs)
            os.close(handle)
            shutil.copyfile(files[name], temporary)
            Path(temporary).replace(blob)
    return publish(repository, commit, digests, revision)
