"""`deployment_config`: the Ray Serve deployment of a model. Names are those of Ray Serve 2.60."""

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from runtime.schema import MergeBy, Schema, contradiction, shared

Amount = Annotated[float, Field(ge=0, le=1e6)]
"""CPUs, GPUs: nobody has a million."""

_RAYS_OWN = frozenset({"CPU", "GPU", "memory", "object_store_memory"})


def _without_nulls(resources: Any) -> Any:
    """`null` says "none of it", of one resource or of all."""
    if isinstance(resources, dict):
        return {name: amount for name, amount in resources.items() if amount is not None}
    return {} if resources is None else resources


def _custom_only(resources: dict[str, float]) -> dict[str, float]:
    if taken := sorted(_RAYS_OWN & resources.keys()):
        raise contradiction(f"{taken[0]} is no custom resource: CPUs, GPUs and memory have keys of their own", taken[0])
    return resources


Resources = Annotated[
    dict[str, Annotated[float, Field(gt=0, le=1e6)]], BeforeValidator(_without_nulls), AfterValidator(_custom_only)
]
"""Ray custom resources: name -> amount, such as `instance_type_g5: 0.01`; null takes one away that was inherited."""


class FromEnv(Schema):
    """A value that the node's environment holds: how a secret gets to the model without being written down."""

    from_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the environment variable of the node (of its Ray processes), read when a replica starts."""


def _environment_value(value: Any) -> Any:
    if isinstance(value, str | dict | FromEnv):
        return value
    hint = f'write "{json.dumps(value)}"' if isinstance(value, bool | int | float) else "write a string in quotes"
    problem = "an environment variable is a string, or `{from_env: NAME}`"
    raise PydanticCustomError("environment", "{problem}", {"problem": problem, "hint": hint})


EnvironmentValue = Annotated[str | FromEnv, BeforeValidator(_environment_value)]


def _requirement_name(requirement: Any) -> str:
    """The package that a pip requirement line is about. Source: PEP 508, names compared as PEP 503 says."""
    name = re.match(r"[A-Za-z0-9._-]+", str(requirement).strip())
    return re.sub(r"[-_.]+", "-", name[0]).casefold() if name else str(requirement)


class RuntimeEnv(Schema, extra="allow"):
    """A Ray runtime environment. Keys that are not listed here go to Ray as they are."""

    library = "runtime_env"

    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    env_vars: dict[str, EnvironmentValue] = {}
    """Environment variables of the model's processes. Values are strings: quote numbers and booleans. A secret is
    written as `{from_env: NAME}`, which takes the node's own variable of that name."""
    pip: Annotated[list[str] | dict[str, JsonValue] | None, MergeBy(_requirement_name)] = None
    """Python packages to install, as pip requirement lines, or Ray's long form. A line replaces the one that a lower
    layer has for the same package; `!replace` takes the place of the whole list."""

    @model_validator(mode="after")
    def _who_may_come_in_is_said_elsewhere(self) -> Self:
        for name in self.env_vars:
            if name.startswith("LLM_SERVE_API_KEYS"):
                raise contradiction(f"{name} is the node's own: set it where `ray start` runs", "env_vars")
        return self

    def declared(self) -> dict[str, Any]:
        """What the user set and Ray takes, nothing else: Ray treats an empty key differently from a missing one."""
        declared = self.model_dump(mode="json", exclude_unset=True)
        if "env_vars" in declared:
            declared["env_vars"] = {name: value for name, value in self.env_vars.items() if isinstance(value, str)}
        return declared

    @property
    def from_node(self) -> dict[str, str]:
        """The variables whose values are the node's: name -> the node's name for it."""
        return {name: value.from_env for name, value in self.env_vars.items() if isinstance(value, FromEnv)}


