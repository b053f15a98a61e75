"""The header of a safetensors file, held against the file's size. Reads nothing else of it.

Eight bytes with the header's length, a JSON object, then the tensors' bytes without gaps.
Source: huggingface/safetensors, "Format".
"""

import json
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

Read = Callable[[int, int], bytes]
"""Bytes of a file: from where, and how many; fewer only at its end."""

_LONGEST = 100_000_000
"""Bytes of a header, by the format's own implementation."""
_METADATA = "__metadata__"
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits of one number of each format."""


class HeaderError(Exception):
    """A file's header is broken, or says what is not so. The message says what."""


class Tensor(NamedTuple):
    """One tensor. `numbers`: how many it has."""

    name: str
    dtype: str
    numbers: int


def read_safetensors(read: Read, size: int) -> list[Tensor]:
    """The tensors of a file of so many bytes. Raises HeaderError."""
    first = read(0, 8)
    if len(first) < 8:
        raise HeaderError("it is too short for a safetensors file")
    length = int.from_bytes(first, "little")
    if length > min(_LONGEST, size - 8):
        raise HeaderError(f"it says that its header has {length} bytes, and the file has {size}")
    tensors = []
    end = 0
    for name, begin, stop, tensor in sorted(_entries(read(8, length)), key=lambda each: each[1:3]):
        if begin != end or stop < begin:
            raise HeaderError(f"tensor `{name}` begins at {begin}, and the one before ends at {end}")
        if stop - begin != (tensor.numbers * BITS[tensor.dtype] + 7) // 8:
            raise HeaderError(f"tensor `{name}` has {stop - begin} bytes, which is not what its shape needs")
        end = stop
        tensors.append(tensor)
    if 8 + length + end != size:
        raise HeaderError(f"its tensors end at {8 + length + end}, and the file has {size} bytes")
    return tensors


def _entries(header: bytes) -> list[tuple[str, int, int, Tensor]]:
    try:
        said = json.loads(header, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"its header is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise HeaderError("its header is not a JSON object")
    return [_entry(name, entry) for name, entry in said.items() if name != _METADATA]


def _entry(name: str, entry: Any) -> tuple[str, int, int, Tensor]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(stop)]} if dtype in BITS:
            if all(type(each) is int and each >= 0 for each in shape):
                return name, begin, stop, Tensor(name, dtype, prod(shape))
    raise HeaderError(f"tensor `{name}` has no sensible dtype, shape and place")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise HeaderError("its header has a key twice")
    return found
