"""What a compile has done, for people. Light: most compiles have nothing to do and load little else."""

import sys
from collections.abc import Sequence
from typing import Protocol

MOST_CHANGES = 40
"""So many changed files are named one by one."""


class Changed(Protocol):
    """A file that was written, or removed if there is nothing `new`."""

    @property
    def path(self) -> str: ...
    @property
    def new(self) -> object | None: ...


def print_compiled(models: int, clusters: int, seconds: float, built: int, differences: Sequence[Changed] = ()) -> None:
    """What a compile has done."""
    print_changes(differences)
    written = sum(each.new is not None for each in differences)
    removed = len(differences) - written
    built_or_not = f"{built} built, {models - built} reused" if built else "nothing to build"
    did = ", ".join(
        part
        for part, needed in (
            (f"wrote {count(written, 'file')}", written),
            (f"removed {count(removed, 'file')}", removed),
            ("generated/ was up to date", not differences),
        )
        if needed
    )
    what = f"compiled {count(models, 'model')} into {count(clusters, 'cluster')}"
    print(f"{what} in {seconds:.2f} s: {built_or_not}; {did}")


def print_changes(differences: Sequence[Changed]) -> None:
    """Which files were written and removed: the first of them, if there are many."""
    for each in differences[:MOST_CHANGES]:
        print(f"  {'removed' if each.new is None else 'wrote'} {each.path}")
    if len(differences) > MOST_CHANGES:
        print(f"  ... and {len(differences) - MOST_CHANGES} more")


def print_warning(text: str) -> None:
    """A warning that is no finding, where there is one."""
    if text:
        print(f"warning: {text}", file=sys.stderr)


def count(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
