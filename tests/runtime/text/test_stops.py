"""Stops: streamed text is the whole text cut at the earliest stop, however it is split."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.text.stops import StopMatcher


def run(tokens: list[tuple[int, str]], stops: list) -> tuple[str, bool, list[str]]:
    matcher, sent = StopMatcher(stops), []
    for token, text in tokens:
        sent.append(matcher.feed(token, text))
        if matcher.stopped:
            break
    sent.append(matcher.flush())
    return "".join(sent), matcher.stopped, sent


def as_tokens(pieces: list[str]) -> list[tuple[int, str]]:
    return list(enumerate(pieces))


def test_a_stop_across_tokens_is_not_sent() -> None:
    assert run(as_tokens(["Hello ##", "# Resp", "onse: x"]), ["### Response:"]) == (
        "Hello ",
        True,
        ["Hello ", "", "", ""],
    )


def test_what_only_looked_like_a_stop_is_sent_in_the_end() -> None:
    assert run(as_tokens(["a##", "# Res", "ults"]), ["### Response:"])[:2] == ("a### Results", False)
    assert run(as_tokens(["a##"]), ["###"])[:2] == ("a##", False)


def test_the_earliest_stop_wins_not_the_first_listed() -> None:
    assert run(as_tokens(["one two three"]), ["three", "two"])[:2] == ("one ", True)


def test_token_runs() -> None:
    tokens = [(1, "a"), (7, "b"), (8, "c"), (9, "d")]
    assert run(tokens, [8])[:2] == ("ab", True)
    assert run(tokens, [[7, 8]])[:2] == ("a", True)
    assert run(tokens, [[8, 7]])[:2] == ("abcd", False)
    assert run([(7, "a"), (7, "b"), (8, "c")], [[7, 8]])[:2] == ("a", True)


def test_a_partial_run_is_held_back() -> None:
    matcher = StopMatcher([[7, 8]])
    assert [matcher.feed(7, "x"), matcher.feed(9, "y")] == ["", "xy"]


def test_no_stop_before_the_minimum() -> None:
    matcher = StopMatcher(["b", 3])
    assert matcher.feed(1, "b", may_stop=False) == "b"
    assert matcher.feed(3, "c", may_stop=False) == "c"
    assert matcher.feed(2, "ab") == "a" and matcher.stopped


texts = st.text("abc#", max_size=30)
stop_strings = st.lists(st.text("abc#", min_size=1, max_size=4), max_size=3)


@st.composite
def split_texts(draw: st.DrawFn) -> list[str]:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(split_texts(), stop_strings)
def test_any_split_gives_the_earliest_cut(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    cuts = [whole.find(stop) for stop in stops if stop in whole]
    text, stopped, _ = run(as_tokens(pieces), stops)
    assert stopped == bool(cuts)
    if not cuts:
        assert text == whole
    else:  # a stop that ends earlier is seen first, even if a longer one begins before it
        assert whole.startswith(text) and not any(stop in text for stop in stops)
        assert any(whole.startswith(stop, len(text)) for stop in stops)
        fed = next(n for n in range(len(pieces) + 1) if any(stop in "".join(pieces[:n]) for stop in stops))
        seen = "".join(pieces[:fed])
        assert len(text) == min(seen.find(stop) for stop in stops if stop in seen)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.text("ab", max_size=2)), max_size=12),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
def test_any_token_run_gives_the_earliest_cut(tokens: list[tuple[int, str]], stop: list[int]) -> None:
    ids = [token for token, _ in tokens]
    found = next((i for i in range(len(ids)) if ids[i : i + len(stop)] == stop), None)
    text, stopped, _ = run(tokens, [stop])
    assert stopped == (found is not None)
    assert text == "".join(piece for _, piece in tokens[:found])
