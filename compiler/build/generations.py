"""Every state of `generated/` that was published, by number; and what may be thrown away."""

from typing import NamedTuple

from compiler.build.manifest import outputs_in
from compiler.build.places import MANIFEST
from compiler.build.store import DamagedError, Store

_CURRENT = "generation"


class Generation(NamedTuple):
    """A published state. `manifest`: the blob that lists all its files; `created`: UTC, for people."""

    number: int
    parent: int | None
    created: str
    revision: str | None
    manifest: str
    pinned: int


def generations(store: Store) -> list[Generation]:
    """All that are kept, the oldest first."""
    rows = store.rows("SELECT number, parent, created, revision, manifest, pinned FROM generation ORDER BY number")
    return [Generation(*row) for row in rows]  # type: ignore[arg-type]


def current(store: Store) -> int | None:
    """The number of the one that `generated/` holds."""
    number = store.state(_CURRENT)
    return int(number) if number else None


def record(store: Store, manifest: str, created: str, revision: str | None) -> None:
    """Number what has been published, unless that is the current one still."""
    parent = current(store)
    if parent and store.value("SELECT manifest FROM generation WHERE number = ?", parent) == manifest:
        return
    last = store.value("SELECT max(number) FROM generation")
    number = (last if isinstance(last, int) else 0) + 1
    with store.writing():
        row = (number, parent, created, revision, manifest)
        store.write("INSERT INTO generation VALUES (?, ?, ?, ?, ?, 0)", [row])
        store.note(_CURRENT, str(number))


def switch(store: Store, number: int) -> None:
    """Make another one current."""
    with store.writing():
        store.note(_CURRENT, str(number))


def pin(store: Store, number: int, *, pinned: bool) -> None:
    """Keep a generation whatever comes, or not any longer."""
    with store.writing():
        store.write("UPDATE generation SET pinned = ? WHERE number = ?", [(int(pinned), number)])


def outputs_of(store: Store, generation: Generation) -> dict[str, str]:
    """Its files: path -> digest. Raises DamagedError."""
    return {**outputs_in(store.blob(generation.manifest)), MANIFEST: generation.manifest}


class Garbage(NamedTuple):
    """What nothing needs. `size`: bytes of the blobs."""

    generations: list[int]
    blobs: list[str]
    size: int


def garbage(store: Store, keep: int) -> Garbage:
    """All but the last `keep` generations, those that are pinned, the current one, and what the last compile made."""
    known = generations(store)
    kept = [each for each in known[max(0, len(known) - keep) :] if keep]
    kept += [each for each in known if each.pinned or each.number == current(store)]
    needed = {
        str(row[0]) for row in store.rows("SELECT output FROM model JOIN action USING (key) WHERE output NOT NULL")
    }
    needed |= {str(row[0]) for row in store.rows("SELECT output FROM cluster")}
    for each in kept:
        try:
            needed |= set(outputs_of(store, each).values())
        except DamagedError:
            continue  # `store verify` tells of it; what is lost needs nothing
    sizes = {str(sha): int(str(size)) for sha, size in store.rows("SELECT digest, length(data) FROM blob")}
    blobs = sorted(sizes.keys() - needed)
    gone = [each.number for each in known if each not in kept]
    return Garbage(gone, blobs, sum(sizes[sha] for sha in blobs))


def collect_garbage(store: Store, what: Garbage) -> None:
    """Throw it away, and the builds that made it."""
    with store.writing():
        store.write("DELETE FROM generation WHERE number = ?", [(number,) for number in what.generations])
        store.write("DELETE FROM blob WHERE digest = ?", [(sha,) for sha in what.blobs])
        store.write("DELETE FROM action WHERE output = ?", [(sha,) for sha in what.blobs])
        store.write("DELETE FROM action WHERE output IS NULL AND key NOT IN (SELECT key FROM model)", [()])
        store.write("DELETE FROM checked WHERE (file, digest) NOT IN (SELECT file, digest FROM source)", [()])
    store.shrink()


def damage(store: Store) -> list[str]:
    """What is wrong with the store, a line each."""
    lines = store.integrity()
    for (sha,) in store.rows("SELECT digest FROM blob ORDER BY digest"):
        try:
            store.blob(str(sha))
        except DamagedError as error:
            lines.append(str(error))
    for each in generations(store):
        try:
            lost = [path for path, sha in outputs_of(store, each).items() if not store.has(sha)]
        except DamagedError as error:
            lines.append(f"generation {each.number} cannot be restored: {error}")
        else:
            lines += [f"generation {each.number} cannot be restored: {path} is lost" for path in lost]
    return lines
