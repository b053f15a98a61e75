"""Tokens are sent with their text, streamed as whole, and never where a stop has cut it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from runtime.engines.contract import EndToken, ScoredToken
from runtime.schema.generation import StopSequence
from runtime.text.transcript import Echo, Transcript
from tests.runtime.support import ByteTokenizer


class Pieces(ByteTokenizer):
    """A token is the piece of that number."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def label(self, token: int) -> bytes:
        return self.piece(token) or b"<%d>" % token


def steps(pieces: Sequence[bytes], tokens: Sequence[int], stops: Sequence[StopSequence]) -> list[tuple[str, str]]:
    """After each token and at the end: the text that is sent, and the tokens."""
    transcript, found = Transcript(Pieces(pieces), stops), []
    for token in tokens:
        text = transcript.feed(ScoredToken(token, -1.0, ()))
        found.append((text, " ".join(score.label.decode("utf-8", "replace") for score in transcript.scores())))
        if transcript.stopped:
            break
    text = transcript.flush()
    return [*found, (text, " ".join(score.label.decode("utf-8", "replace") for score in transcript.scores()))]


def test_a_token_that_is_cut_is_not_sent() -> None:
    assert steps([b"One", b" two. Th"], [0, 1], [". "]) == [("One", "One"), (" two", ""), ("", "")]


def test_a_token_comes_with_the_last_of_its_text() -> None:
    pieces = [b"One#", b"x", b"#"]
    assert steps(pieces, [0, 1], ["##"]) == [("One", ""), ("#x", "One# x"), ("", "")]
    assert steps(pieces, [0, 2], ["##"]) == [("One", ""), ("", ""), ("", "")]
    assert steps(pieces, [0], ["##"]) == [("One", ""), ("#", "One#")]


def test_a_token_without_text_waits_for_the_next_text_and_goes_with_a_stop() -> None:
    pieces = [b"a", b"", b"b"]
    assert steps(pieces, [0, 1, 2], []) == [("a", "a"), ("", ""), ("b", "<1> b"), ("", "")]
    assert steps(pieces, [0, 1], []) == [("a", "a"), ("", ""), ("", "<1>")]
    assert steps(pieces, [0, 1, 1], [[1, 1]]) == [("a", "a"), ("", ""), ("", ""), ("", "")]


def test_a_token_inside_a_character_waits_for_the_whole_one() -> None:
    euro = "\N{EURO SIGN}".encode()
    assert [text for text, _ in steps([b"a" + euro[:1], euro[1:]], [0, 1], [])] == ["a", "\N{EURO SIGN}", ""]
    assert [bool(tokens) for _, tokens in steps([b"a" + euro[:1], euro[1:]], [0, 1], [])] == [False, True, False]
    assert steps([euro[:1]], [0], []) == [("", ""), ("\ufffd", "\ufffd")]


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=8), st.lists(st.sampled_from("ab\xe9"), max_size=2))
def test_what_is_sent_is_the_beginning_of_what_was_made(pieces: list[bytes], stops: list[str]) -> None:
    transcript, text = Transcript(Pieces(pieces), stops), ""
    scores = []
    for token in range(len(pieces)):
        text += transcript.feed(ScoredToken(token, -1.0, ()))
        scores += transcript.scores()
        if transcript.stopped:
            break
    text += transcript.flush()
    scores += transcript.scores()
    whole = b"".join(pieces).decode("utf-8", "replace")
    assert whole.startswith(text)
    assert [score.label for score in scores] == [Pieces(pieces).label(token) for token in range(len(scores))]
    assert all(score.offset <= len(text) for score in scores)
    if transcript.stopped:
        assert not any(stop in text for stop in stops)
    else:
        assert (text, len(scores)) == (whole, len(pieces))


def test_an_echo_comes_first_and_shifts_what_follows() -> None:
    pieces = [b"Once", b" up", b"on"]
    transcript = Transcript(Pieces(pieces), ["Once", " up"], echo=Echo("Once up", [0, 1]))
    assert [(score.label, score.logprob, score.offset) for score in transcript.scores()] == [(b"Once", None, 0)]
    assert transcript.feed(ScoredToken(1, -1.0, ())) == ""
    assert [(score.label, score.logprob, score.offset) for score in transcript.scores()] == [(b" up", -1.0, 4)]
    assert (transcript.tokens, transcript.stopped) == (0, False)  # no stop matches the prompt
    assert transcript.feed(ScoredToken(2, -2.0, ())) == "on"
    assert [(score.label, score.offset) for score in transcript.scores()] == [(b"on", 7)]
    assert transcript.feed(EndToken(0, -3.0, ())) == ""
    assert (transcript.tokens, transcript.scores(), transcript.flush()) == (1, (), "")
    assert [(score.label, score.offset) for score in transcript.scores()] == [(b"Once", 9)]


def test_offsets_in_an_echo_are_those_of_its_text() -> None:
    euro = "\N{EURO SIGN}".encode()
    pieces = [b"", b" One", b" two", euro[:1], euro[1:], b"!"]
    labelled = Pieces(pieces)
    whole = [0, 1, 2, 3, 4, 5]
    found = {text: list(Echo(text, whole).offsets(labelled)) for text in ("One two\u20ac!", "<0> One two\u20ac!")}
    assert found == {
        "One two\u20ac!": [0, 0, 3, 7, 7, 8],  # the tokenizer has put a start token and a space in front
        "<0> One two\u20ac!": [0, 3, 7, 11, 11, 12],
    }
    assert list(Echo("ONE", [1, 2]).offsets(labelled)) == [0, 3]  # what is normalised keeps its width
    assert max(Echo("x", [1, 2, 5]).offsets(labelled)) <= 1
