"""The SingleDevice engine: the whole model on one device."""

from pathlib import Path

import torch

from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine
from runtime.engines.hf.loading import Source, load_engine
from runtime.errors import ConfigError


def load(arguments: ModelArguments, folder: Path, batching: Batching) -> Engine:
    """The engine table's loader."""
    source, device = Source(arguments, folder), _device(arguments)
    if arguments.embeds:
        from runtime.engines.hf.embedding import load_embedder  # a library of its own, which other models do not need

        return load_embedder(source, device, batching)
    return load_engine(source, {"device_map": {"": device}}, batching)


def _device(arguments: ModelArguments) -> str:
    """A GPU where one was asked for; else Apple's, which nobody has to ask for, or the CPU. Raises ConfigError."""
    if arguments.scaling_config.num_gpus_per_worker:
        if torch.cuda.is_available():
            return "cuda:0"
        field = "scaling_config.num_gpus_per_worker"
        raise ConfigError(field, arguments.declared_in, "PyTorch finds no GPU on this node; 0 computes on the CPU")
    return "mps" if torch.backends.mps.is_available() else "cpu"
