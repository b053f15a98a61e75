"""Which files there are. Light: a build with nothing to do imports little else."""

import os
from collections.abc import Iterator


def find_root(start: str) -> str | None:
    """The nearest folder, from an absolute path upwards, that has a registry."""
    folder = start
    while not os.path.isdir(f"{folder}/registry"):  # one that may not be looked into has none, as far as we can tell
        if folder == os.path.dirname(folder):
            return None
        folder = os.path.dirname(folder)
    return folder


def walk(root: str, folder: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """All that lies under a folder but folders, with paths from the root; nothing where there is no such folder.

    A link is not followed. Raises OSError where a folder cannot be looked into.
    """
    try:
        entries = os.scandir(f"{root}/{folder}")
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False) and not entry.name.endswith(
                ".yaml"
            ):  # which is a mistake to tell of
                yield from walk(root, path)
            else:
                yield path, entry
