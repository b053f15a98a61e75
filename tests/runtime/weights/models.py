"""Small models, byte by byte."""

import json
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int], int, int]], data: bytes) -> bytes:
    """A file of tensors: name -> dtype, shape, begin, end."""
    entries = {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        for name, (dtype, shape, begin, end) in tensors.items()
    }
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def gguf(
    metadata: Mapping[str, str | int] | None = None,
    tensors: Mapping[str, tuple[Sequence[int], int, int]] | None = None,
    data: bytes = b"",
) -> bytes:
    """A file of metadata and tensors: name -> dimensions, type, offset."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors or {}), len(metadata or {}))
    for key, value in (metadata or {}).items():
        out += _text(key) + (struct.pack("<II", 4, value) if isinstance(value, int) else _value(value))
    for name, (dimensions, kind, offset) in (tensors or {}).items():
        out += _text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
    return out + b"\0" * (-len(out) % 32) + data


def _value(text: str) -> bytes:
    return struct.pack("<I", 8) + _text(text)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}


def write_model(folder: Path, size: int = 4096) -> dict[str, bytes]:
    """A folder that looks like a model's, with `size` bytes of weights; its files."""
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer_config.json": b'{"chat_template": "{{ messages[0].content }}"}',
        "model.safetensors": safetensors({"a": ("U8", [size], 0, size)}, random.Random(size).randbytes(size)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files
