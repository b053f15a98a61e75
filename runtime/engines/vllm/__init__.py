"""vLLM: vLLM's asynchronous engine."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from runtime.engines.spec import EngineSpec, InitializerConfig
from runtime.schema import PATH_PATTERN, LibraryArguments
from runtime.schema.weights import RepositoryName

AdapterFolder = Annotated[str, Field(pattern=rf"^/|{PATH_PATTERN}")]


class VLLM(InitializerConfig):
    """Run the model with vLLM; `scaling_config.num_workers` is the tensor parallel size."""

    type: Literal["vLLM"] = "vLLM"
    engine_kwargs: Annotated[
        dict[str, JsonValue],
        LibraryArguments(
            "engine_args",
            ours=(
                ("enable_lora", "initializer.lora_modules"),
                ("max_num_seqs", "generation.max_batch_size"),
                ("model", "model_config.model_id"),
                ("revision", "initialization.revision"),
                ("served_model_name", "model_config.model_id"),
                ("tensor_parallel_size", "scaling_config.num_workers"),
                ("tokenizer_revision", "initialization.revision"),
            ),
        ),
    ] = {}
    """Arguments of vLLM's `AsyncEngineArgs`, such as `max_model_len`."""
    lora_modules: dict[RepositoryName, AdapterFolder] = {}
    """LoRA adapters, which clients address as models: name -> folder, absolute or beside the model's files."""

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self.lora_modules)


SPEC = EngineSpec(
    name="vLLM",
    config=VLLM,
    pipelines=("default", "vllm"),
    runs_in="workers",
    parallel="workers",
    loader="runtime.engines.vllm.engine:load",
    places_workers=True,
    embeds=True,
)
