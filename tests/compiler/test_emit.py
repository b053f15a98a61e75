"""What is written means the same to every YAML reader, 1.1 and 1.2."""

from io import StringIO

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from compiler.emit import emit
from compiler.source.syntax import parse
from compiler.source.tree import plain

text = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False) | text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=12
)
TRICKY = [
    "no", "yes", "on", "off", "y", "n", "true", "True", "null", "~", "1", "1.0", "1e3", "0x10", "0o17", "1_000",
    "12:30:45", "2024-01-01", ".inf", ".nan", "-", "--", "---", "...", "?", ":", "#", "!", "&", "*", "|", ">", "%",
    "@", "`", "=", "<<", "[", "]", "{", "}", ",", "'", "\"", "a:b", "a:", ":a", "a#b", "#a", "é", "😀", "s3://b/k/",
    "<|im_end|>", "###", "-x", "x-", "_", "a/b.c-d+e",
]  # fmt: skip


@given(st.dictionaries(text, values, max_size=4))
@example(dict.fromkeys(TRICKY, TRICKY))
@example(
    {"a": ["", " ", " a ", "a\n", "\n\n", "\t", "\0", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe", "a: b", "a #b"]}
)
def test_every_reader_reads_back_what_was_written(document: dict[str, object]) -> None:
    written = emit(document, "header").decode()
    assert yaml.safe_load(written) == document
    assert (YAML(typ="safe", pure=True).load(StringIO(written)) or {}) == document


@given(st.dictionaries(text.filter(lambda key: len(key) < 20), scalars, min_size=1, max_size=4))
def test_our_own_reader_reads_it_too(document: dict[str, object]) -> None:
    assert plain(parse(emit(document, "header"), "generated.yaml")) == document


def test_the_same_document_gives_the_same_bytes_and_the_order_is_kept() -> None:
    assert emit({"b": 1, "a": [{"c": {}}, [], [1, [2]]]}, "one\n\ntwo") == (
        b"# one\n#\n# two\nb: 1\na:\n  - c: {}\n  - []\n  -\n    - 1\n    -\n      - 2\n"
    )


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", (1, 2)])
def test_what_is_no_yaml_is_a_bug_of_the_caller(value: object) -> None:
    with pytest.raises(TypeError, match="cannot emit"):
        emit({"a": value}, "")
