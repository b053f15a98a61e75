"""Where the sources are: `base/`, `registry/`, `registry/clusters/` and `registry/locks/` under one root."""

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span
from compiler.source.syntax import MAX_BYTES, parse
from compiler.source.tree import Mapping
from compiler.source.walk import walk

BASE, REGISTRY, CLUSTERS, LOCKS = "base", "registry", "registry/clusters", "registry/locks"
DEFAULTS = "defaults"
"""The layer under everything, `base/defaults.yaml`."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
"""A layer's name: nothing that could lead out of the tree."""


@dataclass(frozen=True)
class Project:
    """A root folder and the files under it, each read once. `ignores_locks`: as if there were none."""

    root: Path
    ignores_locks: bool = False
    _trees: dict[str, Mapping | ConfigErrors] = field(default_factory=dict)
    _given: dict[str, bytes] = field(default_factory=dict)
    _bytes: dict[str, bytes] = field(default_factory=dict)
    _lines: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def models(self) -> list[str]:
        """Names of the model files, sorted. Raises ConfigErrors, as the others."""
        return self._names(REGISTRY, deep=False)

    @cached_property
    def clusters(self) -> list[str]:
        """Names of the cluster files, sorted."""
        return self._names(CLUSTERS, deep=False)

    @cached_property
    def locks(self) -> list[str]:
        """Names of the lock files, sorted: each is that of its model."""
        return [] if self.ignores_locks else self._names(LOCKS, deep=False)

    @cached_property
    def profiles(self) -> list[str]:
        """Names of the base layers, sorted."""
        return self._names(BASE, deep=True)

    def layer_files(self, name: str) -> list[str]:
        """The files that `name` may mean, relative to the root: more than one is ambiguous."""
        return [f"{folder}/{name}.yaml" for folder, names in self._layers.items() if name in names]

    @cached_property
    def _layers(self) -> dict[str, frozenset[str]]:
        return {REGISTRY: frozenset(self.models), BASE: frozenset(self.profiles)}

    def tree(self, file: str) -> Mapping:
        """The located tree of one file. Raises ConfigErrors, the same ones each time."""
        if file not in self._trees:
            try:
                self._trees[file] = parse(self._read(file), file)
            except ConfigErrors as errors:
                self._trees[file] = errors
        found = self._trees[file]
        if isinstance(found, ConfigErrors):
            raise found
        return found

    def line(self, file: str, number: int) -> str | None:
        """One line of a source file, for showing; None where there is none."""
        lines = self._lines.get(file)
        if lines is None:
            try:
                lines = self._lines[file] = self._read(file).decode("utf-8", "replace").split("\n")
            except ConfigErrors:
                return None
        return lines[number - 1].rstrip("\r") if number <= len(lines) else None

    def text(self, file: str) -> str:
        """A source file's text. Raises ConfigErrors, those of its YAML too."""
        self.tree(file)
        return self._read(file).decode("utf-8")

    def changed(self, files: dict[str, bytes]) -> "Project":
        """The project as it would be with other contents of some of its files; nothing is written."""
        return Project(self.root, _given={**self._given, **files})

    def release(self, file: str) -> None:
        """Let a file go that has been read from the disk; whoever asks for it again reads it again."""
        if file not in self._given:
            for kept in (self._trees, self._bytes, self._lines):
                kept.pop(file, None)

    def digest(self, file: str) -> str:
        """SHA-256 of a file's bytes, in hex. Raises ConfigErrors."""
        return hashlib.sha256(self._read(file)).hexdigest()

    def _read(self, file: str) -> bytes:
        if file in self._given:
            return self._given[file]
        if file in self._bytes:
            return self._bytes[file]
        path = os.path.join(self.root, file)  # noqa: PTH118 (a third of the time of pathlib's)
        try:
            # a FIFO or a device would block or never end; the slower question raises where nobody may look
            if not (os.path.isfile(path) or Path(path).is_file()):  # noqa: PTH113
                raise ConfigErrors([_unreadable(file, "not a regular file")])
            with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
                size = os.fstat(
                    stream.fileno()
                ).st_size  # room for the largest file takes as long to get as all the rest
                self._bytes[file] = stream.read(min(size, MAX_BYTES) + 1)
        except OSError as error:
            raise ConfigErrors([_unreadable(file, error.strerror or str(error))]) from error
        return self._bytes[file]

    def _names(self, folder: str, *, deep: bool) -> list[str]:
        """The .yaml files under `folder`, without suffix. One that would be ignored is an error."""
        found: list[Diagnostic] = []
        names = []
        for file, entry in self._files(folder):
            name = file.removeprefix(f"{folder}/")
            if folder == REGISTRY and file.startswith((f"{CLUSTERS}/", f"{LOCKS}/")):
                continue
            ours = name.lower().endswith((".yaml", ".yml"))
            if entry.is_symlink() and (problem := self._not_followed(entry.path, ours=ours)):
                found.append(_ignored(file, problem))
            elif not ours:
                continue
            elif not name.endswith(".yaml"):
                suffix = name[name.rindex(".") :]
                found.append(_ignored(file, f"file name must end in `.yaml`, not `{suffix}`"))
            elif "/" in name and not deep:
                found.append(_ignored(file, f"files of {folder}/ lie in it directly, not in a folder of their own"))
            else:
                names.append(name.removesuffix(".yaml"))
        if found:
            raise ConfigErrors(found)
        return sorted(names)

    def _not_followed(self, path: str, *, ours: bool) -> str | None:
        """Why a link is not followed: a folder would be read twice, and a file elsewhere is not part of the project."""
        if Path(path).is_dir():
            return "a link to a folder is not followed: put the files here"
        target = Path(os.path.realpath(path))
        inside = any(target.is_relative_to((self.root / folder).resolve()) for folder in (BASE, REGISTRY))
        return "the link leads out of base/ and registry/: put the file itself here" if ours and not inside else None

    def _files(self, folder: str) -> list[tuple[str, "os.DirEntry[str]"]]:
        """All that lies under `folder`, with paths from the root; nothing where there is no such folder."""
        try:
            return list(walk(str(self.root), folder))
        except OSError as error:
            place = Path(error.filename).relative_to(self.root).as_posix()
            raise ConfigErrors([_unreadable(place, error.strerror or str(error))]) from error


def _ignored(file: str, problem: str) -> Diagnostic:
    return Diagnostic("E109", problem, Label(Span(file, 1, 1, 1, 1)))


def _unreadable(file: str, reason: str) -> Diagnostic:
    return Diagnostic("E101", f"cannot be read: {reason}", Label(Span(file, 1, 1, 1, 1)))
