"""Where the weights come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from runtime.schema import Schema, contradiction

_WITH_VALUE = ("--endpoint-url", "--exclude", "--include", "--profile", "--region", "--request-payer")
_ALONE = ("--no-sign-request",)
_IDLE = (
    "--exact-timestamps", "--no-progress", "--only-show-errors", "--quiet", "--size-only",
)  # fmt: skip
"""What they ask for is so in any case."""


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What the flags of `aws s3 sync` say. `filters`: whether to include, and a pattern; the last that matches wins."""

    signed: bool = True
    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None
    request_payer: bool = False
    filters: tuple[tuple[bool, str], ...] = ()

    def wants(self, path: str) -> bool:
        """Whether the filters let a file through."""
        return next((include for include, each in reversed(self.filters) if fnmatchcase(path, each)), True)


REPOSITORY_PATTERN = r"^[A-Za-z0-9]([.-]?[A-Za-z0-9_])*(/[A-Za-z0-9]([.-]?[A-Za-z0-9_])*)?$"


def _no_clone_address(name: str) -> str:
    if name.endswith(".git"):
        raise contradiction(f"`{name}` ends like the address of a clone; leave the `.git` out")
    return name


RepositoryName = Annotated[str, Field(pattern=REPOSITORY_PATTERN, max_length=96), AfterValidator(_no_clone_address)]
"""A hub repository, with or without its organisation. `--` stands for the `/` in the cache, and is in no name."""


class S3MirrorConfig(Schema):
    """A mirror of the model's hub repository, tried before the hub."""

    bucket_uri: Annotated[str, Field(min_length=1)] | None = None
    """`s3://bucket/prefix/`, or a local folder that holds the same files."""
    endpoint_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """Address of an S3-compatible server; AWS when left out."""
    git_uri: Annotated[str, Field(pattern=r"^(https://|ssh://|file:///|[\w.-]+@[\w.-]+:)\S+$")] | None = None
    """A git repository to clone the files from."""
    s3_sync_args: list[str] = []
    """Flags of `aws s3 sync`, such as `--no-sign-request`."""

    @property
    def options(self) -> SyncOptions:
        """What `s3_sync_args` say."""
        said = list(_flags(self.s3_sync_args))
        last = dict(said)
        return SyncOptions(
            signed="--no-sign-request" not in last,
            region=last.get("--region"),
            endpoint_url=self.endpoint_url or last.get("--endpoint-url"),
            profile=last.get("--profile"),
            request_payer="--request-payer" in last,
            filters=tuple((flag == "--include", value) for flag, value in said if flag in ("--include", "--exclude")),
        )

    @model_validator(mode="after")
    def _flags_are_known(self) -> Self:
        for flag, _ in _flags(self.s3_sync_args):
            if flag not in (*_WITH_VALUE, *_ALONE, *_IDLE):
                known = ", ".join((*_ALONE, *_WITH_VALUE, *_IDLE))
                raise contradiction(
                    f"`{flag}` is not a flag that is understood here; there are {known}", "s3_sync_args"
                )
        return self


def _flags(words: list[str]) -> Iterator[tuple[str, str]]:
    """Each flag with its value, written as two words or with `=`. Raises contradiction for one without its value."""
    rest = iter(words)
    for word in rest:
        flag, has_value, value = word.partition("=")
        if flag in _WITH_VALUE and not has_value:
            value = next(rest, "")
        if flag in _WITH_VALUE and (not value or value.startswith("--")):
            raise contradiction(f"`{flag}` needs a value", "s3_sync_args")
        yield flag, value
