"""A cache that several checkouts share: a folder, or a bucket.

It holds packs: all builds of one state of the sources in one object, so that a fresh checkout gets ten thousand models
in one request. A pack is found by the sources it was made from, or else as the latest of the same compiler, of which
most models will be the same. Nothing in it is believed: a pack is signed with a secret that all who share it have, a
build's key is worked out anew from its inputs, and a file must have the hash that it is listed under.
"""

import gzip
import hashlib
import hmac
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from compiler.build import keys
from compiler.build.disk import refused
from compiler.build.store import Action, Store
from compiler.diagnostics import ConfigErrors, Diagnostic

SECRET = "LLM_SERVE_CACHE_KEY"  # noqa: S105 (the name of a variable)
_SHORTEST = 16
"""Characters of a secret that are not guessed in a lifetime."""


class Shelf(Protocol):
    """Where a cache keeps its objects."""

    def get(self, name: str) -> bytes | None:
        """An object; None where there is none. Raises ConfigErrors (E501) where it cannot be asked."""

    def put(self, name: str, data: bytes) -> None:
        """Keep an object, over an older one of that name. Raises ConfigErrors (E501)."""


class SpoiltError(Exception):
    """An object of the cache is not what it should be. The message says which and why."""


class Cache:
    """A shared cache, and the secret that its packs are signed with."""

    def __init__(self, shelf: Shelf, secret: bytes) -> None:
        self._shelf, self._secret = shelf, secret

    def pull(self, store: Store, sources: str) -> None:
        """Take over what was built from these sources, or else from the last ones.

        Raises SpoiltError: nothing of that object was taken over. Raises ConfigErrors (E501).
        """
        name = _pack(sources)
        data = self._shelf.get(name)
        if data is None:
            latest = self._shelf.get(_latest())
            name = _pack(self._opened(_latest(), latest).decode("ascii", "replace")) if latest else name
            data = self._shelf.get(name) if latest else None
        if data is None:
            return
        actions = list(_read(name, self._opened(name, data)))
        for action, file in actions:
            if file is not None:
                store.put(file)
            store.keep(action)

    def push(self, store: Store, sources: str) -> None:
        """Give what is built now. Raises ConfigErrors (E501)."""
        rows = store.rows("SELECT action.* FROM model JOIN action USING (key) ORDER BY name")
        lines = []
        for row in rows:
            action = Action(*row)  # type: ignore[arg-type]
            file = store.blob(action.output).decode() if action.output else None
            lines.append(json.dumps([*action, file]))
        self._shelf.put(_pack(sources), self._signed(_pack(sources), gzip.compress("\n".join(lines).encode(), mtime=0)))
        self._shelf.put(_latest(), self._signed(_latest(), sources.encode()))

    def _signed(self, name: str, data: bytes) -> bytes:
        return self._signature(name, data) + data

    def _opened(self, name: str, data: bytes) -> bytes:
        signature, content = data[:32], data[32:]
        if not hmac.compare_digest(signature, self._signature(name, content)):
            raise SpoiltError(f"{name} is damaged, or signed with another {SECRET}")
        return content

    def _signature(self, name: str, data: bytes) -> bytes:
        """Over the name too, so that one object cannot be put in another's place."""
        return hmac.digest(self._secret, name.encode() + b"\0" + data, "sha256")


def _pack(sources: str) -> str:
    return f"packs/{sources}"


def _latest() -> str:
    return f"latest/{keys.compiler_digest()}"


def _read(name: str, data: bytes) -> Iterator[tuple[Action, bytes | None]]:
    try:
        lines = gzip.decompress(data).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SpoiltError(f"{name} is damaged: {error}") from error
    for line in lines:
        *fields, file = json.loads(line)
        action = Action(*fields)
        found = hashlib.sha256(file.encode()).hexdigest() if file is not None else None
        if action.key != keys.key_of(action.inputs, compiler=action.compiler) or action.output != found:
            raise SpoiltError(f"{name} lists a build under a key or a hash that is not its own")
        yield action, None if file is None else file.encode()


def cache_at(address: str) -> Cache:
    """The cache at `DIR` or `s3://bucket/prefix`. Raises ConfigErrors where it cannot be used."""
    secret = os.environ.get(SECRET, "")
    if len(secret) < _SHORTEST:
        problem = f"--cache needs a secret of {_SHORTEST} characters or more in {SECRET}"
        hint = "the same one for all who share the cache: what it does not sign is not believed"
        raise ConfigErrors([Diagnostic("E504", problem, None, help=hint)])
    if address.startswith("s3://"):
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        return Cache(_Bucket(bucket, prefix.strip("/")), secret.encode())
    return Cache(_Folder(Path(address)), secret.encode())


class _Folder:
    """A folder, such as one that several machines mount."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refused(f"{self._folder}/{name}", "read", error.strerror or str(error), "") from error

    def put(self, name: str, data: bytes) -> None:
        file = self._folder / name
        temporary = file.with_name(f".{file.name}-{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(file)
        except OSError as error:
            raise refused(f"{self._folder}/{name}", "write", error.strerror or str(error), "") from error


class _Bucket:
    """A bucket of S3's protocol. Address, region and credentials are the environment's, as with every AWS tool."""

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            problem = "a cache on S3 needs boto3"
            hint = "pip install 'llm-serve[s3]'"
            raise ConfigErrors([Diagnostic("E504", problem, None, help=hint)]) from error
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._errors = (BotoCoreError, ClientError)
        self._missing = ClientError
        patience = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 3, "mode": "standard"})
        try:
            self._client = boto3.client("s3", config=patience)
        except BotoCoreError as error:
            raise refused(f"s3://{bucket}", "read", str(error), "") from error

    def get(self, name: str) -> bytes | None:
        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
        except self._errors as error:
            if isinstance(error, self._missing) and error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise refused(self._address(name), "read", str(error), "") from error
        return body

    def put(self, name: str, data: bytes) -> None:
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)
        except self._errors as error:
            raise refused(self._address(name), "write", str(error), "") from error

    def _address(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{name}"
