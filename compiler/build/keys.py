"""The key of a build: the hash of all that goes into it, and of the compiler itself."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pydantic
import yaml

_ROOT = Path(__file__).resolve().parents[2]
_PARTS = (
    "compiler/source", "compiler/layering", "compiler/check", "compiler/lint", "compiler/lower",
    "compiler/build/files.py", "compiler/attempt.py", "compiler/pipeline.py", "compiler/records.py",
    "compiler/emit.py", "compiler/models.py", "compiler/clusters.py", "compiler/facts.py", "compiler/diagnostics.py",
    "compiler/kept.py", "compiler/sources.py",
    "runtime/schema", "runtime/application.py", "runtime/engines/spec.py", "runtime/engines/__init__.py",
    "runtime/engines/*/__init__.py",
)  # fmt: skip
"""What has a say in a model's file: the schema and the compiler, not its commands."""


@cache
def compiler_digest() -> str:
    """The hash of the schema and the compiler, by their sources and the versions of their libraries."""
    parts = [path for part in _PARTS for path in _ROOT.glob(part)]
    files = {file for part in parts for file in (part.rglob("*") if part.is_dir() else [part])}
    sources = sorted(file for file in files if file.suffix in (".py", ".json"))
    lines = [f"{digest(file.read_bytes())} {file.relative_to(_ROOT).as_posix()}" for file in sources]
    return digest("\n".join([f"pydantic {pydantic.VERSION}", f"yaml {yaml.__version__}", *lines]).encode())


def model_inputs(layers: Iterable[tuple[str, str]]) -> str:
    """What goes into a model: each layer's digest and file, the lowest first, a line each."""
    return "".join(f"{sha} {file}\n" for sha, file in layers)


def key_of(*parts: str, compiler: str | None = None) -> str:
    """The key of a build with these inputs, by this compiler unless another is named."""
    return digest("\n".join([compiler or compiler_digest(), *parts]).encode())


def digest(data: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()
