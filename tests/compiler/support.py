"""Projects and trees made by tests."""

from collections.abc import Mapping as Dict
from pathlib import Path

from hypothesis import strategies as st

from compiler.source.syntax import parse
from compiler.source.tree import Mapping

ENGINE = "model_config: {initialization: {initializer: {type: llamaCpp}}}\n"

keys = st.sampled_from("abcdef")
leaves = st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.lists(st.integers(0, 3), max_size=2)


def write(root: Path, files: Dict[str, str | bytes]) -> Path:
    """A project of `files` under `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def tree(text: str, file: str = "a.yaml") -> Mapping:
    """The located tree of some YAML."""
    return parse(text.encode(), file)
