"""What the three engines on Hugging Face transformers configure alike."""

from typing import Annotated, Literal

from pydantic import JsonValue

from runtime.engines.spec import InitializerConfig
from runtime.schema import LibraryArguments, Schema


class TorchCompile(Schema):
    """Arguments of `torch.compile`."""

    backend: str = "inductor"
    """Compiler backend."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = None
    """Trade of compile time for speed; torch's default when left out."""
    fullgraph: bool = False
    """Fail instead of falling back where the model cannot be compiled whole."""
    dynamic: bool | None = None
    """Compile for changing shapes; torch decides when left out."""
    options: dict[str, JsonValue] | None = None
    """Options of the backend."""


class TransformersConfig(InitializerConfig):
    """Base of the three engines that load a model through transformers."""

    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Number format of the weights in memory; `auto` is the one that they were saved in."""
    from_pretrained_kwargs: Annotated[
        dict[str, JsonValue],
        LibraryArguments(
            "from_pretrained",
            ours=(
                ("attn_implementation", "initializer.attn_implementation"),
                ("device_map", "initializer.device_map of the engine DeviceMap"),
                ("dtype", "initializer.dtype"),
                ("pretrained_model_name_or_path", "model_config.model_id"),
                ("revision", "initialization.revision"),
            ),
        ),
    ] = {}
    """Arguments of `AutoModelForCausalLM.from_pretrained`, such as `trust_remote_code`."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = None
    """Attention kernel; transformers decides when left out."""
    torch_compile: TorchCompile | None = None
    """Compile the model with `torch.compile`; off when left out."""
