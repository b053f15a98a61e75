"""From a model's folder to an engine, for the engines that load with transformers in one process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from runtime.application import ModelArguments
from runtime.engines.batching import BatchingEngine
from runtime.engines.contract import Batching, Engine, Limits
from runtime.engines.hf import TransformersConfig
from runtime.engines.hf.runner import HfRunner
from runtime.engines.hf.tokenizer import HfTokenizer, load_tokenizer
from runtime.errors import ConfigError, EngineError
from runtime.weights.sources import check_files

_INITIALIZER = "model_config.initialization.initializer"
_KWARGS = f"{_INITIALIZER}.from_pretrained_kwargs"
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
_CODE = ("trust_remote_code", "code_revision")
"""Arguments of `from_pretrained` that concern the code in a repository, the tokenizer's and the config's too."""

LIBRARY_ERRORS = (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError, RuntimeError)
"""What transformers raises for a folder or an argument that it cannot use; it has no error of its own."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder and what its registry file says of loading it."""

    arguments: ModelArguments
    folder: Path

    @property
    def config(self) -> TransformersConfig:
        """The `initializer` section."""
        config = self.arguments.initialization.initializer
        assert isinstance(config, TransformersConfig)
        return config

    def wrong(self, problem: object, field: str = _KWARGS) -> ConfigError:
        """An error that names the registry file's field."""
        return ConfigError(field, self.arguments.declared_in, str(problem))

    @property
    def code(self) -> dict[str, Any]:
        """What concerns the code in the repository."""
        return {name: value for name, value in self.config.from_pretrained_kwargs.items() if name in _CODE}


def load_engine(source: Source, placement: Mapping[str, Any], batching: Batching) -> Engine:
    """The model where `placement` (arguments of `from_pretrained`) puts it. Raises ConfigError."""
    torch.set_num_threads(max(1, round(source.arguments.scaling_config.num_cpus_per_worker)))
    check_files(source.folder, source.arguments)
    tokenizer = tokenizer_of(source)
    model = load_model(source, placement)
    try:
        runner = HfRunner(model, batching.max_size, limits_of(model.config), end_tokens_of(model))
    except EngineError as error:
        raise source.wrong(error, f"{_INITIALIZER}.type") from error
    return BatchingEngine(runner, tokenizer, batching)


def tokenizer_of(source: Source) -> HfTokenizer:
    """Raises ConfigError."""
    try:
        return load_tokenizer(source.folder, **source.code)
    except (EngineError, *LIBRARY_ERRORS) as error:
        raise source.wrong(f"cannot load the tokenizer of {source.folder.name}: {error}", _KWARGS) from error


def load_model(source: Source, placement: Mapping[str, Any]) -> PreTrainedModel:
    """The model, ready to answer. Raises ConfigError."""
    config = source.config
    try:
        architecture = AutoConfig.from_pretrained(source.folder, local_files_only=True, **source.code)
        _check_batches(architecture)
        model = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=config.dtype,
            attn_implementation=config.attn_implementation,
            local_files_only=True,
            **{"use_safetensors": True, **config.from_pretrained_kwargs},
            **placement,
        )
    except (EngineError, *LIBRARY_ERRORS) as error:
        raise source.wrong(f"transformers cannot load the model: {error}") from error
    model.eval()
    return model


def _check_batches(architecture: PretrainedConfig) -> None:
    """Rows of a batch share columns: layers that keep a state instead of columns do not fit."""
    kinds = set(getattr(architecture.get_text_config(), "layer_types", None) or _ATTENTION)
    if kinds - _ATTENTION:
        raise EngineError(f"layers of {', '.join(sorted(kinds - _ATTENTION))} cannot be batched here; vLLM can do it")


def limits_of(architecture: PretrainedConfig) -> Limits:
    """Raises EngineError where the model does not say how long its context is."""
    text = architecture.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    lengths = [length for name in names if isinstance(length := getattr(text, name, None), int)]
    if not lengths:
        raise EngineError(f"the config of {text.model_type} does not say how long its context is")
    return Limits(lengths[0], text.vocab_size)


def end_tokens_of(model: PreTrainedModel) -> list[int]:
    """The tokens that end an answer."""
    found: set[int] = set()
    for config in (model.generation_config, model.config.get_text_config()):
        said = getattr(config, "eos_token_id", None)
        found |= set(said if isinstance(said, list) else [] if said is None else [said])
    return sorted(found)
