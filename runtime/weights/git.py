"""A model in a git repository with large files kept aside (LFS), by git's own commands."""

import os
import shutil
import subprocess
from pathlib import Path

from runtime.errors import WeightsError

_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_S = 6 * 3600
_CLOSED = (
    "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "core.symlinks=false",
    "-c", "core.fsmonitor=false", "-c", "init.templateDir=",
)  # fmt: skip
"""Nothing that a repository holds, or that the machine has for others, is run."""


def clone(uri: str, revision: str, folder: Path) -> str:
    """The files of a branch, tag or commit in an empty `folder`; the commit. Raises WeightsError."""
    if not shutil.which("git"):
        raise WeightsError(f"{uri}: needs git, and this node has none")
    _git(folder, uri, "init", "--quiet")
    _git(folder, uri, "fetch", "--quiet", "--depth", "1", "--", uri, revision)
    _git(folder, uri, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    if any(_is_pointer(file) for file in _files(folder)):
        if not shutil.which("git-lfs"):
            raise WeightsError(f"{uri}: keeps its large files in LFS; that needs git-lfs, and this node has none")
        _git(folder, uri, "remote", "add", "origin", uri)
        _git(folder, uri, "lfs", "pull")
    return _git(folder, uri, "rev-parse", "HEAD").strip()


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if ".git" not in file.parts and file.is_file()]


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def _git(folder: Path, uri: str, *words: str) -> str:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    command = ["git", *_CLOSED, *words]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_LONGEST_S, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WeightsError(f"{uri}: git {words[0]}: {error}") from error
    if done.returncode:
        raise WeightsError(f"{uri}: git {words[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
