"""One model's build, by itself: in this process, or in several at once."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from compiler.build import keys
from compiler.build.files import model_file
from compiler.build.manifest import entry
from compiler.build.store import Action
from compiler.check.layers import Layers
from compiler.check.waivers import Waivers
from compiler.diagnostics import ConfigErrors, Diagnostic
from compiler.models import check_model_name, compile_model, facts_of, found_through
from compiler.records import dump_facts, dump_found
from compiler.source.project import LOCKS, REGISTRY, Project

_CHUNK = 50
"""Models that a process is given at a time."""


class Attempt(NamedTuple):
    """What came of it.

    `found` and `waivers`: of the model's own file. `key`: empty where the model has errors; they are `errors`, or
    have been found in files below. `action` and `data`: what was built, nothing where that was done before.
    """

    name: str
    found: list[Diagnostic]
    waivers: Waivers | None
    key: str = ""
    errors: tuple[Diagnostic, ...] = ()
    action: Action | None = None
    data: bytes | None = None


def attempt(layers: Layers, digests: dict[str, str], name: str, done: Callable[[str], bool]) -> Attempt:
    """Build a model, unless the build of its key is `done`. `digests`: of every source file."""
    file = f"{REGISTRY}/{name}.yaml"
    layers.get(file)
    built: _Built = ("", None, None)
    errors: list[Diagnostic] = []
    try:
        built = _build(layers, digests, name, done)
    except ConfigErrors as found:
        errors = found.diagnostics
    finally:
        layers.release(file)
        layers.project.release(f"{LOCKS}/{name}.yaml")
    key, action, data = built
    return Attempt(name, layers.found_in(file), layers.waivers.get(file), key, tuple(errors), action, data)


_Built = tuple[str, Action | None, bytes | None]
"""The last three of an attempt: a key, and what was built."""


def _build(layers: Layers, digests: dict[str, str], name: str, done: Callable[[str], bool]) -> _Built:
    file = f"{REGISTRY}/{name}.yaml"
    check_model_name(name, file)
    with found_through(file):
        files = [*_order(layers, file), f"{LOCKS}/{name}.yaml"]
        inputs = keys.model_inputs((digests[each], each) for each in files if each in digests)
    key = keys.key_of(inputs)
    if done(key):
        layers.whole_is_right(file)
        return key, None, None
    compiled = compile_model(layers, name)
    if compiled is None:
        return "", None, None
    facts = facts_of(compiled)
    data = model_file(compiled.model) if facts.enabled else None
    made = (keys.digest(data) if data else None, entry(facts), facts.model_id, facts.enabled)
    action = Action(key, keys.compiler_digest(), inputs, *made, dump_found(facts.found), dump_facts(facts))
    return key, action, data


def _order(layers: Layers, file: str) -> list[str]:
    """The files of a model's stack. Raises ConfigErrors, without what a file below has by itself."""
    try:
        return layers.order(file)
    except ConfigErrors as errors:
        for each in errors.diagnostics:
            layers.get(each.primary.span.file if each.primary else file)
        known = set(layers.found)
        raise ConfigErrors(each for each in errors.diagnostics if each not in known) from errors


def attempts_in_processes(root: Path, digests: dict[str, str], names: Iterable[str], jobs: int) -> Iterator[Attempt]:
    """Attempts by so many processes, in order. They start anew and share nothing with this one."""
    import multiprocessing  # takes as long to load as twenty models to build
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (root, digests)) as pool:
        yield from pool.map(_work, names, chunksize=_CHUNK)


_own: list[tuple[Layers, dict[str, str]]] = []
"""A process's own layers, and the digests that it was given."""


def _start(root: Path, digests: dict[str, str]) -> None:
    _own.append((Layers(Project(root)), digests))


def _work(name: str) -> Attempt:
    return attempt(*_own[0], name, lambda _: False)
