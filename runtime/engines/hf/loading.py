"""From a model's folder to an engine, for the engines that load with transformers in one process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from runtime.application import ModelArguments
from runtime.engines.batching import BatchingEngine
from runtime.engines.contract import Batching, Engine, Limits
from runtime.engines.hf import TransformersConfig
from runtime.engines.hf.folder import end_tokens_of
from runtime.engines.hf.rows import Compile, ModelRows
from runtime.engines.hf.runner import HfRunner
from runtime.engines.hf.tokenizer import HfTokenizer, load_tokenizer
from runtime.errors import ConfigError, EngineError

R = TypeVar("R", bound=ModelRows)

_INITIALIZER = "model_config.initialization.initializer"
_KWARGS = f"{_INITIALIZER}.from_pretrained_kwargs"
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What models call the length of their context."""
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
    use_threads(source.arguments)
    tokenizer, limits = tokenizer_of(source), limits_of(source)
    model = load_model(source, placement)
    rows = rows_of(source, partial(ModelRows, model, batching.max_size, limits.context_length))
    runner = HfRunner(rows, batching.max_size, limits, end_tokens_of(source.folder))
    return BatchingEngine(runner, tokenizer, batching)


def tokenizer_of(source: Source) -> HfTokenizer:
    """Raises ConfigError."""
    try:
        return load_tokenizer(source.folder, **source.code)
    except (EngineError, *LIBRARY_ERRORS) as error:
        raise source.wrong(f"cannot load the tokenizer of {source.folder.name}: {error}", _KWARGS) from error


def limits_of(source: Source) -> Limits:
    """What the model's config says. Raises ConfigError, also where its layers cannot be batched here."""
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True, **source.code).get_text_config()
    except LIBRARY_ERRORS as error:
        raise source.wrong(f"cannot read the config of {source.folder.name}: {error}") from error
    others = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    if others:  # rows of a batch share columns, and these keep a state instead
        problem = f"layers of {', '.join(sorted(others))} cannot be batched here; vLLM can do it"
        raise source.wrong(problem, f"{_INITIALIZER}.type")
    lengths = [length for name in _LENGTHS if isinstance(length := getattr(config, name, None), int)]
    if not lengths:
        raise source.wrong(f"the config of {config.model_type} does not say how long its context is")
    return Limits(lengths[0], config.vocab_size)


def load_model(source: Source, placement: Mapping[str, Any], dtype: str | None = None) -> PreTrainedModel:
    """The model, ready to answer. `dtype`: another than the registry file's. Raises ConfigError."""
    config = source.config
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype or config.dtype,
            attn_implementation=config.attn_implementation,
            local_files_only=True,
            **{"use_safetensors": True, **config.from_pretrained_kwargs},
            **placement,
        )
    except LIBRARY_ERRORS as error:
        raise source.wrong(f"transformers cannot load the model: {error}") from error
    model.eval()
    return model


def compiler_of(source: Source) -> Compile | None:
    """What `torch_compile` asks for."""
    wanted = source.config.torch_compile
    return partial(torch.compile, **wanted.model_dump()) if wanted else None


def rows_of(source: Source, make: Callable[[Compile | None], R]) -> R:
    """What `make` makes, compiled before the first request where `torch_compile` asks for it. Raises ConfigError."""
    compile_ = compiler_of(source)
    if compile_ is None:
        return make(None)
    try:
        rows = make(compile_)
        rows.warm_up()
    except LIBRARY_ERRORS as error:
        problem = f"torch.compile cannot compile the model: {error}"
        raise source.wrong(problem, f"{_INITIALIZER}.torch_compile") from error
    return rows


def use_threads(arguments: ModelArguments) -> None:
    """Compute on as many CPUs as the worker has."""
    torch.set_num_threads(max(1, round(arguments.scaling_config.num_cpus_per_worker)))
