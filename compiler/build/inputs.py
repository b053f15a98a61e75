"""What went into a model's build, for people: now, and when it was built."""

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.build import keys
from compiler.build.store import Store
from compiler.layering.layers import Orders
from compiler.source.project import LOCKS, REGISTRY, Project

_COMPILER = "the compiler and its schema"


@dataclass(frozen=True, slots=True)
class Inputs:
    """A build's key, and what it is the hash of: file -> digest, the lowest layer first."""

    key: str
    inputs: dict[str, str]


def inputs_now(project: Project, name: str) -> Inputs:
    """What a model would be built from. Raises ConfigErrors."""
    files = Orders(project).of(f"{REGISTRY}/{name}.yaml")
    files = [*files, f"{LOCKS}/{name}.yaml"] if name in project.locks else files
    return _inputs(keys.model_inputs((project.digest(file), file) for file in files), keys.compiler_digest())


def recorded(store: Store, name: str) -> tuple[Inputs | None, Inputs | None]:
    """What a model was built from last, and the time before."""
    rows = store.rows("SELECT key, previous FROM model WHERE name = ?", name)
    found = [store.action(str(key)) if key else None for key in (rows[0] if rows else (None, None))]
    last, before = (_inputs(each.inputs, each.compiler) if each else None for each in found)
    return last, before


def _inputs(lines: str, compiler: str) -> Inputs:
    pairs = (line.split(" ", 1) for line in lines.splitlines())
    return Inputs(keys.key_of(lines, compiler=compiler), {_COMPILER: compiler, **{file: sha for sha, file in pairs}})


def compared(before: Inputs, after: Inputs) -> Iterator[str]:
    """What is not the same, a line each."""
    for file in {**before.inputs, **after.inputs}:
        old, new = before.inputs.get(file), after.inputs.get(file)
        if old != new:
            did = "came" if old is None else "went" if new is None else "changed"
            yield f"  {file} {did}"
    order = [file for file in before.inputs if file in after.inputs]
    if order != [file for file in after.inputs if file in before.inputs]:
        yield "  its layers lie in another order"
