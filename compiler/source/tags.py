"""The tags that a value may carry, and what each says. One table: parser, merge, editor and docs derive from it."""

from typing import Literal, NamedTuple

Kind = Literal["mapping", "list", "scalar"]

UNSET, REPLACE, APPEND, PREPEND, REMOVE = "!unset", "!replace", "!append", "!prepend", "!remove"
EDITS = (APPEND, PREPEND, REMOVE)
"""Tags that change a list instead of replacing it."""
FINAL, FORCE, TEMPLATE = "!final", "!force", "!template"


class Tag(NamedTuple):
    """A tag's name, the kinds of value that it goes with, and its meaning in a sentence."""

    name: str
    kinds: tuple[Kind, ...]
    meaning: str


TAGS = {
    tag.name: tag
    for tag in (
        Tag(UNSET, ("scalar",), "Drops what lower layers set here. Stands alone, without a value."),
        Tag(REPLACE, ("mapping", "list"), "Takes the place of what lower layers set here, instead of merging with it."),
        Tag(APPEND, ("list",), "Adds the items behind those of the list below."),
        Tag(PREPEND, ("list",), "Adds the items before those of the list below."),
        Tag(REMOVE, ("list",), "Takes the items out of the list below."),
        Tag(FINAL, ("mapping", "list", "scalar"), "Forbids layers above a different value, unless they say `!force`."),
        Tag(FORCE, ("mapping", "list", "scalar"), "Overrides a `!final` value below."),
        Tag(TEMPLATE, ("scalar",), "A Jinja2 expression over the merged config, such as `{{ model_id | slug }}`."),
    )
}
"""By name, in the order of the docs."""
