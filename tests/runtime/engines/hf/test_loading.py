"""What the engines on transformers say of what they cannot load, and that what they are told is done."""

import pytest
import torch

from demo.model import fetch_safetensors
from runtime.engines.contract import Batching, load
from runtime.errors import ConfigError
from tests.runtime.support import arguments_for


def test_torch_compile_is_done_before_the_first_request() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    initializer = {"type": "SingleDevice", "dtype": "float32", "torch_compile": {"backend": "aot_eager"}}
    engine = load(arguments_for(initializer), fetch_safetensors(), Batching(2))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert engine.limits.context_length == 8192


def test_a_compiler_that_is_not_there_is_named() -> None:
    initializer = {"type": "SingleDevice", "dtype": "float32", "torch_compile": {"backend": "acme"}}
    with pytest.raises(ConfigError, match=r"initializer.torch_compile: torch.compile cannot compile.*acme"):
        load(arguments_for(initializer), fetch_safetensors(), Batching(1))
