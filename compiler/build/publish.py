"""Writing `generated/`: only what differs, each file wholly or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compiler.build.files import FOLDER, MARK
from compiler.diagnostics import ConfigErrors, Diagnostic

MANIFEST = f"{FOLDER}/manifest.json"


@dataclass(frozen=True, slots=True)
class Change:
    """A file whose bytes on disk (`old`) are not the compiled ones (`new`); None: there is no such file."""

    path: str
    old: bytes | None
    new: bytes | None


def differences(root: Path, outputs: Mapping[str, bytes]) -> list[Change]:
    """What would have to change under `root` for it to hold exactly `outputs`, sorted by path."""
    paths = sorted({*outputs, *_files_in(root, Path(MANIFEST).parent)})
    changes = (Change(path, _read(root, path), outputs.get(path)) for path in paths)
    return [change for change in changes if change.old != change.new]


def ours(root: Path, changes: list[Change]) -> tuple[list[Change], list[Diagnostic]]:
    """The changes that are ours to make, and a warning for each file that no compile wrote: those stay.

    Ours is what the last manifest lists (none, where somebody has edited that beyond recognition) or what says so.
    """
    listed = _listed(root)
    kept: list[Change] = []
    foreign: list[Diagnostic] = []
    for change in changes:
        if change.new is not None or change.path in listed or _says_so(change.old):
            kept.append(change)
        else:
            message = f"{change.path} is nothing that a compile wrote"
            foreign.append(Diagnostic("W501", message, None, help="delete it, or keep it outside generated/"))
    return kept, foreign


def publish(root: Path, changes: list[Change]) -> None:
    """Make the changes, the manifest last. Raises ConfigErrors (E501) where the file system refuses.

    All new files are written beside the old ones first, so that a full disk or a folder without permission is found
    while nothing has changed.
    """
    staged: dict[Path, Path] = {}
    try:
        for change in changes:
            with _explained(change.path, "nothing was written"):
                if change.new is not None:
                    staged[root / change.path] = _stage(root / change.path, change.new)
        for done, change in enumerate(sorted(changes, key=lambda change: change.path == MANIFEST)):
            with _explained(change.path, f"{done} of {len(changes)} changes are made: compile again for the rest"):
                if change.new is None:
                    (root / change.path).unlink(missing_ok=True)
                else:
                    staged.pop(root / change.path).replace(root / change.path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def _explained(path: str, outcome: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}; {outcome}"
        raise ConfigErrors([Diagnostic("E501", reason, None)]) from error


def _says_so(data: bytes | None) -> bool:
    return data is not None and data.startswith(f"# {MARK}".encode())


def _listed(root: Path) -> set[str]:
    try:
        manifest = json.loads(_read(root, MANIFEST) or b"{}")
    except (ValueError, RecursionError):
        return set()
    outputs = manifest.get("outputs") if isinstance(manifest, dict) else None
    return set(outputs) if isinstance(outputs, dict) else set()


def _files_in(root: Path, folder: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in (root / folder).rglob("*") if path.is_file()]


def _read(root: Path, path: str) -> bytes | None:
    try:
        return (root / path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = f"cannot read {path}: {error.strerror or error}"
        raise ConfigErrors([Diagnostic("E501", reason, None)]) from error


def _stage(path: Path, data: bytes) -> Path:
    """A temporary file with `data` beside `path`, safe on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)
