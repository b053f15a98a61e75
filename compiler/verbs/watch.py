"""`compile --watch`: a compile at each save, and what it has changed."""

import time
from datetime import datetime
from pathlib import Path

from compiler.build.places import GENERATED
from compiler.check.locks import about_unlocked
from compiler.diagnostics import ConfigErrors
from compiler.make import Listener, Made, Way, make, with_store
from compiler.report import printing as report
from compiler.report.compiled import count, print_warning
from compiler.review.changes import changes
from compiler.source.project import BASE, REGISTRY, Project

_QUIET_MS = 20
"""So long nothing must happen before a save counts as done: editors write in several steps."""
_SHOWN = 10
"""Of so many models the changed settings are shown."""


def watch(root: Path, listener: Listener, way: Way) -> int:
    """Compile now and at each change of the sources, until interrupted."""
    from watchfiles import watch as changed  # only this command needs it

    folders = [root / folder for folder in (BASE, REGISTRY) if (root / folder).is_dir()]
    unlocked: list[str] = []
    # it yields nothing each tenth of a second: the first time says that it listens, so that no save is missed
    looks = changed(*folders, step=_QUIET_MS, debounce=_QUIET_MS * 10, rust_timeout=100, yield_on_timeout=True)
    for number, saved in enumerate(looks):
        if saved or not number:
            made = _compile(root, listener, way)
            if made and made.compilation.unlocked != unlocked:  # said once, not at each save
                unlocked = made.compilation.unlocked
                print_warning(about_unlocked(unlocked))
        if not number:
            names = " and ".join(f"{folder.name}/" for folder in folders)
            report.print_lines([f"watching {names}; Ctrl-C ends it"], flush=True)
    return 0


def _compile(root: Path, listener: Listener, way: Way) -> Made | None:
    """What was made; None where there are errors."""
    start, at = time.perf_counter(), datetime.now().astimezone().strftime("%H:%M:%S")
    try:
        made = make(root, listener, way)
    except ConfigErrors as errors:
        report.print_diagnostics(errors.diagnostics, Project(root).line, "nothing was written")
        return None
    report.print_diagnostics(made.found, Project(root).line)
    shown = _shown(root, made, listener)
    files = count(len(made.differences), "file") if made.differences else "no file"
    built = count(len(made.compilation.built), "model")
    report.print_lines([f"{at}  {built} built, {files} written in {time.perf_counter() - start:.2f} s"])
    report.print_table(shown, "  ")
    report.print_lines([], flush=True)
    return made


def _shown(root: Path, made: Made, listener: Listener) -> list[tuple[str, ...]]:
    """The changed settings of the first models."""
    models = [each for each in made.differences if each.path.startswith(f"{GENERATED}/models/")]
    both = [(each.path, each.old, each.new) for each in models if each.old and each.new]

    def rows(path: str, old: str, new: str) -> list[tuple[str, ...]]:
        name = path.rpartition("/")[2].removesuffix(".yaml")
        blobs = with_store(root, listener.troubled, lambda store: (store.blob(old), store.blob(new)))
        found = changes(*blobs, path)
        return [(name, setting.partition("].")[2] or setting, was, "->", now) for setting, was, now in found]

    shown = [row for path, old, new in both[:_SHOWN] for row in rows(path, old, new)]
    rest = len(both) - _SHOWN
    return shown + ([(f"... and {count(rest, 'more model')}", "", "", "", "")] if rest > 0 else [])
