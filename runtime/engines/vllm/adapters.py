"""LoRA adapters: from their folders to vLLM's requests."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from vllm.config.lora import LoRAConfig
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from runtime.application import ModelArguments
from runtime.engines.vllm import VLLM
from runtime.errors import ConfigError, EngineError, WeightsError
from runtime.weights.cache import home_of
from runtime.weights.inspection import Trust, inspect

_FIELD = "model_config.initialization.initializer.lora_modules"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Adapters:
    """The adapters that a model may answer with."""

    def __init__(self, requests: Mapping[str, LoRARequest]) -> None:
        self._requests = requests
        self._loading: dict[str, asyncio.Future[bool]] = {}

    async def find(self, name: str | None, engine: AsyncLLM) -> LoRARequest | None:
        """The adapter, loaded when it is first asked for. Raises EngineError where it does not fit the model.

        vLLM would load it by itself in the middle of a step, and die of one that does not fit.
        """
        if name is None:
            return None
        request = self._requests[name]
        if name not in self._loading:
            self._loading[name] = asyncio.ensure_future(engine.add_lora(request))
        loading = self._loading[name]
        await asyncio.wait([loading])
        if error := loading.exception():
            raise EngineError(f"vLLM cannot use the adapter `{name}`: {str(error).strip().splitlines()[-1]}")
        return request


def adapters_of(arguments: ModelArguments, folder: Path, most: LoRAConfig) -> Adapters:
    """The adapters of the model in `folder`, by name. Raises ConfigError for one that vLLM could not use."""
    config = arguments.initialization.initializer
    assert isinstance(config, VLLM)
    adapters = {}
    for number, (name, path) in enumerate(config.lora_modules.items(), 1):
        adapter = folder / path
        if problem := _problem(adapter, most):
            raise ConfigError(f"{_FIELD}.{name}", arguments.declared_in, problem)
        adapters[name] = LoRARequest(name, number, str(adapter))
    return Adapters(adapters)


def _problem(adapter: Path, most: LoRAConfig) -> str | None:
    """What is wrong with an adapter's files. Nothing but safetensors is read: other weights are programs."""
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (adapter / name).is_file()]
    if missing:
        return f"there is no {' and no '.join(missing)} in {adapter}"
    try:
        inspect(adapter, Trust(), home_of(adapter))
        kind = json.loads((adapter / _CONFIG).read_text()).get("peft_type")
        if kind != "LORA":
            return f"{adapter / _CONFIG} is not that of a LoRA adapter: its peft_type is {kind}"
        PEFTHelper.from_local_dir(str(adapter), None).validate_legal(most)
    except WeightsError as error:
        return f"{adapter}: {error}"
    except (ValueError, TypeError, AttributeError) as error:  # what vLLM raises for what it cannot use
        return f"vLLM cannot use {adapter}: {error}"
    return None
