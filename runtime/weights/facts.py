"""What a model's config and the headers of its weights say of it."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from runtime.errors import WeightsError
from runtime.schema.lock import WeightsFacts
from runtime.weights.gguf import TOKENS, Gguf, read_gguf
from runtime.weights.safetensors import HeaderError, Read, Tensor, read_safetensors

_CONFIG = "config.json"
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "vocabulary": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
}
"""What configs call each of our facts."""
_IN_GGUF = {
    "layers": "block_count",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "hidden_size": "embedding_length",
    "vocabulary": "vocab_size",
    "context_length": "context_length",
}
_WORDS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def facts_of(sizes: Mapping[str, int], reader: Callable[[str], Read]) -> WeightsFacts:
    """The facts of some files, path -> bytes. `reader`: reads pieces of one. Raises WeightsError for a broken one."""
    said: dict[str, Any] = {}
    tensors: list[Tensor] = []
    if _CONFIG in sizes:
        said |= _from_config(reader(_CONFIG)(0, sizes[_CONFIG]))
    for path, size in sizes.items():
        try:
            match PurePosixPath(path).suffix.lower():
                case ".safetensors":
                    tensors += read_safetensors(reader(path), size)
                case ".gguf":
                    header = read_gguf(reader(path), size)
                    tensors += header.tensors
                    said = _from_gguf(header) | said
        except HeaderError as error:
            raise WeightsError(f"{path}: {error}") from error
    return WeightsFacts(**said, **_from_tensors(tensors))


def _from_config(data: bytes) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{_CONFIG}: is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{_CONFIG}: is not a JSON object")
    inner = config.get("text_config")
    merged = {**config, **(inner if isinstance(inner, dict) else {})}
    said: dict[str, Any] = {fact: _first(merged, names) for fact, names in _NAMES.items()}
    said["kv_heads"] = said["kv_heads"] or said["heads"]
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        said["architecture"] = architectures[0]
    return {fact: value for fact, value in said.items() if value is not None}


def _first(config: Mapping[str, Any], names: Iterable[str]) -> int | None:
    found = (config[name] for name in names if name in config)
    return next((value for value in found if type(value) is int and value > 0), None)


def _from_gguf(header: Gguf) -> dict[str, Any]:
    architecture = header.metadata.get("general.architecture")
    said = {fact: _first(header.metadata, [f"{architecture}.{key}"]) for fact, key in _IN_GGUF.items()}
    said["vocabulary"] = said["vocabulary"] or header.lengths.get(TOKENS)
    said["kv_heads"] = said["kv_heads"] or said["heads"]
    known = {fact: value for fact, value in said.items() if value is not None}
    return {"architecture": architecture, **known} if isinstance(architecture, str) else known


def _from_tensors(tensors: Iterable[Tensor]) -> dict[str, Any]:
    by_dtype: Counter[str] = Counter()
    for each in tensors:
        by_dtype[each.dtype] += each.numbers
    if not by_dtype.total():
        return {}
    dtype = by_dtype.most_common(1)[0][0]
    return {"dtype": _WORDS.get(dtype, dtype), "parameters": by_dtype.total()}
