"""Where the weights come from."""

from typing import Annotated

from pydantic import Field

from runtime.schema import Schema

RepositoryName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$", max_length=96)
]
"""A hub repository, with or without its organisation."""


class S3MirrorConfig(Schema):
    """A mirror of the model's hub repository, tried before the hub."""

    bucket_uri: str | None = None
    """`s3://bucket/prefix/`, or a local folder that holds the same files."""
    endpoint_url: str | None = None
    """Address of an S3-compatible server; AWS when left out."""
    git_uri: str | None = None
    """A git repository to clone the files from."""
    s3_sync_args: list[str] = []
    """Flags of `aws s3 sync`, such as `--no-sign-request`."""
