"""`response_format`, bounded."""

import json

import pytest

from runtime.api.formats import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, constraint_of, schema_text
from runtime.api.protocol import ResponseFormat
from runtime.errors import RequestError

EMPTY = len(schema_text({"title": ""}, "here"))


@pytest.mark.parametrize("wanted", [None, ResponseFormat(type="text")])
def test_text_is_no_constraint(wanted: ResponseFormat | None) -> None:
    assert constraint_of(wanted) is None


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_schema_has_a_greatest_size(more: int, fits: bool) -> None:
    schema = {"title": "x" * (MAX_SCHEMA_BYTES - EMPTY + more)}
    if fits:
        assert len(schema_text(schema, "here")) == MAX_SCHEMA_BYTES
        return
    with pytest.raises(RequestError, match=r"^here: it is 65537 bytes long") as caught:
        schema_text(schema, "here")
    assert caught.value.param == "here"


@pytest.mark.parametrize("deeper", [lambda inner: [inner], lambda inner: {"a": inner}])
@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False), (100_000, False)])
def test_a_schema_has_a_greatest_depth(deeper, more: int, fits: bool) -> None:
    inner: object = 1
    for _ in range(MAX_SCHEMA_DEPTH - 1 + more):
        inner = deeper(inner)
    if fits:
        assert schema_text({"enum": inner}, "here")
        return
    with pytest.raises(RequestError, match=r"^here: it is more than 64 levels deep"):
        schema_text({"enum": inner}, "here")


def test_the_client_does_not_choose_how_the_schema_is_read() -> None:
    text = schema_text({"type": "object", "x-guidance": {"lenient": True, "whitespace_flexible": True}}, "here")
    options = json.loads(text)["x-guidance"]
    assert (options["lenient"], options["whitespace_flexible"]) == (False, False)


def test_properties_keep_their_order() -> None:
    names = ["z", "a", "m"]
    text = schema_text({"properties": {name: {} for name in names}}, "here")
    assert list(json.loads(text)["properties"]) == names
