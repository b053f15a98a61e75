"""Which folder holds a model's files: a local mirror, then the cache."""

from pathlib import Path

from runtime.application import ModelArguments
from runtime.errors import ConfigError
from runtime.weights.cache import CacheError, cache_folder, snapshot, verify

_BUCKET_URI = "model_config.initialization.s3_mirror_config.bucket_uri"


def model_folder(arguments: ModelArguments) -> Path:
    """The folder with the model's files. Raises ConfigError that names the field which asks for them."""
    initialization = arguments.initialization
    mirror = initialization.s3_mirror_config
    if mirror is not None and mirror.bucket_uri is not None:
        return _local_mirror(mirror.bucket_uri, arguments)
    try:
        return snapshot(arguments.repository, initialization.revision)
    except CacheError as error:
        field = "model_config.initialization.hf_model_id" if initialization.hf_model_id else "model_config.model_id"
        hint = f"fetch it with `hf download {arguments.repository} --cache-dir {cache_folder()}`"
        raise ConfigError(field, arguments.declared_in, f"{error}; {hint}") from error


def _local_mirror(uri: str, arguments: ModelArguments) -> Path:
    if "://" in uri.removeprefix("file://"):
        problem = f"{uri} is remote; this version reads mirrors that are local folders, and the model cache"
        raise ConfigError(_BUCKET_URI, arguments.declared_in, problem)
    folder = Path(uri.removeprefix("file://"))
    if not folder.is_dir():
        raise ConfigError(_BUCKET_URI, arguments.declared_in, f"there is no folder {folder}")
    return folder


def model_file(folder: Path, filename: str | None, suffix: str, field: str, declared_in: str) -> Path:
    """One verified file of the model: `filename`, or the only one that ends in `suffix`.

    Raises ConfigError that names `field`: no such file, several to choose from, bad checksum.
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
    try:
        verify(path)
    except CacheError as error:
        raise ConfigError(field, declared_in, str(error)) from error
    return path


def check_files(folder: Path, arguments: ModelArguments) -> None:
    """Check every file of the model. Raises ConfigError for one with a bad checksum."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() and path.suffix != ".gguf":
                verify(path)
        except CacheError as error:
            raise ConfigError("model_config.model_id", arguments.declared_in, str(error)) from error
