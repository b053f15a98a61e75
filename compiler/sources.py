"""The source files, by their digests: which have changed since the last compile, and which of those say the same."""

from collections.abc import Collection

from compiler.build import keys
from compiler.build.store import Store
from compiler.diagnostics import ConfigErrors
from compiler.source.project import BASE, CLUSTERS, LOCKS, REGISTRY, Project

UNREADABLE = "unreadable"
"""The digest of a file that cannot be read; why, is found when it is read for what it says."""


class Sources:
    """`digests`: of every source file; `moved`: the files that are not what the store's last compile saw."""

    def __init__(self, project: Project, store: Store, changed: Collection[str] | None) -> None:
        """Look at the files. `changed`: those that may be others than at the last compile; None: any."""
        self._project, self._store = project, store
        self._before = {str(file): str(sha) for file, sha in store.rows("SELECT file, digest FROM source")}
        files = [
            *(f"{BASE}/{name}.yaml" for name in project.profiles),
            *(f"{REGISTRY}/{name}.yaml" for name in project.models),
            *(f"{CLUSTERS}/{name}.yaml" for name in project.clusters),
            *(f"{LOCKS}/{name}.yaml" for name in project.locks),
        ]
        self.digests: dict[str, str] = {}
        for file in files:
            known = self._before.get(file, UNREADABLE) if changed is not None and file not in changed else UNREADABLE
            self.digests[file] = self._digest(file) if known == UNREADABLE else known
        self.moved = {file for file in {*self._before, *files} if self._before.get(file) != self.digests.get(file)}

    def _digest(self, file: str) -> str:
        try:
            return self._project.digest(file)
        except ConfigErrors:
            return UNREADABLE

    def hash(self) -> str:
        """The hash of all sources, by which a shared cache knows them."""
        return keys.key_of(keys.model_inputs((sha, file) for file, sha in sorted(self.digests.items())))

    def note(self) -> set[str]:
        """Have the store know the files as they are; the profiles among those that moved that say what they said.

        They say the same in the same places, that is: all that is made of a file is made of its located tree.
        """
        same = {file for file in self.moved if file.startswith(f"{BASE}/") and self._note_tree(file)}
        self._store.write("DELETE FROM source WHERE file = ?", [(file,) for file in self.moved])
        there = [(file, self.digests[file]) for file in self.moved & self.digests.keys()]
        self._store.write("INSERT INTO source VALUES (?, ?)", there)
        return same

    def _note_tree(self, file: str) -> bool:
        """Whether a profile's tree is the one that the last compile saw."""
        name, last = f"tree {file}", self._store.state(f"tree {file}")
        try:
            tree = keys.digest(repr(self._project.tree(file)).encode()) if file in self.digests else ""
        except ConfigErrors:
            return False
        self._store.note(name, f"{self.digests.get(file)} {tree}")
        return last == f"{self._before.get(file)} {tree}"
