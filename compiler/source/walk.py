"""Which files there are. Light: a build with nothing to do imports little else."""

import os
from collections.abc import Iterator


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
