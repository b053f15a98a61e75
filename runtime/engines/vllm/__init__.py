"""vLLM: vLLM's asynchronous engine."""

from typing import Literal

from pydantic import JsonValue

from runtime.engines.spec import EngineSpec, InitializerConfig


class VLLM(InitializerConfig):
    """Run the model with vLLM; `scaling_config.num_workers` is the tensor parallel size."""

    type: Literal["vLLM"] = "vLLM"
    engine_kwargs: dict[str, JsonValue] = {}
    """Arguments of vLLM's `AsyncEngineArgs`, such as `max_model_len`."""


SPEC = EngineSpec(name="vLLM", config=VLLM, pipelines=("default", "vllm"), runs_in="workers", loader=None)
