"""The keys of a file that speak of the file itself: no layer above inherits them."""

from typing import Annotated

from pydantic import Field

from runtime.schema import Schema


class FileKeys(Schema):
    """What a model or profile file says of itself."""

    extends: str | Annotated[list[str], Field(min_length=1)] = []
    """The layers that this file lies on: one name or a list, in which a later entry lies on an earlier one. A name is
    a path under `registry/` or `base/` without `.yaml`. `base/defaults.yaml` lies under everything."""
    waive: dict[str, str] = {}
    """Findings that are meant to be so: code -> reason, such as `W204: warm after each deploy`."""
