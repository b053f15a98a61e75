"""SingleDevice: a transformers model on one device."""

from typing import Literal

from runtime.engines.hf import TransformersConfig
from runtime.engines.spec import EngineSpec


class SingleDevice(TransformersConfig):
    """Load the model onto a single device."""

    type: Literal["SingleDevice"] = "SingleDevice"


SPEC = EngineSpec(
    name="SingleDevice",
    config=SingleDevice,
    pipelines=("default", "defaulttransformers"),
    runs_in="workers",
    parallel="none",
    loader="runtime.engines.single_device.engine:load",
    embeds=True,
)
