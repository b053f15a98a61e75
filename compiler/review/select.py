"""Selectors: which models a command is about.

`NAME` or a glob; `base:PROFILE` for all that lie on a profile; `engine:TYPE`, `cluster:NAME`; `NAME+` for a model and
all that lie on it, `+NAME` for it and all that it lies on; `changed` for those whose generated file is not current.
"""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from compiler.diagnostics import did_you_mean
from compiler.models import CompiledModel
from compiler.pipeline import Compilation
from compiler.source.project import BASE


class NothingSelectedError(Exception):
    """A selector fits nothing. The message says what it could have been."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is there to select from. `changed`: names of the models whose generated file is not current."""

    compilation: Compilation
    changed: Collection[str]

    def select(self, selectors: list[str]) -> list[CompiledModel]:
        """The models that any of the selectors names; all without one. Raises NothingSelectedError."""
        chosen = {each.model.name for selector in selectors for each in self._selected(selector)}
        return [each for each in self.compilation.models if not selectors or each.model.name in chosen]

    def _selected(self, selector: str) -> list[CompiledModel]:
        models = self.compilation.models
        kind, _, value = selector.partition(":")
        match kind, value:
            case "changed", "":
                return [each for each in models if each.model.name in self.changed]
            case "base", _:
                file = f"{BASE}/{value}.yaml"
                found = [each for each in models if any(layer.file == file for layer in each.layers)]
                files = {layer.file for each in models for layer in each.layers}
                known = [name.removeprefix(f"{BASE}/").removesuffix(".yaml") for name in files if name.startswith(BASE)]
            case "engine", _:
                found = [each for each in models if _engine(each).casefold() == value.casefold()]
                known = [_engine(each) for each in models]
            case "cluster", _:
                cluster = self.compilation.clusters.get(value)
                names = {each.name for each in cluster.members} if cluster else set()
                found = [each for each in models if each.model.name in names]
                known = list(self.compilation.clusters)
            case _:
                found, value = self._by_name(selector), selector.strip("+")
                known = [each.model.name for each in models]
        if not found:
            guess = did_you_mean(value, known)
            raise NothingSelectedError(
                f"`{selector}` selects nothing" + (f"; did you mean `{guess}`?" if guess else "")
            )
        return found

    def _by_name(self, selector: str) -> list[CompiledModel]:
        models = self.compilation.models
        files = {each.model.file for each in models if fnmatchcase(each.model.name, selector.strip("+"))}
        chosen = set(files)
        for each in models:
            layers = {layer.file for layer in each.layers}
            if selector.startswith("+") and each.model.file in files:
                chosen |= layers
            if selector.endswith("+") and files & layers:
                chosen.add(each.model.file)
        return [each for each in models if each.model.file in chosen]


def _engine(compiled: CompiledModel) -> str:
    return compiled.model.spec.model.initialization.engine.name
