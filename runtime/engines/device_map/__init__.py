"""DeviceMap: a transformers model spread over the GPUs of one node."""

from typing import Literal

from runtime.engines.hf import TransformersConfig
from runtime.engines.spec import EngineSpec


class DeviceMap(TransformersConfig):
    """Load the model onto several GPUs of one worker, and onto CPU or disk where they do not suffice."""

    type: Literal["DeviceMap"] = "DeviceMap"
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, str | int] = "auto"
    """How accelerate lays the layers over devices, or an explicit map of module -> device."""


SPEC = EngineSpec(
    name="DeviceMap",
    config=DeviceMap,
    pipelines=("default", "defaulttransformers"),
    runs_in="workers",
    parallel="gpus",
    loader="runtime.engines.device_map.engine:load",
)
