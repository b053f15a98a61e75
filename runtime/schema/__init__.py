"""The contract's parts. Light: pydantic and the standard library only.

A field is one line with a docstring that says what it is, its unit and where it comes from; the reference docs,
the editor schema and the errors derive from it. Defaults here are the last word below `base/defaults.yaml`.
"""

from pydantic import BaseModel, ConfigDict

PATH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$"
"""A relative path that leads nowhere else: no part of it starts with a dot."""


class Schema(BaseModel):
    """Base of all config models: closed, immutable, no silent coercion."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )
