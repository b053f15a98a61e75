"""Commands about builds: `generations`, `rollback`, `gc`, `store`, `derivation`, `why-rebuilt`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from compiler.build import generations
from compiler.build.inputs import compared, inputs_now, recorded
from compiler.build.lock import locked
from compiler.build.store import Store
from compiler.exits import OK, WRONG_CONFIG
from compiler.make import make, restore, with_store
from compiler.report import printing as report
from compiler.report.compiled import count, print_changes
from compiler.verbs.project import RefusedError, listener, model_name, project_of, root_of

T = TypeVar("T")


def generations_(options: argparse.Namespace) -> int:
    """The states of generated/ that were published."""
    root = root_of(options)

    def show(store: Store) -> int:
        known, now = generations.generations(store), generations.current(store)
        for number in (options.pin, options.unpin):
            if number is not None and number not in {each.number for each in known}:
                raise RefusedError(f"there is no generation {number}")
        if options.pin or options.unpin:
            generations.pin(store, options.pin or options.unpin, pinned=bool(options.pin))
            known = generations.generations(store)
        if options.format == "json":
            report.print_value([_as_dict(each, now) for each in known])
        elif known:
            rows = [_row(each, now) for each in known]
            report.print_table([("", "NUMBER", "PARENT", "CREATED (UTC)", "COMMIT", "MANIFEST", ""), *rows])
        else:
            report.print_lines(["nothing has been published yet: `llm-serve compile` does"])
        return OK

    return _with_store(root, show)


def _row(each: generations.Generation, now: int | None) -> tuple[str, ...]:
    created = each.created.removesuffix("+00:00").replace("T", " ")
    commit, parent = (each.revision or "")[:12], str(each.parent or "")
    mark, pinned = "*" if each.number == now else "", "pinned" if each.pinned else ""
    return mark, str(each.number), parent, created, commit, each.manifest[:12], pinned


def _as_dict(each: generations.Generation, now: int | None) -> dict[str, object]:
    names = ("number", "parent", "created", "revision", "manifest", "pinned")
    return {**{name: getattr(each, name) for name in names}, "current": each.number == now}


def rollback(options: argparse.Namespace) -> int:
    """generated/ as it was."""
    root = root_of(options)
    done = restore(root, listener(), options.number, force=options.force)
    if done is None:
        raise RefusedError(
            f"there is no generation {options.number}; `llm-serve generations` lists them"
            if options.number is not None
            else "there is no generation before the current one"
        )
    print_changes(done)
    what = f"generation {options.number}" if options.number is not None else "the generation before"
    report.print_lines([f"generated/ is {what} again; the sources are as they were, and a compile brings them back"])
    return OK


def gc(options: argparse.Namespace) -> int:
    """What nothing needs, thrown away."""

    def collect(store: Store) -> int:
        what = generations.garbage(store, options.keep)
        if not options.dry_run:
            generations.collect_garbage(store, what)
        would = "would remove" if options.dry_run else "removed"
        size = f"{what.size / 1e6:.1f} MB"
        report.print_lines([f"{would} {len(what.generations)} generations and {len(what.blobs)} files, {size}"])
        return OK

    return _with_store(root_of(options), collect)


def store(options: argparse.Namespace) -> int:
    """What is wrong with the store; with --repair, that is thrown away and built again."""
    root = root_of(options)
    lines = _with_store(root, generations.damage)
    report.print_lines(lines or ["the store is whole"])
    if not lines or not options.repair:
        return WRONG_CONFIG if lines else OK
    _with_store(root, Store.forget_damaged)
    made = make(root, listener())
    report.print_lines([f"built {count(len(made.compilation.built), 'model')} again"])
    left = _with_store(root, generations.damage)
    report.print_lines(left or ["the store is whole"])
    return WRONG_CONFIG if left else OK


def _with_store(root: Path, step: Callable[[Store], T]) -> T:
    with locked(root, listener().waiting):
        return with_store(root, report.print_failure, step)


def derivation(options: argparse.Namespace) -> int:
    """What goes into a model's build."""
    project = project_of(options)
    name = model_name(project, options.model)
    now = inputs_now(project, name)
    done = _with_store(project.root, lambda store: store.action(now.key))
    if options.format == "json":
        report.print_value({"model": name, "key": now.key, "inputs": now.inputs, "output": done and done.output})
        return OK
    report.print_lines([f"{name}  {now.key}"])
    report.print_table([*now.inputs.items()], "  ")
    built = (done.output or "disabled: no file") if done else "not built yet"
    report.print_lines([f"  -> {built}"])
    return OK


def why_rebuilt(options: argparse.Namespace) -> int:
    """Which input of a model has changed."""
    project = project_of(options)
    name = model_name(project, options.model)
    now = inputs_now(project, name)
    last, before = _with_store(project.root, lambda store: recorded(store, name))
    if last is None:
        report.print_lines([f"{name} has not been built yet"])
    elif last.key != now.key:
        report.print_lines([f"{name} will be built again: since its last build,", *compared(last, now)])
    elif before is None:
        report.print_lines([f"{name} is up to date; it has been built once"])
    else:
        report.print_lines([f"{name} is up to date; when it was last built,", *compared(before, last)])
    return OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "derivation": derivation,
    "gc": gc,
    "generations": generations_,
    "rollback": rollback,
    "store": store,
    "why-rebuilt": why_rebuilt,
}
