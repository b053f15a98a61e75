"""Which files of a repository a model needs: its weights in one format, and the small ones that describe it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from runtime.errors import WeightsError
from runtime.weights.inspection import Trust, is_code, is_pickle

_DESCRIPTIONS = frozenset({".jinja", ".json", ".model", ".spm", ".tiktoken", ".txt"})
"""Suffixes of configs, tokenizers and templates."""
_OTHER_FORMATS = frozenset({"coreml", "flax", "metal", "mlx", "onnx", "openvino", "original", "runs", "tf"})
"""Folders that hold the model once more, for somebody else."""
_SPLIT = re.compile(r"(.*-)\d{5}-of-\d{5}\.gguf")
"""A GGUF in several files, which llama.cpp opens by the first."""
_SAFETENSORS, _GGUF = ".safetensors", ".gguf"


class SelectionError(WeightsError):
    """There are weights, and not the file that the model asks for by name, or several and it names none."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the engine reads. `gguf`: GGUF instead of safetensors; `filename`: which of several."""

    gguf: bool = False
    filename: str | None = None
    trust: Trust = field(default_factory=Trust)

    def of(self, paths: Iterable[str]) -> list[str]:
        """The files to fetch, sorted. Raises WeightsError where there are no weights; SelectionError."""
        there = sorted(path for path in paths if not _is_aside(path))
        weights = self._gguf(there) if self.gguf else self._tensors(there)
        return sorted({*weights, *(path for path in there if self._describes(path))})

    def _describes(self, path: str) -> bool:
        return _suffix(path) in _DESCRIPTIONS or (self.trust.code and is_code(path))

    def _gguf(self, there: list[str]) -> list[str]:
        found = [path for path in there if _suffix(path) == _GGUF]
        if self.filename:
            if self.filename not in found:
                raise SelectionError(f"there is no file '{self.filename}'; {_listed(found, _GGUF)}")
            split = _SPLIT.fullmatch(self.filename)
            return [path for path in found if split and path.startswith(split[1])] or [self.filename]
        if len(found) != 1:
            raise SelectionError(f"`initializer.model_filename` is needed: {_listed(found, _GGUF)}")
        return found

    def _tensors(self, there: list[str]) -> list[str]:
        found = [path for path in there if _suffix(path) == _SAFETENSORS]
        whole = [path for path in found if not PurePosixPath(path).name.startswith("consolidated")]
        pickles = [path for path in there if is_pickle(path)]
        if self.trust.pickles and pickles:
            return pickles
        if not found:
            others = f"only {', '.join(pickles[:3])}, which may run code when loaded" if pickles else "no weights"
            raise WeightsError(f"there are no safetensors files: {others}")
        return whole or found


def _is_aside(path: str) -> bool:
    """Whether a file is hidden, or in a folder for others."""
    *folders, name = path.split("/")
    return any(part.startswith(".") for part in (*folders, name)) or bool(_OTHER_FORMATS & {*folders})


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _listed(found: list[str], suffix: str) -> str:
    return f"it holds {', '.join(found)}" if found else f"it holds no {suffix} file"
