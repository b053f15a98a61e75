"""Calls are told from content, however the text is cut; what is no call is content, and nothing is lost."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text.calls import CallReader, Calls, is_content
from runtime.text.tools import FORMATS, Call

NAMES = frozenset({"get_weather", "now"})
EVERY = sorted(FORMATS)


def written(name: str, calls: list[Call]) -> str:
    """The calls as a model of that family writes them."""
    row = FORMATS[name]
    if not calls:
        return ""
    if name.startswith("deepseek"):
        start = row.forced.removeprefix(row.begin)
        end = row.other_marks[-1]
        each = [f"{start}{call.name}{row.after_name}{call.arguments}{row.after_arguments}{end}" for call in calls]
        return row.begin + "\n".join(each) + row.end
    if name == "mistral-args":
        return "".join(f"{row.begin}{call.name}{row.after_name}{call.arguments}" for call in calls)
    key = "parameters" if name == "llama3" else "arguments"
    plain = [f'{{"name": "{call.name}", "{key}": {call.arguments}}}' for call in calls]
    if name == "llama3":
        return row.begin + "; ".join(plain)
    if name == "mistral":
        return f"{row.begin} [{', '.join(plain)}]"
    return "\n".join(f"{row.begin}\n{each}\n{row.end}" for each in plain)


def read(calls: Calls, pieces: list[str]) -> tuple[str, list[Call]]:
    """Content and calls of an answer that comes in pieces."""
    reader = CallReader(calls)
    found = [each for piece in pieces for each in reader.feed(piece)] + reader.flush()
    assert reader.settled == len("".join(pieces))
    assert all(each for each in found)
    content = "".join(each for each in found if isinstance(each, str))
    return content, [each for each in found if isinstance(each, Call)]


def cut(text: str, places: list[int]) -> list[str]:
    return [text[begin:end] for begin, end in pairwise([0, *sorted(min(place, len(text)) for place in places), None])]


marks = st.sampled_from(sorted({mark for row in FORMATS.values() for mark in (row.begin, row.end) if mark}))
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | words | marks,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(words | marks, values, max_size=3).map(lambda each: json.dumps(each, ensure_ascii=False))
some_calls = st.lists(st.builds(Call, st.sampled_from(sorted(NAMES)), arguments), min_size=1, max_size=3)
places = st.lists(st.integers(0, 200), max_size=12)
content = st.text(st.sampled_from("ab {<|[T\n\t>é"), max_size=12)
"""Beginnings of marks are among it, and no mark."""


@pytest.mark.parametrize("name", EVERY)
@given(before=content, calls=some_calls, after=content, places=places)
def test_calls_and_content_however_they_are_cut(name, before, calls, after, places) -> None:
    if name == "llama3" and before.lstrip().startswith("{"):
        before = ""  # there it would be a call, and a wrong one
    if not FORMATS[name].end:
        after = ""  # the calls go on to the end
    text = before + written(name, calls) + after
    rules = Calls(FORMATS[name], NAMES)
    expected = (before.rstrip() + after.lstrip(), calls)
    assert read(rules, [text]) == expected
    assert read(rules, cut(text, places)) == expected
    assert read(rules, list(text)) == expected
    assert read(Calls(FORMATS[name], NAMES, only_one=True), list(text)) == (before.rstrip(), calls[:1])


@pytest.mark.parametrize("name", EVERY)
@given(
    text=st.lists(
        content
        | marks
        | some_calls.map(lambda calls: written("hermes", calls))
        | st.sampled_from(['"', "\\", '{"name": "now"', '{"name": "other", "arguments": {}}', "}", ", ", "now"]),
        max_size=6,
    ).map("".join),
    places=places,
)
def test_whatever_comes_is_the_same_in_pieces_and_nothing_of_it_is_lost(name, text, places) -> None:
    rules = Calls(FORMATS[name], NAMES)
    whole = read(rules, [text])
    assert read(rules, cut(text, places)) == read(rules, list(text)) == whole
    if not whole[1]:
        assert whole[0] == text
    reader = CallReader(rules)
    for piece in cut(text, places):
        reader.feed(piece)
    reader.flush()
    told = "".join(character for at, character in enumerate(text) if is_content(at, reader.not_content))
    assert told == whole[0]


@pytest.mark.parametrize("name", EVERY)
@given(call=some_calls.map(lambda calls: calls[0]), places=places)
def test_a_forced_call_goes_on_from_the_prompt(name, call, places) -> None:
    row = FORMATS[name]
    text = call.name + row.after_name + call.arguments + row.after_arguments
    assert read(Calls(row, NAMES, forced=True), cut(text, places)) == ("", [call])


@pytest.mark.parametrize("name", EVERY)
def test_content_is_sent_at_once(name) -> None:
    reader = CallReader(Calls(FORMATS[name], NAMES))
    assert [reader.feed(piece) for piece in ("Let ", "me ", "see.")] == [["Let"], [" me"], [" see."]]
    assert reader.flush() == []
    begin = FORMATS[name].begin
    assert reader.feed("\n" + begin[:3]) == []
    assert reader.feed("no") == ["\n" + begin[:3] + "no"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "call",
    [
        Call("unknown", "{}"),
        Call("now", "[]"),
        Call("now", "{"),
        Call("now", "{'a': 1}"),
        Call("now", '{"a": NaN}'),
        Call("now", '{"a": 1e999}'),
        Call("now", '{"a": "\\ud800"}'),
        Call("now", '{"a": ' + "[" * 5000 + "]" * 5000 + "}"),
    ],
)
def test_what_is_no_call_of_a_tool_is_content(name, call) -> None:
    text = written(name, [call])
    assert read(Calls(FORMATS[name], NAMES), [text]) == (text, [])


@pytest.mark.parametrize("name", EVERY)
def test_a_call_that_is_cut_off_is_content(name) -> None:
    text = written(name, [Call("now", '{"a": 1}')])
    cut_off = text[: text.index("1")]
    assert read(Calls(FORMATS[name], NAMES), [cut_off]) == (cut_off, [])


def test_a_good_call_after_a_bad_one_counts() -> None:
    good = written("hermes", [Call("now", "{}")])
    assert read(Calls(FORMATS["hermes"], NAMES), ["<tool_call>{oops</tool_call> " + good]) == (
        "<tool_call>{oops</tool_call>",
        [Call("now", "{}")],
    )


def test_llamas_calls_need_no_mark_at_the_start() -> None:
    rules = Calls(FORMATS["llama3"], NAMES)
    text = '{"name": "now", "parameters": {"a": 1}}; {"name": "get_weather", "parameters": {}}'
    assert read(rules, list(text)) == ("", [Call("now", '{"a": 1}'), Call("get_weather", "{}")])
    for plain in ('{"a": 1}', "See: " + text):
        assert read(rules, list(plain)) == (plain, [])


def test_arguments_may_be_left_out_and_the_end_too() -> None:
    rules = Calls(FORMATS["hermes"], NAMES)
    assert read(rules, ['<tool_call>{"name": "now"}']) == ("", [Call("now", "{}")])
