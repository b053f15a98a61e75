"""`scaling_config`: the workers of one replica."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from runtime.schema import Schema
from runtime.schema.deployment import Amount, Resources


class ScalingConfig(Schema):
    """What one replica of the model runs on."""

    num_workers: PositiveInt = 1
    """Worker processes of one replica. DeepSpeed and vLLM: one per GPU (tensor parallel); others: 1."""
    num_gpus_per_worker: Amount = 1.0
    """GPUs of each worker. DeepSpeed: keep 1; others: raise this for several GPUs."""
    num_cpus_per_worker: Amount = 1.0
    """CPUs of each worker. An engine that computes on CPUs uses as many threads."""
    resources_per_worker: Resources = {}
    """Ray custom resources of each worker: they choose the node type."""
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How the workers of a replica are laid over nodes (Ray placement groups)."""
    pg_timeout_s: PositiveFloat = 600.0
    """Seconds to wait for the workers' placement group before the replica gives up."""
