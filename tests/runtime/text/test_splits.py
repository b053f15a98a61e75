"""Streamed text is the whole text up to its earliest stop, wherever tokens cut characters and stops."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from random import Random

import pytest

from runtime.schema.generation import StopSequence
from runtime.text.transcript import Transcript
from tests.conftest import at_size
from tests.runtime.support import ByteTokenizer

SAMPLES = {
    "zwj": "👩‍👩‍👧‍👦!",
    "flag and skin": "🇫🇷👍🏽",
    "cjk": "日本語。",
    "combining": "e\u0301o\u0308\u0323",
    "beyond ASCII": "Größe ﷽ \u2028",
    "surrogates' neighbours": "\ud7ff\ue000\U0010ffff\ufffd",
}
ALPHABET = ["a", "b", "#", "##", " ", "\n", "é", "日", "👩‍👧", "e\u0301", "\u2028", "😀"]


class Pieces(ByteTokenizer):
    """A token is the piece of that number."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token]


def sent(pieces: Sequence[bytes], stops: Sequence[StopSequence] = ()) -> list[str]:
    """What goes out after each token, and at the end."""
    transcript, found = Transcript(Pieces(pieces), stops), []
    for token in range(len(pieces)):
        found.append(transcript.feed(token))
        if transcript.stopped:
            break
    return [*found, transcript.flush()]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    return [data[a:b] for a, b in pairwise([0, *places, len(data)])]


def splits(data: bytes) -> Iterator[list[bytes]]:
    """All in up to four pieces, and byte by byte."""
    for count in range(4):
        for places in combinations(range(1, len(data)), count):
            yield cut(data, places)
    yield [data[at : at + 1] for at in range(len(data))]


def earliest(pieces: Sequence[bytes], stops: Sequence[str]) -> str:
    """The text up to the stop that is complete first, and of those that are so with the same token the first one."""
    for count in range(1, len(pieces) + 1):
        seen = b"".join(pieces[:count]).decode("utf-8", "ignore")
        if places := [seen.find(stop) for stop in stops if stop in seen]:
            return seen[: min(places)]
    return b"".join(pieces).decode("utf-8", "replace")


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_split_of_the_bytes_gives_the_text_in_whole_characters(sample: str) -> None:
    text = SAMPLES[sample]
    for pieces in splits(text.encode()):
        found = sent(pieces)
        assert "".join(found) == text
        assert all("\ufffd" not in each for each in found) or "\ufffd" in text


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_split_finds_a_stop_that_is_any_part_of_it(sample: str) -> None:
    text = SAMPLES[sample]
    stops = [text[a:b] for a, b in combinations(range(len(text) + 1), 2) if b - a < 4]
    every = at_size(40, 1)
    for number, pieces in enumerate(splits(text.encode())):
        if number % every:
            continue
        for stop in stops:
            assert "".join(sent(pieces, [stop])) == earliest(pieces, [stop])


def test_bytes_that_are_no_text_become_replacement_characters_and_nothing_else_does() -> None:
    random = Random(1)
    for _ in range(at_size(500, 5_000)):
        data = bytes(random.choice((*b"ab", 0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80, 0xFF)) for _ in range(8))
        pieces = cut(data, sorted(random.choices(range(9), k=random.randrange(5))))
        assert "".join(sent(pieces)) == data.decode("utf-8", "replace")


def test_any_text_in_any_tokens_with_any_stops_is_cut_at_the_earliest() -> None:
    random, stopped = Random(2), 0
    for _ in range(at_size(1_000, 20_000)):
        text = "".join(random.choices(ALPHABET, k=random.randrange(12)))
        data = text.encode()
        pieces = cut(data, sorted(random.choices(range(len(data) + 1), k=random.randrange(8))))
        places = sorted(random.choices(range(len(text) + 1), k=2))
        some_of_it = text[places[0] : places[1]][:4]
        others = ["".join(random.choices(ALPHABET, k=random.randint(1, 2))) for _ in range(random.randrange(3))]
        stops = [stop for stop in (some_of_it, *others, some_of_it[:1]) if stop]
        random.shuffle(stops)
        found = "".join(sent(pieces, stops))
        assert found == earliest(pieces, stops), (pieces, stops)
        assert not any(stop in found for stop in stops)
        stopped += found != text
    assert stopped > 100
