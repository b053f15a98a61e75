"""`lock` and `weights`: the bytes of the models. The only commands that ask a network, and that load the runtime."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from compiler.build.publish import Change, publish
from compiler.check.layers import Layers
from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors, has_errors
from compiler.emit import emit
from compiler.exits import DIFFERENT, OK, WRONG_USAGE
from compiler.lower.serve import model_application
from compiler.models import compile_model
from compiler.pipeline import Compilation, check_project
from compiler.report import printing as report
from compiler.report.compiled import count
from compiler.source.project import LOCKS, REGISTRY, Project
from compiler.verbs.project import RefusedError, model_name, project_of
from runtime.application import ModelArguments
from runtime.schema.lock import ModelLock

_HEADER = "Written by `llm-serve lock`: the bytes that are loaded. Do not edit: `llm-serve lock --update {name}`."


def lock(options: argparse.Namespace) -> int:
    """Locks for models that have none; how the others differ from what is there now."""
    project = project_of(options)
    if options.check:
        if options.models or options.update or options.here:
            return _wrong_usage("`lock --check` looks at all models, and takes neither MODEL nor --update nor --here")
        return _check(project)
    from runtime.weights import commands

    unlocked = Project(project.root, ignores_locks=True)
    wanted = [*options.models, *(options.update or [])]
    names = [model_name(project, each) for each in wanted] or _enabled(check_project(unlocked))
    updated = {model_name(project, each) for each in options.update or []}
    drifted = False
    for name in names:
        arguments = _arguments(unlocked, name)
        with _explained(name):
            now = commands.lock(arguments, here=options.here)
        before = _lock_of(project, name, is_replaced=name in updated) if name in project.locks else None
        changes = list(_drift(before, now)) if before else []
        if before is None or (name in updated and before != now):
            _write(project, name, now)
        elif changes and name not in updated:
            drifted = True
            report.print_lines([f"{LOCKS}/{name}.yaml: differs from what is there now; --update {name} takes it over"])
        else:
            report.print_lines([f"{LOCKS}/{name}.yaml: is what is there"])
        report.print_lines(f"  {line}" for line in changes)
    return DIFFERENT if drifted else OK


def _wrong_usage(problem: str) -> int:
    report.print_failure(problem)
    return WRONG_USAGE


def _check(project: Project) -> int:
    """Whether every model has a lock that fits it. Asks nobody. Raises ConfigErrors."""
    compilation = check_project(project)
    if has_errors(compilation.found):
        raise ConfigErrors(compilation.found)
    without, enabled = compilation.unlocked, _enabled(compilation)
    report.print_lines(f"  {name} has no lock" for name in without)
    idle = sorted(set(project.locks) - set(project.models))
    report.print_lines(f"  {LOCKS}/{name}.yaml: there is no model `{name}`" for name in idle)
    report.print_lines([f"{count(len(enabled) - len(without), 'model')} of {len(enabled)} locked"])
    return DIFFERENT if without else OK


def _enabled(compilation: Compilation) -> list[str]:
    return [name for name, facts in compilation.models.items() if facts.enabled]


def _arguments(project: Project, name: str) -> ModelArguments:
    """What a replica of the model is told. Raises ConfigErrors."""
    layers = Layers(project)
    compiled = compile_model(layers, name)
    if compiled is None:
        raise ConfigErrors(layers.found)
    arguments = model_application(compiled.model)["args"]
    assert isinstance(arguments, ModelArguments)
    return arguments


def _lock_of(project: Project, name: str, *, is_replaced: bool) -> ModelLock | None:
    """The lock as it is written; None for one that cannot be read and is written anew. Raises ConfigErrors."""
    try:
        return validate(project.tree(f"{LOCKS}/{name}.yaml"), ModelLock)
    except ConfigErrors:
        if is_replaced:
            return None
        raise


def _write(project: Project, name: str, made: ModelLock) -> None:
    file = f"{LOCKS}/{name}.yaml"
    said = {key: value for key, value in vars(made).items() if value is not None}
    publish(project.root, [Change(file, None, emit(said, _HEADER.format(name=name)))])
    size = sum(each.size for each in made.files) / 1e9
    report.print_lines([f"wrote {file}: commit {made.commit[:12]}, {count(len(made.files), 'file')}, {size:.2f} GB"])


def _drift(before: ModelLock, now: ModelLock) -> Iterator[str]:
    """What differs, a line each."""
    if before.commit != now.commit:
        yield f"{now.revision} of {now.repository}: commit {before.commit[:12]} -> {now.commit[:12]}"
    for key in ("repository", "revision", "licence", "gated"):
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            yield f"{key}: {old} -> {new}"
    old_files, new_files = ({each.path: each for each in lock.files} for lock in (before, now))
    for path in sorted({*old_files, *new_files}):
        was, is_ = old_files.get(path), new_files.get(path)
        if was and is_ and was != is_:
            yield f"{path}: changed, {was.size} -> {is_.size} bytes"
        elif not (was and is_):
            yield f"{path}: {'came' if is_ else 'went'}"


def weights(options: argparse.Namespace) -> int:
    """Files of models: fetched, verified, sent to a mirror, listed, thrown away."""
    given = {"MODEL": options.models, "--to": options.to is not None, "--keep-bytes": options.keep_bytes is not None}
    if idle := [name for name, is_given in given.items() if is_given and options.what not in _TAKEN_BY[name]]:
        return _wrong_usage(f"`weights {options.what}` does not take {idle[0]}")
    return _WEIGHTS[options.what](options)


def _pull(options: argparse.Namespace) -> int:
    from runtime.weights import commands

    return _each(options, lambda arguments: f"in {commands.pull(arguments)}")


def _verify(options: argparse.Namespace) -> int:
    from runtime.weights import commands

    return _each(options, lambda arguments: f"whole and verified in {commands.verify(arguments)}")


def _push(options: argparse.Namespace) -> int:
    from runtime.weights import commands

    def push(arguments: ModelArguments) -> str:
        uri, names = commands.push(arguments, options.to)
        return f"sent {count(len(names), 'file')} to {uri}"

    return _each(options, push)


def _each(options: argparse.Namespace, step: Callable[[ModelArguments], str]) -> int:
    """Do something with each model that is named, and say what has come of it."""
    if not options.models:
        raise RefusedError(f"which model? Name one or more files of {REGISTRY}/")
    project = project_of(options)
    for name in [model_name(project, each) for each in options.models]:
        arguments = _arguments(project, name)
        with _explained(name):
            report.print_lines([f"{name}: {step(arguments)}"])
    return OK


def _ls(options: argparse.Namespace) -> int:
    from runtime.weights import commands

    with _explained("the model cache"):
        folder, found = commands.snapshots()
    if options.format == "json":
        report.print_value([each._asdict() for each in found])
        return OK
    rows = [(each.repository, each.commit[:12], _size(each.size), _day(each.last_used), "in use" * each.is_used)
            for each in reversed(found)]  # fmt: skip
    report.print_table([("REPOSITORY", "COMMIT", "SIZE", "LAST USED (UTC)", ""), *rows])
    report.print_lines([f"{count(len(found), 'snapshot')} in {folder}"])
    return OK


def _gc(options: argparse.Namespace) -> int:
    from runtime.weights import commands

    with _explained("the model cache"):
        removed = commands.collect(options.keep_bytes)
    report.print_lines(f"  removed {each.repository} at {each.commit[:12]}, {_size(each.size)}" for each in removed)
    report.print_lines([f"removed {count(len(removed), 'snapshot')}"])
    return OK


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    from runtime.errors import WeightsError

    try:
        yield
    except WeightsError as error:
        raise RefusedError(f"{what}: {error}") from error
    except OSError as error:
        problem = f"{error.filename or 'the model cache'}: {error.strerror or error}"
        raise RefusedError(f"{what}: {problem}; LLM_SERVE_CACHE names another folder for the cache") from error


_TAKEN_BY = {"MODEL": ("pull", "push", "verify"), "--to": ("push",), "--keep-bytes": ("gc",)}
_WEIGHTS: dict[str, Callable[[argparse.Namespace], int]] = {
    "gc": _gc,
    "ls": _ls,
    "pull": _pull,
    "push": _push,
    "verify": _verify,
}

VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"lock": lock, "weights": weights}
