"""The API keys that this process takes.

They are the node's business: they come from its environment or from a file that it names, never from the registry.
Of a key only its SHA-256 is kept.
"""

import hmac
import logging
import os
import stat
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, ValidationError

from runtime.errors import ConfigError
from runtime.schema import Schema

FILE, PLAIN = "LLM_SERVE_API_KEYS_FILE", "LLM_SERVE_API_KEYS"
"""The environment variables: a TOML file, and keys as they are, separated by commas."""
LOOK_INTERVAL_S = 1.0
"""How often the file is looked at, at most."""
MAX_FILE_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """One key, and what its holder may do."""

    name: str
    digest: bytes
    """SHA-256 of the key."""
    models: tuple[str, ...] = ("*",)
    """Globs of the model ids that it opens."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Tokens of prompts and answers together."""

    def may_use(self, model_id: str) -> bool:
        """Whether it opens the model."""
        return any(fnmatchcase(model_id, pattern) for pattern in self.models)


class KeyEntry(Schema):
    """A table `[keys.NAME]` of the file."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key, in hexadecimal."""
    models: Annotated[list[str], Field(min_length=1)] = ["*"]
    """Globs of the model ids that it opens."""
    requests_per_minute: PositiveInt | None = None
    """Requests in any 60 seconds; no limit when left out."""
    tokens_per_minute: PositiveInt | None = None
    """Tokens of prompts and answers in any 60 seconds; no limit when left out."""


class KeysFile(Schema):
    """The whole file."""

    keys: Annotated[dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")], KeyEntry], Field(min_length=1)]
    """Names, which logs show, and their keys."""


class _FileError(Exception):
    """The file cannot be used. The message says why, and shows nothing of what it holds."""


class Keys:
    """The keys of this moment: a file that changes is read again while the process runs."""

    def __init__(
        self, plain: tuple[Key, ...] = (), file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ConfigError where the file cannot be used."""
        self._plain = plain
        self._file = file
        self._clock = clock
        self._looked = clock()
        self._version: object = None
        self._problem = ""
        """What is wrong with the file now."""
        self._from_file: tuple[Key, ...] = ()
        if file is not None:
            try:
                self._version = _version(file)
                self._from_file = _read(file)
            except _FileError as error:
                raise ConfigError(FILE, "the node's environment", str(error)) from error

    @property
    def required(self) -> bool:
        """Whether nobody comes in without one."""
        return bool(self._plain) or self._file is not None

    def find(self, presented: bytes) -> Key | None:
        """The key that this is. All are compared, each in constant time."""
        self._look()
        digest, found = sha256(presented).digest(), None
        for key in (*self._plain, *self._from_file):
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _look(self) -> None:
        """Read a file that has changed. One that cannot be used leaves the keys as they were."""
        now = self._clock()
        if self._file is None or now - self._looked < LOOK_INTERVAL_S:
            return
        self._looked = now
        try:
            version = _version(self._file)
            if version == self._version:
                return
            self._from_file = _read(self._file)
        except _FileError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                _log.error("keys_file_refused", extra={"problem": f"{error}; the keys stay as they were"})
            return
        self._version, self._problem = version, ""
        _log.info("keys_file_read", extra={"keys": [key.name for key in self._from_file]})


def keys_from(environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys that the node configures; none is required where it names none. Raises ConfigError."""
    plain: tuple[Key, ...] = ()
    if PLAIN in environment:
        given = [key.strip() for key in environment[PLAIN].split(",")]
        if not all(key.isascii() and key.isprintable() and key and " " not in key for key in given):
            problem = "every key, separated by commas, must be of printable ASCII characters without spaces"
            raise ConfigError(PLAIN, "the node's environment", problem)
        plain = tuple(Key(f"{PLAIN}-{number}", _digest(key)) for number, key in enumerate(given, 1))
    if FILE not in environment:
        return Keys(plain)
    if not environment[FILE]:
        raise ConfigError(FILE, "the node's environment", "it is empty; unset it, or name a file")
    return Keys(plain, Path(environment[FILE]))


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _version(path: Path) -> tuple[int, ...]:
    """What changes with the file. Raises _FileError."""
    try:
        found = path.stat()
    except OSError as error:
        raise _FileError(f"{path}: {error.strerror}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> tuple[Key, ...]:
    """Raises _FileError."""
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
                raise _FileError(f"{path}: it must be a file of at most {MAX_FILE_BYTES} bytes")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _FileError(f"{path}: others than its owner may write to it; `chmod go-w` it")
            content = tomllib.loads(stream.read().decode())
        entries = KeysFile.model_validate(content).keys
    except OSError as error:
        raise _FileError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise _FileError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise _FileError(f"{path}: it is no TOML: {error}") from error
    if len({entry.sha256 for entry in entries.values()}) < len(entries):
        raise _FileError(f"{path}: two names have the same key")
    return tuple(
        Key(
            name,
            bytes.fromhex(entry.sha256),
            tuple(entry.models),
            entry.requests_per_minute,
            entry.tokens_per_minute,
        )
        for name, entry in entries.items()
    )
