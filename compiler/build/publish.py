"""Writing files: only those that differ, each wholly or not at all, and never over what somebody has edited."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from compiler.build.disk import explained
from compiler.build.files import MARK
from compiler.build.keys import digest
from compiler.build.manifest import outputs_in
from compiler.build.places import GENERATED, MANIFEST
from compiler.build.store import Store
from compiler.diagnostics import ConfigErrors, Diagnostic
from compiler.source.walk import walk

_TEMPORARY = ".llm-serve-"
"""How the name of a file begins that is being written."""
_MANY = 32
"""From so many files on, one `sync` of the whole file system is cheaper than one for each file."""


class Change(NamedTuple):
    """A file that holds `old` and should hold `new`; None: there is no such file, or there should be none."""

    path: str
    old: bytes | None
    new: bytes | None


class Difference(NamedTuple):
    """As `Change`, by digests."""

    path: str
    old: str | None
    new: str | None


def digests_on_disk(root: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `generated/` holds: path -> digest. `known`: digests that need not be worked out again."""
    known = known or {}
    _refuse_links(root, f"{GENERATED}/*")
    with explained(GENERATED, "", "read"):
        paths = sorted(path for path, _ in walk(str(root), GENERATED) if not _is_temporary(path))
    return {path: known.get(path) or digest(read(root, path) or b"") for path in paths}


def differences(disk: Mapping[str, str], outputs: Mapping[str, str]) -> list[Difference]:
    """What has to change for `generated/` to hold exactly `outputs`; the manifest last."""
    paths = sorted({*disk, *outputs}, key=lambda path: (path == MANIFEST, path))
    found = (Difference(path, disk.get(path), outputs.get(path)) for path in paths)
    return [each for each in found if each.old != each.new]


def ours(
    root: Path, store: Store, found: list[Difference], *, force: bool = False
) -> tuple[list[Difference], list[Diagnostic]]:
    """The differences that are ours to mend, and what stands in the way of the others.

    A file is ours if the manifest lists it with its hash, or the store knows what it holds: whatever else is there,
    somebody has written, and it stays (E502, unless `force`; W501 where it is nothing that we want to write).
    """
    listed = outputs_in(read(root, MANIFEST) or b"")
    mine: list[Difference] = []
    others: list[Diagnostic] = []
    for each in found:
        known = each.old is None or each.path == MANIFEST or each.old == listed.get(each.path) or store.has(each.old)
        stranger = each.new is None and each.path not in listed and not _says_so(root, each.path)
        if (known and not (root / each.path).is_symlink()) or (force and not stranger):
            mine.append(each)
        elif stranger:
            problem, hint = f"{each.path} is nothing that a compile wrote", "delete it, or keep it outside generated/"
            others.append(Diagnostic("W501", problem, None, help=hint))
        else:
            problem = f"{each.path} has been edited since it was generated, or merged"
            hint = "put the change into base/ or registry/ and compile with --force, which overwrites the file"
            others.append(Diagnostic("E502", problem, None, help=hint))
    return mine, others


def fetched(store: Store, differences: Iterable[Difference]) -> Iterable[Change]:
    """The changes, each with its bytes as it is needed."""
    for each in differences:
        yield Change(each.path, None, store.blob(each.new) if each.new else None)


def publish(root: Path, changes: Iterable[Change]) -> None:
    """Make the changes, in their order. Raises ConfigErrors (E501) where the file system refuses.

    All new files are written beside the old ones first, so that a full disk or a folder without permission is found
    while nothing has changed.
    """
    staged: dict[str, str | None] = {}
    folders: set[str] = set()
    try:
        for change in changes:
            with explained(change.path):
                staged[change.path] = None if change.new is None else _stage(root, change.path, change.new, folders)
        with explained(GENERATED):
            _settle([temporary for temporary in staged.values() if temporary])
        total = len(staged)
        for done, path in enumerate(list(staged)):
            with explained(path, f"{done} of {total} changes are made: compile again for the rest"):
                if temporary := staged[path]:
                    os.replace(temporary, root / path)  # noqa: PTH105 (a third of the time of pathlib's)
                else:
                    (root / path).unlink(missing_ok=True)
                del staged[path]
    finally:
        for temporary in staged.values():
            if temporary:
                Path(temporary).unlink(missing_ok=True)


def remove_leftovers(root: Path, paths: Iterable[str]) -> None:
    """Remove, of these files, those under `generated/` that a killed build was writing."""
    for path in paths:
        if path.startswith(f"{GENERATED}/") and _is_temporary(path):
            with explained(path):
                (root / path).unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """What a file is called while it is written: never like a source."""
    return f"{_TEMPORARY}{name}.new"


def read(root: Path, path: str) -> bytes | None:
    """A file's bytes; None where there is none, or a link. Raises ConfigErrors (E501)."""
    with explained(path, "", "read"):
        try:
            handle = os.open(f"{root}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            if (root / path).is_symlink():
                return None
            raise
        with open(handle, "rb", buffering=0) as stream:  # noqa: PTH123 (an open file)
            return stream.read()


def _stage(root: Path, path: str, data: bytes, folders: set[str]) -> str:
    """A temporary file with `data` beside `path`; its name. `folders`: those that are known to be there."""
    folder, _, name = f"{root}/{path}".rpartition("/")
    if folder not in folders:
        _refuse_links(root, path)
        if not os.path.isdir(folder):  # noqa: PTH112
            Path(folder).mkdir(parents=True)
        folders.add(folder)
    temporary = f"{folder}/{temporary_name(name)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), 0o644)  # whatever the umask
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary


def _refuse_links(root: Path, path: str) -> None:
    """A folder that is a link could lead anywhere."""
    for parent in [*Path(path).parents][:-1]:
        if (root / parent).is_symlink():
            problem = f"cannot write {path}: {parent.as_posix()} is a link; nothing was written"
            raise ConfigErrors([Diagnostic("E501", problem, None, help="make it a folder")])


def _settle(files: list[str]) -> None:
    """Have the files on the disk before any of them takes its place."""
    if len(files) > _MANY:
        os.sync()
        return
    for file in files:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_temporary(path: str) -> bool:
    return path.rpartition("/")[2].startswith(_TEMPORARY)


def _says_so(root: Path, path: str) -> bool:
    return (read(root, path) or b"").startswith(f"# {MARK}".encode())
