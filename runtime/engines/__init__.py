"""The engine table: one row an engine. Everything that depends on the set of engines derives from it."""

from runtime.engines import deepspeed, device_map, llama_cpp, single_device, vllm
from runtime.engines.spec import EngineSpec

ENGINES: tuple[EngineSpec, ...] = (
    single_device.SPEC,
    device_map.SPEC,
    deepspeed.SPEC,
    llama_cpp.SPEC,
    vllm.SPEC,
)


def engine_named(name: str) -> EngineSpec | None:
    """The engine called `name` in any letter case (people write LlamaCpp, llamacpp and Vllm)."""
    folded = name.casefold()
    return next((engine for engine in ENGINES if engine.name.casefold() == folded), None)
