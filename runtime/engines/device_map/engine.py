"""The DeviceMap engine: the model laid over several devices by accelerate."""

import atexit
import shutil
import tempfile
from pathlib import Path

from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Engine
from runtime.engines.device_map import DeviceMap
from runtime.engines.hf.loading import Source, load_engine


def load(arguments: ModelArguments, folder: Path, batching: Batching) -> Engine:
    """The engine table's loader. What fits no memory goes to a folder that lives as long as the process."""
    config = arguments.initialization.initializer
    assert isinstance(config, DeviceMap)
    offload = tempfile.mkdtemp(prefix="llm-serve-offload-")
    atexit.register(shutil.rmtree, offload, ignore_errors=True)
    return load_engine(
        Source(arguments, folder), {"device_map": config.device_map, "offload_folder": offload}, batching
    )
