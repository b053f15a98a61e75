"""`generated/` brought up to date: what has changed is built, and what differs is written."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from compiler.build import generations, publish, snapshot
from compiler.build.cache import Cache, SpoiltError
from compiler.build.disk import explained
from compiler.build.lock import locked
from compiler.build.places import MANIFEST, SNAPSHOT, STORE
from compiler.build.publish import Difference
from compiler.build.revision import revision
from compiler.build.store import DamagedError, Store
from compiler.check.locks import about_unlocked
from compiler.diagnostics import ConfigErrors, Diagnostic, has_errors
from compiler.pipeline import Compilation, Settings, check_project
from compiler.source.project import Project

T = TypeVar("T")


class Made(NamedTuple):
    """What was done."""

    compilation: Compilation
    differences: list[Difference]
    found: list[Diagnostic]


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens. `waiting`: for the process of that number; `step`: so many of so many models."""

    waiting: Callable[[str], None] = lambda _process: None
    step: Callable[[int, int], None] = lambda _done, _of: None
    troubled: Callable[[str], None] = lambda _problem: None


@dataclass(frozen=True, slots=True)
class Way:
    """How. `force`: write over what has been edited by hand too. `cache`: what it has is not built, and what was built
    goes there. `jobs`: processes that build.
    """

    force: bool = False
    cache: Cache | None = None
    jobs: int = 1


def make(root: Path, listener: Listener, way: Way | None = None) -> Made:
    """Compile, and write what differs. Raises ConfigErrors with all findings: nothing is written then."""
    with locked(root, listener.waiting):
        return with_store(root, listener.troubled, lambda store: _make(Project(root), store, listener, way or Way()))


def restore(root: Path, listener: Listener, number: int | None, *, force: bool = False) -> list[Difference] | None:
    """Bring a generation back, the one before the current one if no number is given; what was written.

    None where there is no such generation. Raises ConfigErrors.
    """
    with locked(root, listener.waiting):
        return with_store(root, listener.troubled, lambda store: _restore(root, store, number, force=force))


def with_store(root: Path, troubled: Callable[[str], None], step: Callable[[Store], T]) -> T:
    """Do something with the store. A damaged one is repaired, once, and `troubled` is told. Raises ConfigErrors."""
    try:
        store = Store(root)
    except DamagedError as error:
        with explained(STORE):
            (root / STORE).replace(root / f"{STORE}.damaged")
        troubled(f"{error}; it is kept as {STORE}.damaged, and a new one begins")
        store = Store(root)
    try:
        try:
            return step(store)
        except DamagedError as error:
            troubled(f"{error}; what was lost is built again")
            store.forget_damaged()
            return step(store)
    except DamagedError as error:
        raise ConfigErrors([Diagnostic("E503", str(error), None)]) from error
    finally:
        store.close()


def _make(project: Project, store: Store, listener: Listener, way: Way) -> Made:
    root = project.root
    taken, now, last = snapshot.now_ns(), _look(root), snapshot.last(str(root))
    publish.remove_leftovers(root, now)
    changed = snapshot.changed(last, now) if last else None
    compilation = check_project(
        project,
        store,
        Settings(changed, listener.step, partial(_pull, way.cache, listener) if way.cache else None, way.jobs),
    )
    if has_errors(compilation.found):
        raise ConfigErrors(compilation.found)
    disk = publish.digests_on_disk(root, _unchanged(store, now, changed))
    differences, foreign = publish.ours(root, store, publish.differences(disk, compilation.outputs), force=way.force)
    found = [*compilation.found, *foreign]
    if has_errors(found):
        raise ConfigErrors(found)
    publish.publish(root, publish.fetched(store, differences))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    generations.record(store, compilation.outputs[MANIFEST], created, revision(root))
    with explained(SNAPSHOT, "the next compile reads everything again"):
        snapshot.keep(
            str(root), now, taken, [each.path for each in differences], "" if found else _summary(compilation)
        )
    cache = way.cache
    if cache and (compilation.built or compilation.carried):
        _with_cache(listener, lambda: cache.push(store, compilation.sources))
    return Made(compilation, differences, found)


def _pull(cache: Cache, listener: Listener, store: Store, sources: str) -> None:
    _with_cache(listener, lambda: cache.pull(store, sources))


def _with_cache(listener: Listener, step: Callable[[], object]) -> None:
    """A cache that is away or spoilt costs time and nothing else; somebody should know."""
    try:
        step()
    except SpoiltError as error:
        listener.troubled(f"the cache is not used: {error}")
    except ConfigErrors as errors:
        listener.troubled(f"the cache is not used: {errors}")


def _look(root: Path) -> snapshot.Lines:
    try:
        return snapshot.take(str(root))
    except OSError as error:
        with explained(Path(error.filename).relative_to(root).as_posix(), doing="read"):
            raise


def _unchanged(store: Store, now: snapshot.Lines, changed: set[str] | None) -> dict[str, str]:
    """The digests of generated files that are as the current generation has them, by the look of them."""
    if changed is None:
        return {}
    number = generations.current(store)
    published = next((each for each in generations.generations(store) if each.number == number), None)
    outputs = generations.outputs_of(store, published) if published else {}
    return {path: sha for path, sha in outputs.items() if path in now and path not in changed}


def _summary(compilation: Compilation) -> str:
    return f"{len(compilation.models)} {len(compilation.clusters)} {about_unlocked(compilation.unlocked)}"


def _restore(root: Path, store: Store, number: int | None, *, force: bool) -> list[Difference] | None:
    known = {each.number: each for each in generations.generations(store)}
    now = generations.current(store)
    wanted = number if number is not None else known[now].parent if now in known else None
    if wanted not in known:
        return None
    outputs = generations.outputs_of(store, known[wanted])
    lost = [path for path, sha in outputs.items() if not store.has(sha)]
    if lost:
        problem = f"generation {wanted} cannot be restored: {STORE} has lost {lost[0]}"
        raise ConfigErrors([Diagnostic("E503", problem, None, help="check out its commit and compile that")])
    found = publish.differences(publish.digests_on_disk(root), outputs)
    differences, foreign = publish.ours(root, store, found, force=force)
    if has_errors(foreign):
        raise ConfigErrors(foreign)
    with explained(SNAPSHOT):
        (root / SNAPSHOT).unlink(missing_ok=True)
    publish.publish(root, publish.fetched(store, differences))
    generations.switch(store, wanted)
    return differences
