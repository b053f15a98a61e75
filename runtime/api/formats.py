"""What `response_format` asks for becomes a constraint."""

import json
from collections.abc import Iterator, Mapping

from runtime.api.protocol import ResponseFormat
from runtime.engines.contract import Constraint
from runtime.errors import RequestError

MAX_SCHEMA_BYTES = 64 << 10
"""Of a schema's text."""
MAX_SCHEMA_DEPTH = 64
"""Objects and lists in each other."""

_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "lenient": False}
"""llguidance's: a space behind a comma or colon and none elsewhere, so that nobody waits for endless ones; what it
cannot heed is an error."""


def constraint_of(wanted: ResponseFormat | None) -> Constraint | None:
    """None where any text will do. Raises RequestError where the schema is too large."""
    if wanted is None or wanted.type == "text":
        return None
    source = "response_format"
    schema: Mapping[str, object] = {"type": "object"}
    if wanted.json_schema:
        source, schema = "response_format.json_schema.schema", wanted.json_schema.schema_
    return Constraint("json_schema", schema_text(schema, source), source)


def schema_text(schema: Mapping[str, object], source: str) -> str:
    """A client's JSON schema as llguidance takes it, also behind `%json`. `source`: the request's field that has it.

    Raises RequestError where it is too large.
    """
    if any(depth > MAX_SCHEMA_DEPTH for depth in _depths(schema)):
        raise RequestError(f"{source}: it is more than {MAX_SCHEMA_DEPTH} levels deep", source)
    text = json.dumps({**schema, "x-guidance": _OPTIONS})
    if len(text) > MAX_SCHEMA_BYTES:
        raise RequestError(f"{source}: it is {len(text)} bytes long; {MAX_SCHEMA_BYTES} are the most", source)
    return text


def _depths(schema: Mapping[str, object]) -> Iterator[int]:
    """Of each object and list in it."""
    left: list[tuple[int, object]] = [(1, schema)]
    while left:
        depth, node = left.pop()
        if isinstance(node, dict | list):
            yield depth
            left += [(depth + 1, each) for each in (node.values() if isinstance(node, dict) else node)]
