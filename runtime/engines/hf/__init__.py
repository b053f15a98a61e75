"""What the three engines on Hugging Face transformers configure alike."""

from typing import Literal

from pydantic import JsonValue

from runtime.engines.spec import InitializerConfig
from runtime.schema import Schema


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
    from_pretrained_kwargs: dict[str, JsonValue] = {}
    """Arguments of `AutoModelForCausalLM.from_pretrained`, such as `trust_remote_code`."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = None
    """Attention kernel; transformers decides when left out."""
    use_bettertransformer: bool = False
    """Deprecated: BetterTransformer is gone from transformers 5. `true` means `attn_implementation: sdpa`."""
    torch_compile: TorchCompile | None = None
    """Compile the model with `torch.compile`; off when left out."""
