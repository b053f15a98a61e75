"""What is llama.cpp's own: files that are no GGUF, and settings that this build cannot honour."""

import pytest

from demo.model import fetch
from runtime.engines.contract import load
from runtime.errors import ConfigError
from tests.runtime.support import arguments_for


def test_a_file_that_is_no_gguf_is_named(tmp_path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ConfigError, match=r"initializer.model_filename: llama.cpp cannot load model.gguf"):
        load(arguments_for({"type": "llamaCpp"}), tmp_path, 1)


def test_gpu_layers_without_a_gpu_build_are_refused() -> None:
    initializer = {"type": "llamaCpp", "model_init_kwargs": {"n_gpu_layers": -1}}
    with pytest.raises(ConfigError, match="n_gpu_layers: this node's llama-cpp-python was built without GPU support"):
        load(arguments_for(initializer), fetch().parent, 1)
