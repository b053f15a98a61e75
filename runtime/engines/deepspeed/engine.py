"""The DeepSpeed engine: one model over several workers, each of which computes its share of every layer."""

import multiprocessing
import os
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from transformers import PreTrainedModel

from runtime.application import ModelArguments
from runtime.engines.batching import BatchingEngine
from runtime.engines.contract import Batching, Engine, meeting_place
from runtime.engines.deepspeed import DeepSpeed
from runtime.engines.deepspeed.group import Channel, SharedRows, obey
from runtime.engines.hf.folder import end_tokens_of
from runtime.engines.hf.loading import (
    LIBRARY_ERRORS,
    Source,
    compiler_of,
    limits_of,
    load_model,
    rows_of,
    tokenizer_of,
    use_threads,
)
from runtime.engines.hf.rows import ModelRows
from runtime.engines.hf.runner import HfRunner
from runtime.errors import ConfigError, EngineDeadError

_INITIALIZER = "model_config.initialization.initializer"
_PATIENCE = timedelta(minutes=30)
"""Workers wait for each other while they load, and the slowest disk may take this long."""


def load(arguments: ModelArguments, folder: Path, batching: Batching, meeting: str | None = None) -> Engine:
    """The engine table's loader, for the first worker. Where there is no `meeting`, it starts the others here."""
    source = Source(arguments, folder)
    tokenizer, limits = tokenizer_of(source), limits_of(source)
    others: list[BaseProcess] = []
    if meeting is None:
        meeting = meeting_place("127.0.0.1")
        others = [_process(arguments, folder, rank, meeting) for rank in range(1, arguments.scaling_config.num_workers)]
    model = _share(source, 0, meeting)
    channel = Channel()
    rows = rows_of(source, partial(LeaderRows, model, batching.max_size, limits.context_length, channel))
    rows.others = others
    if _config_of(source).use_kernel:
        _check_kernels(source, rows)
    runner = HfRunner(rows, batching.max_size, limits, end_tokens_of(folder))
    return BatchingEngine(runner, tokenizer, batching)


def _config_of(source: Source) -> DeepSpeed:
    """The `initializer` section."""
    config = source.config
    assert isinstance(config, DeepSpeed)
    return config


def _check_kernels(source: Source, rows: ModelRows) -> None:
    """DeepSpeed's kernels may keep a cache of their own, which knows nothing of rows that come and go."""
    field = f"{_INITIALIZER}.use_kernel"
    try:
        fits = rows.heeds_its_cache()
    except (EngineDeadError, *LIBRARY_ERRORS) as error:
        raise source.wrong(f"the kernels for this model do not run: {error}", field) from error
    if not fits:
        raise source.wrong("the kernels for this model cannot batch in flight; leave it out", field)


def follow(arguments: ModelArguments, folder: Path, rank: int, meeting: str) -> None:
    """What the table's other workers do, until the first one closes. Raises RuntimeError when it is gone."""
    source = Source(arguments, folder)
    model = _share(source, rank, meeting)
    obey(ModelRows(model, 0, limits_of(source).context_length, compiler_of(source)), Channel())


def _process(arguments: ModelArguments, folder: Path, rank: int, meeting: str) -> BaseProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=follow, args=(arguments, folder, rank, meeting), daemon=True)
    process.start()
    return process


class LeaderRows(SharedRows):
    """With the processes that this one has started, which end with it."""

    others: Sequence[BaseProcess] = ()

    def close(self) -> None:
        super().close()
        for process in self.others:
            process.join(10)
            process.kill()
            process.join(10)  # a killed one is a child until somebody has waited for it
        _part()


def _part() -> None:
    """End what `_share` has begun, so that this process can load another model."""
    import deepspeed

    deepspeed.comm.destroy_process_group()
    deepspeed.InferenceEngine.inference_mp_group = None


def _share(source: Source, rank: int, meeting: str) -> PreTrainedModel:
    """Meet the others, and load this worker's share of the model. Raises ConfigError.

    What is loaded in the dtype that it was saved in stays in its file until somebody reads it (transformers maps
    safetensors on the CPU), and DeepSpeed reads one layer after the other, and keeps the share.
    """
    _meet(source, rank, meeting)
    try:
        return _loaded_share(source)
    except ConfigError:
        _part()
        raise


def _loaded_share(source: Source) -> PreTrainedModel:
    config = _config_of(source)
    model = load_model(source, {}, "auto" if config.use_meta_tensor else config.dtype)
    dtype = model.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    if config.use_kernel and dtype != model.dtype:
        problem = f"with use_kernel it needs the dtype that the weights were saved in, {model.dtype}"
        raise source.wrong(problem, f"{_INITIALIZER}.use_meta_tensor")
    share = _shared_out(source, model, dtype)
    for parameter in share.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return share


def _meet(source: Source, rank: int, meeting: str) -> None:
    """Join the other workers. Raises ConfigError for what they cannot do."""
    arguments, scaling = source.arguments, source.arguments.scaling_config
    use_threads(arguments)
    on_gpu = bool(scaling.num_gpus_per_worker)
    if _config_of(source).use_kernel and not on_gpu:
        raise source.wrong("DeepSpeed's kernels need a GPU", f"{_INITIALIZER}.use_kernel")
    if torch.distributed.is_initialized():
        raise source.wrong("this process has a DeepSpeed model already", f"{_INITIALIZER}.type")
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported
    import deepspeed

    # Sums in shared memory spin for ever when a worker dies in one, and compiling them takes a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ |= {"LOCAL_RANK": str(min(rank, max(0, torch.cuda.device_count() - 1))), "RANK": str(rank)}
    backend = "nccl" if on_gpu else "gloo"
    size, at = scaling.num_workers, f"tcp://{meeting}"
    deepspeed.init_distributed(backend, False, timeout=_PATIENCE, init_method=at, rank=rank, world_size=size)


def _shared_out(source: Source, model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """This worker's share, in the dtype that it is in. Raises ConfigError."""
    import deepspeed

    config = _config_of(source)
    if not config.use_kernel:
        # DeepSpeed would convert the whole before it cuts it, and rotary frequencies, which would be rounded.
        for conversion in ("half", "bfloat16", "float"):
            setattr(model, conversion, lambda: model)
    inference = {
        "dtype": dtype,
        "max_out_tokens": config.max_tokens,
        "replace_with_kernel_inject": config.use_kernel,
        "tensor_parallel": {"tp_size": source.arguments.scaling_config.num_workers},
    }
    try:
        return deepspeed.init_inference(model, config={**inference, **config.ds_inference_kwargs}).module
    except AssertionError as error:  # what DeepSpeed has for families that it does not know
        field = f"{_INITIALIZER}.{'use_kernel' if config.use_kernel else 'type'}"
        raise source.wrong(f"DeepSpeed cannot share out the model: {error}", field) from error
    except LIBRARY_ERRORS as error:
        raise source.wrong(
            f"DeepSpeed cannot take the model: {error}", f"{_INITIALIZER}.ds_inference_kwargs"
        ) from error
