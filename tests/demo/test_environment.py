"""The progress shown while packages install."""

import pytest

from demo.environment import _progress


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("[50/100] Building CXX object ggml/src/ggml.o", "compiling llama.cpp: 50%, about 60 s left"),
        ("[51/100] Building CXX object ggml/src/ggml.o", None),
        ("[1/200] Building CXX object ggml/src/ggml.o", "compiling llama.cpp: 0%"),
        ("  Building wheel for llama-cpp-python (pyproject.toml): started", "Building wheel for llama-cpp-python"),
        ("Collecting ray[serve]<2.61,>=2.60 (from llm-serve==0.1.0)", "Collecting ray[serve]<2.61,>=2.60"),
        ("  Link requires a different Python", None),
    ],
)
def test_progress(line, shown, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert _progress(line, 60) == shown
