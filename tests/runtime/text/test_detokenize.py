"""Characters come whole, however their bytes are split."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.text.detokenize import Detokenizer


@given(st.text(), st.lists(st.integers(0, 200), max_size=20))
def test_any_split_of_the_bytes_gives_the_text(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    detokenizer = Detokenizer()
    parts = [detokenizer.feed(data[a:b]) for a, b in pairwise(edges)]
    assert "".join(parts) + detokenizer.flush() == data.decode()
    assert all("\ufffd" not in part or "\ufffd" in text for part in parts)


def test_an_unfinished_character_shows_at_the_end() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed("né".encode()[:-1]) == "n"
    assert detokenizer.flush() == "\ufffd"
