"""Selectors: which models a command is about.

`NAME` or a glob; `base:PROFILE` for all that lie on a profile; `engine:TYPE`, `cluster:NAME`; `NAME+` for a model and
all that lie on it, `+NAME` for it and all that it lies on; `changed` for those whose generated file is not current.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from compiler.diagnostics import did_you_mean
from compiler.facts import Facts
from compiler.source.project import BASE


class NothingSelectedError(Exception):
    """A selector fits nothing. The message says what it could have been."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is there to select from. `changed`: names of the models whose generated file is not current."""

    models: list[Facts]
    clusters: Mapping[str, Collection[str]]
    changed: Collection[str]

    def select(self, selectors: list[str]) -> list[Facts]:
        """The models that any of the selectors names; all without one. Raises NothingSelectedError."""
        chosen = {each.name for selector in selectors for each in self._selected(selector)}
        return [each for each in self.models if not selectors or each.name in chosen]

    def _selected(self, selector: str) -> list[Facts]:
        models = self.models
        kind, _, value = selector.partition(":")
        match kind, value:
            case "changed", "":
                return [each for each in models if each.name in self.changed]
            case "base", _:
                file = f"{BASE}/{value}.yaml"
                found = [each for each in models if file in each.layers]
                files = {layer for each in models for layer in each.layers}
                known = [name.removeprefix(f"{BASE}/").removesuffix(".yaml") for name in files if name.startswith(BASE)]
            case "engine", _:
                found = [each for each in models if each.engine.casefold() == value.casefold()]
                known = [each.engine for each in models]
            case "cluster", _:
                found = [each for each in models if each.name in self.clusters.get(value, ())]
                known = list(self.clusters)
            case _:
                found, value = self._by_name(selector), selector.strip("+")
                known = [each.name for each in models]
        if not found:
            guess = did_you_mean(value, known)
            raise NothingSelectedError(
                f"`{selector}` selects nothing" + (f"; did you mean `{guess}`?" if guess else "")
            )
        return found

    def _by_name(self, selector: str) -> list[Facts]:
        files = {each.file for each in self.models if fnmatchcase(each.name, selector.strip("+"))}
        chosen = set(files)
        for each in self.models:
            if selector.startswith("+") and each.file in files:
                chosen.update(each.layers)
            if selector.endswith("+") and not files.isdisjoint(each.layers):
                chosen.add(each.file)
        return [each for each in self.models if each.file in chosen]
