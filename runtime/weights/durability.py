"""What was fetched goes to the disk while the model is loaded already, and is remembered as verified once it is there.

A power cut before that costs another look at the files, and nothing else: what is not remembered is hashed again.
"""

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from runtime.weights.digests import Digests, looks_of

_log = logging.getLogger(__name__)

_writing: list[threading.Thread] = []


def remember_once_safe(blobs: Sequence[Path], digests: Digests) -> None:
    """Write blobs to the disk and then down that each is what its name says, which its fetcher has checked."""
    looks = {blob: looks_of(blob) for blob in blobs}  # now: what somebody changes later is another file
    thread = threading.Thread(target=_remember, args=(looks, digests), daemon=True)
    _writing.append(thread)
    thread.start()


def wait_until_safe() -> None:
    """For who ends soon."""
    while _writing:
        _writing.pop().join()


def _remember(looks: dict[Path, list[object]], digests: Digests) -> None:
    try:
        for blob, seen in looks.items():
            with blob.open("rb") as stream:
                os.fsync(stream.fileno())
            digests.note(blob, seen, blob.name)
        digests.keep()
    except OSError as error:
        _log.warning("fetched files are not known to be on the disk, and will be read again: %s", error)
