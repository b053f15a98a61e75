"""What a row of the engine table says."""

from dataclasses import dataclass
from typing import Literal

from runtime.schema import Schema


class InitializerConfig(Schema):
    """Base of every engine's `initializer` section."""

    type: str
    """Which engine loads and runs the model. Letter case does not matter."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names by which clients address the model with an adapter."""
        return ()


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: its name in YAML, its config, its resource rule, and where its loader is.

    `pipelines` are the values of `initialization.pipeline` that it accepts. `runs_in` is its resource rule:
    `replica` computes in the replica's own process, which then holds the worker's resources; `workers` has
    `num_workers` Ray actors besides the replica. `parallel` is how it uses several GPUs: `workers` has one of them
    each, `gpus` gives them to its only worker, `none` uses one. `loader` is `module:function`, imported on the replica
    only. `follower`: what its other workers run where they compute with the first one. `places_workers`: with several,
    its library puts processes of its own where they would be, and the first one holds the engine alone. `embeds`: it
    can also load models that turn texts into vectors. `reads`: the format of its weights. `environment`: variables that
    its libraries read when they are loaded, where the node does not set them itself.
    """

    name: str
    config: type[InitializerConfig]
    pipelines: tuple[str, ...]
    runs_in: Literal["replica", "workers"]
    parallel: Literal["workers", "gpus", "none"]
    loader: str
    follower: str | None = None
    places_workers: bool = False
    embeds: bool = False
    reads: Literal["safetensors", "gguf"] = "safetensors"
    environment: tuple[tuple[str, str], ...] = ()
