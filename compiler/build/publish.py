"""Writing `generated/`: only what differs, each file wholly or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.diagnostics import ConfigErrors, Diagnostic

MANIFEST = "generated/manifest.json"


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


def publish(root: Path, changes: list[Change]) -> list[Change]:
    """Make the changes, the manifest last, and return those made.

    A file that no manifest lists was not written by a compile, and stays.
    Raises ConfigErrors (E501) where the file system refuses.
    """
    ours = _listed(root)
    made = [change for change in changes if change.new is not None or change.path in ours]
    for change in sorted(made, key=lambda change: change.path == MANIFEST):
        try:
            if change.new is None:
                (root / change.path).unlink(missing_ok=True)
            else:
                _write(root / change.path, change.new)
        except OSError as error:
            reason = f"cannot write {change.path}: {error.strerror or error}"
            raise ConfigErrors([Diagnostic("E501", reason, None)]) from error
    return made


def _listed(root: Path) -> set[str]:
    """Paths that the last compile wrote, by its manifest; none where somebody has edited that beyond recognition."""
    try:
        manifest = json.loads(_read(root, MANIFEST) or b"{}")
    except ValueError:
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


def _write(path: Path, data: bytes) -> None:
    """Atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
