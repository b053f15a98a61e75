"""Token bytes to text, holding back what is not a whole character yet."""

import codecs


class Detokenizer:
    """The text of one answer. Bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """The characters that `piece` completes."""
        return self._decoder.decode(piece)

    @property
    def is_inside_character(self) -> bool:
        """Whether the next bytes must complete one."""
        return bool(self._decoder.getstate()[0])

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character."""
        return self._decoder.decode(b"", final=True)
