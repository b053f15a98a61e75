"""A model in this process: its environment, its files, its engine."""

import os

from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine, load
from runtime.errors import ConfigError
from runtime.weights.sources import model_folder


def load_model(arguments: ModelArguments, batching: Batching) -> Engine:
    """Blocks while it loads. Raises ConfigError."""
    os.environ.update(_from_node(arguments))
    return load(arguments, model_folder(arguments), batching)


def _from_node(arguments: ModelArguments) -> dict[str, str]:
    """The variables that the registry file takes from the node, with their values. Raises ConfigError."""
    wanted = arguments.environment or {}
    missing = [name for name in wanted.values() if name not in os.environ]
    if missing:
        field = "model_config.initialization.runtime_env.env_vars"
        problem = f"this node has no environment variable {', '.join(missing)}; set it where `ray start` runs"
        raise ConfigError(field, arguments.declared_in, problem)
    return {name: os.environ[node_name] for name, node_name in wanted.items()}
