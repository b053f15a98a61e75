"""Reading: every scalar has one meaning, every node its place, every hostile file a quick refusal."""

import math
import time
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from compiler.diagnostics import ConfigErrors, Span
from compiler.source.syntax import MAX_BYTES, MAX_DEPTH, parse
from compiler.source.tree import Scalar, Sequence, plain
from tests.compiler.support import tree

SCALARS = {
    "null": None, "~": None, "": None, "NULL": None, "nULL": "nULL", "none": "none",
    "true": True, "True": True, "TRUE": True, "tRUE": "tRUE", "false": False,
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "N": "N", "NO": "NO",
    "0": 0, "-1": -1, "+1": 1, "007": 7, "010": 10, "0o10": 8, "0x1F": 31, "0b1": "0b1", "1_000": "1_000",
    "1.5": 1.5, "-.5": -0.5, "1.": 1.0, "1e3": 1000.0, "1E-3": 0.001, "1e": "1e", ".": ".", "e3": "e3",
    "1.5.0": "1.5.0",
    "12:30": "12:30", "1:2:3": "1:2:3", "2024-01-01": "2024-01-01", "=": "=", "<": "<",
    '"1"': "1", "'true'": "true", '"\\u00e9"': "é", "'it''s'": "it's", "a b": "a b", "a#b": "a#b", "é": "é",
    "s3://a/b": "s3://a/b", "### Response": None,
}  # fmt: skip
RUAMEL_DIFFERS = {"=", "0b1", "1_000", "2024-01-01"}
"""What ruamel still resolves as YAML 1.1 did."""


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    read = plain(tree(f"k: {text}\n"))["k"]
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", [text for text in SCALARS if text not in RUAMEL_DIFFERS])
def test_ruamel_reads_the_same(text: str) -> None:
    document = f"%YAML 1.2\n---\nk: {text}\n"
    assert plain(tree(f"k: {text}\n"))["k"] == YAML(typ="safe", pure=True).load(StringIO(document))["k"]


def test_every_node_knows_its_place() -> None:
    root = tree("a:\n  b: [1, éé, x]\nc: |\n  text\n")
    inner = root.entries["a"].value
    assert inner.entries["b"].key_span == Span("a.yaml", 2, 3, 2, 4)
    sequence = inner.entries["b"].value
    assert isinstance(sequence, Sequence)
    assert sequence.span == Span("a.yaml", 2, 6, 2, 16)
    assert sequence.items[1].span == Span("a.yaml", 2, 10, 2, 12)
    assert sequence.items[2].span == Span("a.yaml", 2, 14, 2, 15)
    assert isinstance(root.entries["c"].value, Scalar)


def test_windows_line_ends_are_line_ends() -> None:
    assert plain(tree("a: 1\r\nb: x\r\n")) == {"a": 1, "b": "x"}


@pytest.mark.parametrize(
    "data",
    [
        b"a: " + b"[" * 100_000,
        b"- " * 20_000,
        b"a: &a [*a]\n",
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        b"k" * (MAX_BYTES - 10) + b": 1\n",
        b"a: " + b"9" * 5000,
        b"a: '" + b"x" * MAX_BYTES,
        b"".join(b"k%d: 1\n" % number for number in range(100_000)),
        "a: 1".encode("utf-16"),
        b"a: \x00",
        b"a: \xed\xa0\x80",
        b"\xff" * 1000,
        b"a: \xe2\x80\xae",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_hostile_bytes_are_read_or_refused_at_once(data: bytes) -> None:
    start = time.process_time()
    try:
        parse(data, "hostile.yaml")
    except ConfigErrors as errors:
        assert all(diagnostic.primary is not None for diagnostic in errors.diagnostics)
    assert time.process_time() - start < 5  # minutes where something is quadratic


def test_the_deepest_file_that_is_read() -> None:
    fits = MAX_DEPTH - 1  # the top level counts
    assert plain(parse(b"a: " + b"[" * fits + b"]" * fits, "deep.yaml"))
    with pytest.raises(ConfigErrors, match="nested deeper"):
        parse(b"a: " + b"[" * (fits + 1) + b"]" * (fits + 1), "deep.yaml")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_tree_or_findings_inside_the_file(data: bytes) -> None:
    try:
        parse(data, "any.yaml")
    except ConfigErrors as errors:
        assert errors.diagnostics
        lines = data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
        for diagnostic in errors.diagnostics:
            span = diagnostic.primary.span
            assert 1 <= span.line <= len(lines) + 1
            assert span.column >= 1


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=10,
))  # fmt: skip
def test_what_ruamel_writes_is_read_back(value: object) -> None:
    stream = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 10_000
    writer.dump({"k": value}, stream)
    try:
        read = plain(tree(stream.getvalue()))["k"]
    except ConfigErrors as errors:
        assert {diagnostic.code for diagnostic in errors.diagnostics} == {"E103"}  # non-characters
        return
    assert read == value or (isinstance(value, float) and math.isclose(read, value))
