"""The header of a GGUF file, held against the file's size: metadata and tensors, before llama.cpp sees them.

Source: ggml-org/ggml, docs/gguf.md; the types' blocks and bytes are those of the pinned llama.cpp.
"""

import struct
from math import prod
from typing import NamedTuple

from runtime.weights.safetensors import HeaderError, Read, Tensor

Value = str | int | float | bool
TEMPLATE = "tokenizer.chat_template"
TOKENS = "tokenizer.ggml.tokens"

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS, _MOST_TENSORS, _MOST_DIMENSIONS = 100_000, 1_000_000, 4
_LONGEST_NAME = 65_535
_LONGEST_TEXT = 16 << 20
_CHUNK = 1 << 20
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Each tensor type: its name, and how many numbers of it take how many bytes."""


class Gguf(NamedTuple):
    """What a header says. `lengths`: how many items each array in the metadata has."""

    metadata: dict[str, Value]
    lengths: dict[str, int]
    tensors: list[Tensor]


def read_gguf(read: Read, size: int) -> Gguf:
    """The header of a file of so many bytes. Raises HeaderError."""
    cursor = _Cursor(read, size)
    if cursor.take(4) != _MAGIC:
        raise HeaderError("it does not begin as a GGUF file does")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        raise HeaderError(f"it has version {version} of the format; versions 2 and 3 are known")
    tensor_count = cursor.count(_MOST_TENSORS, "tensors")
    metadata: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(cursor.count(_MOST_KEYS, "keys")):
        key = cursor.text(_LONGEST_NAME)
        if key in metadata or key in lengths:
            raise HeaderError(f"its metadata has `{key}` twice")
        kind = cursor.number("<I")
        if kind == _ARRAY:
            lengths[key] = cursor.skip_array()
        else:
            metadata[key] = cursor.text(_LONGEST_TEXT) if kind == _STRING else cursor.scalar(int(kind))
    return Gguf(metadata, lengths, _tensors(cursor, tensor_count, metadata.get("general.alignment", 32)))


def _tensors(cursor: "_Cursor", count: int, alignment: Value) -> list[Tensor]:
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise HeaderError(f"it aligns its tensors to {alignment!r}")
    found, ends = [], []
    for _ in range(count):
        name = cursor.text(_LONGEST_NAME)
        dimensions = [int(cursor.number("<Q")) for _ in range(cursor.count(_MOST_DIMENSIONS, "dimensions", "<I"))]
        kind, offset = int(cursor.number("<I")), int(cursor.number("<Q"))
        if kind not in _TYPES:
            raise HeaderError(f"tensor `{name}` has the type {kind}, which is not known")
        dtype, block, size = _TYPES[kind]
        numbers = prod(dimensions)
        if offset % alignment or (dimensions and dimensions[0] % block):
            raise HeaderError(f"tensor `{name}` is not aligned")
        ends.append((offset + numbers // block * size, name))
        found.append(Tensor(name, dtype, numbers))
    start = -(-cursor.position // alignment) * alignment
    for end, name in ends:
        if start + end > cursor.size:
            raise HeaderError(f"tensor `{name}` ends at {start + end}, and the file has {cursor.size} bytes")
    return found


class _Cursor:
    """A place in a file, which is read a piece at a time."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self.size = size
        self.position = 0
        self._piece, self._start = b"", 0

    def take(self, count: int) -> bytes:
        at = self.position - self._start
        if at + count > len(self._piece):
            if self.position + count > self.size:
                raise HeaderError(f"its header wants to go on to {self.position + count}, and it has {self.size} bytes")
            self._piece, self._start, at = self._read(self.position, max(count, _CHUNK)), self.position, 0
            if len(self._piece) < count:
                raise HeaderError("it ends in the middle of its header")
        self.position += count
        return self._piece[at : at + count]

    def number(self, format_: str) -> int | float | bool:
        (value,) = struct.unpack(format_, self.take(struct.calcsize(format_)))
        assert isinstance(value, int | float | bool)
        return value

    def count(self, most: int, what: str, format_: str = "<Q") -> int:
        count = int(self.number(format_))
        if count > most:
            raise HeaderError(f"it says that it has {count} {what}")
        return count

    def text(self, longest: int) -> str:
        length = self.count(longest, "bytes in one text")
        return self.take(length).decode("utf-8", "replace")

    def scalar(self, kind: int) -> Value:
        if kind not in _FORMATS:
            raise HeaderError(f"its metadata has a value of the type {kind}, which is not known")
        return self.number(_FORMATS[kind])

    def skip_array(self) -> int:
        """Go behind an array; how many items it has."""
        kind = int(self.number("<I"))
        count = self.count(self.size, "items in one list")
        if kind == _STRING:
            for _ in range(count):
                self.take(self.count(_LONGEST_TEXT, "bytes in one text"))
        elif kind in _FORMATS:
            self._skip(count * struct.calcsize(_FORMATS[kind]))
        else:
            raise HeaderError(f"its metadata has a list of the type {kind}, which is not known")
        return count

    def _skip(self, count: int) -> None:
        if self.position + count > self.size:
            raise HeaderError(f"its header wants to go on to {self.position + count}, and it has {self.size} bytes")
        self.position += count
        if self.position > self._start + len(self._piece):
            self._piece, self._start = b"", self.position
