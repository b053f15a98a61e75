"""Where the sources are: `base/`, `registry/` and `registry/clusters/` under one root."""

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span
from compiler.source.syntax import MAX_BYTES, parse
from compiler.source.tree import Mapping

BASE, REGISTRY, CLUSTERS, GENERATED = "base", "registry", "registry/clusters", "generated"
DEFAULTS = "defaults"
"""The layer under everything, `base/defaults.yaml`."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
"""A layer's name: nothing that could lead out of the tree."""


def find_root(start: Path) -> Path | None:
    """The nearest folder, from `start` upwards, that has a registry."""
    # os.path, because a folder that may not be looked into has none, as far as we can tell
    return next((folder for folder in (start, *start.parents) if os.path.isdir(folder / REGISTRY)), None)  # noqa: PTH112


@dataclass(frozen=True)
class Project:
    """A root folder and the files under it, each read once."""

    root: Path
    _trees: dict[str, Mapping | ConfigErrors] = field(default_factory=dict)
    _bytes: dict[str, bytes] = field(default_factory=dict)
    _lines: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def models(self) -> list[str]:
        """Names of the model files, sorted. Raises ConfigErrors, as the other two."""
        return self._names(REGISTRY, deep=False)

    @cached_property
    def clusters(self) -> list[str]:
        """Names of the cluster files, sorted."""
        return self._names(CLUSTERS, deep=False)

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
        return Project(self.root, _bytes={**self._bytes, **files})

    def _read(self, file: str) -> bytes:
        if file in self._bytes:
            return self._bytes[file]
        path = self.root / file
        try:
            if not path.is_file():  # a FIFO or a device would block or never end
                raise ConfigErrors([_unreadable(file, "not a regular file")])
            with path.open("rb") as stream:
                self._bytes[file] = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigErrors([_unreadable(file, error.strerror or str(error))]) from error
        return self._bytes[file]

    def _names(self, folder: str, *, deep: bool) -> list[str]:
        """The .yaml files under `folder`, without suffix. One that would be ignored is an error."""
        found: list[Diagnostic] = []
        names = []
        for file in self._files(folder):
            name = PurePosixPath(file).relative_to(folder)
            elsewhere = folder == REGISTRY and file.startswith(f"{CLUSTERS}/")
            if elsewhere or name.suffix.lower() not in (".yaml", ".yml"):
                continue
            if name.suffix != ".yaml":
                found.append(_ignored(file, f"file name must end in `.yaml`, not `{name.suffix}`"))
            elif len(name.parts) > 1 and not deep:
                found.append(_ignored(file, f"files of {folder}/ lie in it directly, not in a folder of their own"))
            else:
                names.append(name.with_suffix("").as_posix())
        if found:
            raise ConfigErrors(found)
        return sorted(names)

    def _files(self, folder: str) -> list[str]:
        """All that lies under `folder`, relative to the root; nothing where there is no such folder."""
        failed: list[Diagnostic] = []

        def fail(error: OSError) -> None:
            place = Path(error.filename).relative_to(self.root).as_posix()
            if not isinstance(error, FileNotFoundError) or place != folder:
                failed.append(_unreadable(place, error.strerror or str(error)))

        found = [
            (Path(parent, name).relative_to(self.root)).as_posix()
            for parent, folders, names in os.walk(self.root / folder, onerror=fail)
            for name in (*folders, *names)
        ]
        if failed:
            raise ConfigErrors(failed)
        return found


def _ignored(file: str, problem: str) -> Diagnostic:
    return Diagnostic("E109", problem, Label(Span(file, 1, 1, 1, 1)))


def _unreadable(file: str, reason: str) -> Diagnostic:
    return Diagnostic("E101", f"cannot be read: {reason}", Label(Span(file, 1, 1, 1, 1)))
