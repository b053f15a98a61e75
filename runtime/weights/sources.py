"""Which folder holds a model's files: fetched where they are not there, checked in any case."""

import logging
from pathlib import Path

from runtime.application import ModelArguments
from runtime.errors import ConfigError, WeightsError
from runtime.phases import Phases
from runtime.weights.cache import cache_folder, folder_name
from runtime.weights.eviction import make_room
from runtime.weights.fetching import fetch
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.selection import SelectionError
from runtime.weights.turns import alone, use
from runtime.weights.verification import cached, check_content, check_folder, snapshot_of

_FILENAME = "model_config.initialization.initializer.model_filename"

_log = logging.getLogger(__name__)


def model_folder(arguments: ModelArguments, phases: Phases) -> Path:
    """The folder with the model's files. Raises ConfigError that names the field which asks for them."""
    request = Request.of(arguments)
    try:
        folder = obtain(request, Pace(), phases)
        with phases.phase("verify"):
            check_content(request, folder)
        return folder
    except SelectionError as error:
        raise ConfigError(_FILENAME, request.declared_in, str(error)) from error
    except WeightsError as error:
        raise ConfigError(request.asked_by, request.declared_in, str(error)) from error
    except OSError as error:
        problem = f"{error.filename or cache_folder()}: {error.strerror or error}"
        raise ConfigError(request.asked_by, request.declared_in, problem) from error


def obtain(request: Request, pace: Pace, phases: Phases) -> Path:
    """The folder, with all files in it, each with the digest that its lock or its source gives. Raises WeightsError."""
    if request.lock is None:
        _log.warning("%s has no lock: whatever its source holds is loaded", request.repository)
    folder = request.local_folder
    if folder is not None:
        with phases.phase("verify"):
            check_folder(request, folder)
        return folder
    is_settled = request.commit or not request.mirror.bucket_uri  # else the mirror may have moved on
    with phases.phase("verify"):
        there, _ = _look(request) if is_settled else (None, None)
    if there:
        return there
    with phases.phase("fetch"), alone(folder_name(request.repository)) as note:
        there, problem = _look(request) if is_settled else (None, None)  # another process may have fetched it
        found = there or fetch(request, pace, note, problem)
        _use(request)
    _make_room()
    return found


def held(request: Request) -> Path:
    """The folder, if it has all files already, checked as in `obtain`. Raises WeightsError."""
    if folder := request.local_folder:
        check_folder(request, folder)
        return folder
    found, problem = _look(request)
    if found is None:
        why = problem or f"{request.repository} is not in the model cache {cache_folder()}"
        raise WeightsError(f"{why}; pull it again: `llm-serve weights pull`")
    return found


def _make_room() -> None:
    """In a cache that is too large. A model whose files are there starts in any case."""
    try:
        make_room()
    except (WeightsError, OSError) as error:
        _log.warning("no room is made in the model cache: %s", error)


def _look(request: Request) -> tuple[Path | None, WeightsError | None]:
    """What the cache has, which stays there from now on, and why it is not good enough."""
    _use(request)  # before it is looked at: nobody makes room in between
    try:
        return cached(request), None
    except WeightsError as error:
        return None, error


def _use(request: Request) -> None:
    if snapshot := snapshot_of(request):
        use(snapshot)


def model_file(folder: Path, filename: str | None, suffix: str, field: str, declared_in: str) -> Path:
    """One file of the model: `filename`, or the only one that ends in `suffix`.

    Raises ConfigError that names `field`: no such file, several to choose from.
    """
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}"))
    if filename is None:
        if len(there) != 1:
            problem = f"needed: {folder} holds {', '.join(there) or f'no {suffix} file'}"
            raise ConfigError(field, declared_in, problem)
        filename = there[0]
    path = folder / filename
    if Path(filename).is_absolute() or ".." in Path(filename).parts:
        raise ConfigError(field, declared_in, f"{filename!r} leads out of the model's folder")
    if not path.is_file():
        listed = f"it holds {', '.join(there)}" if there else f"it holds no {suffix} file"
        raise ConfigError(field, declared_in, f"there is no file {filename!r} in {folder}; {listed}")
    return path
