"""DeepSpeed: tensor parallel over one worker per GPU."""

from typing import Annotated, Literal, Self

from pydantic import JsonValue, PositiveInt, model_validator

from runtime.engines.hf import TransformersConfig
from runtime.engines.spec import EngineSpec
from runtime.schema import LibraryArguments, contradiction


class DeepSpeed(TransformersConfig):
    """Run the model in tensor parallel over `num_workers` workers with `deepspeed.init_inference`."""

    type: Literal["DeepSpeed"] = "DeepSpeed"
    use_kernel: bool = False
    """Inject DeepSpeed's fused kernels (not all architectures have them)."""
    max_tokens: PositiveInt = 1024
    """Most tokens of prompt and answer that the kernels reserve memory for."""
    use_meta_tensor: bool = False
    """Read each worker's share only: where `dtype` is another than the saved one, only the share takes it."""
    ds_inference_kwargs: Annotated[
        dict[str, JsonValue],
        LibraryArguments(
            "init_inference",
            ours=(
                ("dtype", "initializer.dtype"),
                ("kernel_inject", "initializer.use_kernel"),
                ("max_out_tokens", "initializer.max_tokens"),
                ("max_tokens", "initializer.max_tokens"),
                ("replace_with_kernel_inject", "initializer.use_kernel"),
                ("tensor_parallel", "scaling_config.num_workers"),
                ("tp", "scaling_config.num_workers"),
            ),
        ),
    ] = {}
    """Further arguments of `deepspeed.init_inference`."""

    @model_validator(mode="after")
    def _kernels_fit_the_rest(self) -> Self:
        if self.use_kernel and self.torch_compile:
            raise contradiction("use_kernel cannot be combined with torch_compile", "use_kernel", "torch_compile")
        if self.use_meta_tensor and self.from_pretrained_kwargs.get("use_safetensors") is False:
            keys = "use_meta_tensor", "from_pretrained_kwargs"
            raise contradiction("use_meta_tensor needs safetensors, of which parts can be read", *keys)
        return self


SPEC = EngineSpec(
    name="DeepSpeed",
    config=DeepSpeed,
    pipelines=("default", "defaulttransformers"),
    runs_in="workers",
    parallel="workers",
    loader="runtime.engines.deepspeed.engine:load",
    follower="runtime.engines.deepspeed.engine:follow",
)
