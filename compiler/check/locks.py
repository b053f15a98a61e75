"""The lock of a model's weights: read, checked, and held against what the model asks for."""

from collections.abc import Sequence

from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors, Diagnostic, Label
from compiler.source.project import LOCKS, Project
from compiler.source.tree import Mapping, find
from runtime.application import ModelSpec
from runtime.schema.lock import ModelLock, WeightsLock

_INITIALIZATION = ("model_config", "initialization")
_MOST_NAMED = 3
"""So many models without a lock are named."""


def lock_of(project: Project, name: str, tree: Mapping, spec: ModelSpec, found: list[Diagnostic]) -> WeightsLock | None:
    """The lock of a model; None where it has none, or one that is wrong, which is found."""
    if name not in project.locks:
        return None
    file = f"{LOCKS}/{name}.yaml"
    try:
        locked = project.tree(file)
        lock = validate(locked, ModelLock)
    except ConfigErrors as errors:
        found += errors.diagnostics
        return None
    if problem := _mismatch(lock, spec):
        key, message, path = problem
        _, place, _ = find(locked, (key,))
        _, asked, _ = find(tree, path)
        hint = f"write the lock anew: `llm-serve lock --update {name}`"
        found.append(Diagnostic("E601", message, Label(place), (Label(asked, "asked for here"),), hint))
    return lock.weights


def about_unlocked(names: Sequence[str]) -> str:
    """One line on all models without a lock, as many as there are; empty where there are none."""
    if not names:
        return ""
    which = f" ({', '.join(names)})" if len(names) <= _MOST_NAMED else ""
    return f"{len(names)} model{'' if len(names) == 1 else 's'} without a lock{which}: see `llm-serve lock`"


def _mismatch(lock: ModelLock, spec: ModelSpec) -> tuple[str, str, tuple[str, ...]] | None:
    """The lock's key that does not fit, why, and the path in the model that it does not fit."""
    initialization = spec.model.initialization
    own = (*_INITIALIZATION, "hf_model_id") if initialization.hf_model_id else ("model_config", "model_id")
    repository = initialization.hf_model_id or spec.model.model_id
    if lock.repository != repository:
        return "repository", f"this locks {lock.repository}, and the model is {repository}", own
    if initialization.revision not in (lock.revision, lock.commit):
        message = f"this locks revision `{lock.revision}`, and the model asks for `{initialization.revision}`"
        return "revision", message, (*_INITIALIZATION, "revision")
    filename = getattr(initialization.initializer, "model_filename", None)
    if filename and filename not in {each.path for each in lock.files}:
        message = f"this does not lock the model's file `{filename}`"
        return "files", message, (*_INITIALIZATION, "initializer", "model_filename")
    return None