class AutoscalingConfig(Schema):
    """When Ray Serve adds and removes replicas."""

    library = "autoscaling_config"

    min_replicas: NonNegativeInt = 1
    """Fewest replicas; 0 lets the model scale to zero, and its first request waits for a start."""
    initial_replicas: NonNegativeInt | None = None
    """Replicas at the first deploy; `min_replicas` when left out."""
    max_replicas: PositiveInt = 1
    """Most replicas."""
    target_ongoing_requests: PositiveFloat = 2.0
    """Requests (running and queued) per replica that the autoscaler aims at. Ray's default is 2."""
    metrics_interval_s: PositiveFloat | None = None
    """Seconds between metric reports. Deprecated in Ray, which warns when it is not 10."""
    look_back_period_s: PositiveFloat = 30.0
    """Seconds of metrics that one decision averages over."""
    upscaling_factor: PositiveFloat | None = None
    """Gain of scaling up; 1.0 when left out."""
    downscaling_factor: PositiveFloat | None = None
    """Gain of scaling down; 1.0 when left out."""
    upscale_delay_s: NonNegativeFloat = 30.0
    """Seconds that demand must last before replicas are added."""
    downscale_delay_s: NonNegativeFloat = 600.0
    """Seconds that demand must be gone before replicas are removed."""
    downscale_to_zero_delay_s: NonNegativeFloat | None = None
    """Seconds before the last replica goes; `downscale_delay_s` when left out."""
    aggregation_function: Literal["mean", "max", "min"] = "mean"
    """How metrics are aggregated over the look-back period."""

    @model_validator(mode="after")
    def _replica_counts_are_ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            message = f"max_replicas ({self.max_replicas}) is below min_replicas ({self.min_replicas})"
            raise contradiction(message, "max_replicas", "min_replicas")
        initial = self.initial_replicas
        if initial is not None and not self.min_replicas <= initial <= self.max_replicas:
            raise contradiction(
                f"initial_replicas ({initial}) is not between min_replicas ({self.min_replicas}) "
                f"and max_replicas ({self.max_replicas})",
                "initial_replicas",
                "min_replicas",
                "max_replicas",
            )
        return self


class RayActorOptions(Schema):
    """Where the replica actor runs. For engines with workers of their own these are the coordinator's."""

    library = "ray_actor_options"

    num_cpus: Amount = 1.0
    """CPUs that the replica actor reserves, apart from its workers'."""
    memory: NonNegativeFloat | None = None
    """Heap memory that the replica reserves, in bytes."""
    resources: Resources = {}
    """Ray custom resources of the replica's node."""
    accelerator_type: str | None = None
    """Ray's name of an accelerator that the replica's node must have, such as `A10G`."""


class DeploymentConfig(Schema):
    """The Ray Serve deployment of the model."""

    library = "deployment"

    autoscaling_config: AutoscalingConfig | None = shared(AutoscalingConfig)
    """Autoscaling. `null` together with `num_replicas` fixes the number."""
    num_replicas: PositiveInt | None = None
    """A fixed number of replicas, instead of autoscaling."""
    ray_actor_options: RayActorOptions = shared(RayActorOptions)
    """Resources of the replica actor."""
    max_ongoing_requests: PositiveInt | None = None
    """Requests that Ray sends to one replica at a time. When left out: the slots, the waiting places and a few
    more, so that it is the replica that refuses, with OpenAI's error."""
    max_waiting_requests: NonNegativeInt | None = None
    """Requests that may wait in a replica for a free slot before more are refused with 429; twice
    `generation.max_batch_size` when left out."""
    request_timeout_s: PositiveFloat | None = 570.0
    """Seconds that an answer may take, waiting for a slot included; then it ends with a 504, or in mid-stream with an
    error event. `null`: only Ray's own limit holds (`http.request_timeout_s` of the cluster), which cuts it."""
    max_queued_requests: Annotated[int, Field(ge=0)] = 128
    """Requests that each Ray proxy holds back for the model before it answers 429 itself. Ray's default: no limit."""
    health_check_period_s: PositiveFloat = 10.0
    """Seconds between health checks."""
    health_check_timeout_s: PositiveFloat = 30.0
    """Seconds after which a silent replica counts as unhealthy."""
    graceful_shutdown_wait_loop_s: PositiveFloat = 2.0
    """Seconds between looks whether a stopping replica has finished its requests."""
    graceful_shutdown_timeout_s: NonNegativeFloat = 60.0
    """Seconds that a stopping replica may take to finish its requests."""
    max_surge_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Extra replicas, in percent of their number, while an update replaces them: old ones then stop only after new
    ones are ready, which takes a node with room for both. 0 stops an old one before the new one starts."""

    @model_validator(mode="after")
    def _one_way_of_scaling(self) -> Self:
        if self.num_replicas is not None and self.autoscaling_config is not None:
            message = "num_replicas and autoscaling_config exclude each other: set one of them to null"
            raise contradiction(message, "num_replicas", "autoscaling_config")
        if self.num_replicas is None and self.autoscaling_config is None:
            message = "without autoscaling_config, num_replicas must say how many replicas there are"
            raise contradiction(message, "num_replicas", "autoscaling_config")
        return self
