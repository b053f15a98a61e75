"""Where the sources are: `base/`, `registry/` and `registry/clusters/` under one root."""

import re
from dataclasses import dataclass, field
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
    return next((folder for folder in (start, *start.parents) if (folder / REGISTRY).is_dir()), None)


@dataclass(frozen=True)
class Project:
    """A root folder and the files under it, each read once."""

    root: Path
    _trees: dict[str, Mapping | ConfigErrors] = field(default_factory=dict)

    def models(self) -> list[str]:
        """Names of the model files, sorted."""
        return self._names(REGISTRY, deep=False)

    def clusters(self) -> list[str]:
        """Names of the cluster files, sorted."""
        return self._names(CLUSTERS, deep=False)

    def profiles(self) -> list[str]:
        """Names of the base layers, sorted."""
        return self._names(BASE, deep=True)

    def layer_files(self, name: str) -> list[str]:
        """The files that `name` may mean, relative to the root: more than one is ambiguous."""
        if not NAME.fullmatch(name):
            return []
        candidates = (f"{folder}/{name}.yaml" for folder in (REGISTRY, BASE))
        return [candidate for candidate in candidates if (self.root / candidate).is_file()]

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
        try:
            lines = self._read(file).decode("utf-8", "replace").split("\n")
        except ConfigErrors:
            return None
        return lines[number - 1].rstrip("\r") if number <= len(lines) else None

    def _read(self, file: str) -> bytes:
        path = self.root / file
        try:
            if not path.is_file():  # a FIFO or a device would block or never end
                raise ConfigErrors([_unreadable(file, "not a regular file")])
            with path.open("rb") as stream:
                return stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigErrors([_unreadable(file, error.strerror or str(error))]) from error

    def _names(self, folder: str, *, deep: bool) -> list[str]:
        top = self.root / folder
        found = top.rglob("*.yaml") if deep else top.glob("*.yaml")
        return sorted(PurePosixPath(path.relative_to(top).as_posix()).with_suffix("").as_posix() for path in found)


def _unreadable(file: str, reason: str) -> Diagnostic:
    return Diagnostic("E101", f"cannot read the file: {reason}", Label(Span(file, 1, 1, 1, 1)))
