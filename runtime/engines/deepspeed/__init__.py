"""DeepSpeed: tensor parallel over one worker per GPU."""

from typing import Literal, Self

from pydantic import JsonValue, PositiveInt, model_validator

from runtime.engines.hf import TransformersConfig
from runtime.engines.spec import EngineSpec


class DeepSpeed(TransformersConfig):
    """Run the model in tensor parallel over `num_workers` workers with `deepspeed.init_inference`."""

    type: Literal["DeepSpeed"] = "DeepSpeed"
    use_kernel: bool = False
    """Inject DeepSpeed's fused kernels (not all architectures have them)."""
    max_tokens: PositiveInt = 1024
    """Most tokens of prompt and answer that the kernels reserve memory for."""
    use_meta_tensor: bool = False
    """Build the model without weights and load each worker's share only; needs `use_kernel`."""
    ds_inference_kwargs: dict[str, JsonValue] = {}
    """Further arguments of `deepspeed.init_inference`."""

    @model_validator(mode="after")
    def _kernels_fit_the_rest(self) -> Self:
        if self.use_kernel and (self.use_bettertransformer or self.torch_compile):
            raise ValueError("use_kernel cannot be combined with use_bettertransformer or torch_compile")
        if self.use_meta_tensor and not self.use_kernel:
            raise ValueError("use_meta_tensor needs use_kernel: true")
        return self


SPEC = EngineSpec(
    name="DeepSpeed",
    config=DeepSpeed,
    pipelines=("default", "defaulttransformers"),
    runs_in="workers",
    loader=None,
)
