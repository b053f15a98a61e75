"""A model in this process: its environment, its files, its engine."""

import os

from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, follow, load
from runtime.errors import ConfigError
from runtime.phases import STARTED
from runtime.weights.sources import model_folder


def load_model(arguments: ModelArguments, batching: Batching, meeting: str | None = None) -> Engine:
    """Blocks while it loads. `meeting`: where the engine's other workers join this one. Raises ConfigError."""
    os.environ.update(_from_node(arguments))
    folder = model_folder(arguments, STARTED)
    with STARTED.phase("load"):
        return load(arguments, folder, batching, meeting)


def follow_model(arguments: ModelArguments, rank: int, meeting: str) -> None:
    """Be one of the others until the engine closes. Raises ConfigError; RuntimeError when the first one is gone."""
    os.environ.update(_from_node(arguments))
    follow(arguments, model_folder(arguments, STARTED), rank, meeting)


def _from_node(arguments: ModelArguments) -> dict[str, str]:
    """The variables that the registry file takes from the node, with their values. Raises ConfigError."""
    wanted = arguments.environment or {}
    missing = [name for name in wanted.values() if name not in os.environ]
    if missing:
        field = "model_config.initialization.runtime_env.env_vars"
        problem = f"this node has no environment variable {', '.join(missing)}; set it where `ray start` runs"
        raise ConfigError(field, arguments.declared_in, problem)
    return {name: os.environ[node_name] for name, node_name in wanted.items()}
