"""The llamaCpp engine: what one step of llama.cpp is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import llama_cpp

from runtime.application import ModelArguments
from runtime.engines.batching import BatchingEngine, Request, Runner
from runtime.engines.contract import Batching, Engine, Limits
from runtime.engines.llama_cpp import LlamaCpp, LlamaKwargs
from runtime.engines.llama_cpp.model import Context, GgufTokenizer, Model, Sampler
from runtime.errors import ConfigError, EngineError
from runtime.weights.sources import model_file

_INITIALIZER = "model_config.initialization.initializer"


def load(arguments: ModelArguments, folder: Path, batching: Batching) -> Engine:
    """The engine table's loader."""
    config = arguments.initialization.initializer
    assert isinstance(config, LlamaCpp)
    field = f"{_INITIALIZER}.model_filename"
    path = model_file(folder, config.model_filename, ".gguf", field, arguments.declared_in)
    options = config.model_init_kwargs
    if options.n_gpu_layers and not llama_cpp.llama_supports_gpu_offload():
        problem = "this node's llama-cpp-python was built without GPU support"
        raise ConfigError(f"{_INITIALIZER}.model_init_kwargs.n_gpu_layers", arguments.declared_in, problem)
    threads = options.n_threads or max(1, round(arguments.scaling_config.num_cpus_per_worker))
    try:
        model = Model(path, options)
    except EngineError as error:
        raise ConfigError(field, arguments.declared_in, str(error)) from error
    try:
        runner = LlamaRunner(model, options, threads, batching.max_size)
    except EngineError as error:
        model.close()
        raise ConfigError(f"{_INITIALIZER}.model_init_kwargs.n_ctx", arguments.declared_in, str(error)) from error
    return BatchingEngine(runner, GgufTokenizer(model), batching)


@dataclass(slots=True)
class _Sequence:
    """What llama.cpp keeps of one: its place in the cache, and its sampler."""

    slot: int
    sampler: Sampler


class LlamaRunner(Runner):
    """Owns the model and its context."""

    def __init__(self, model: Model, options: LlamaKwargs, threads: int, slots: int) -> None:
        self._model = model
        self._make_context = partial(Context, model, options, threads)
        self.end_tokens = model.end_tokens
        self._sequences: dict[Request, _Sequence] = {}
        self._use(self._make_context(slots))

    def _use(self, context: Context) -> None:
        self._context = context
        self.slots, self.step_tokens = context.slots, context.batch_size
        self.limits = Limits(context.length, self._model.vocabulary_size)

    def admit(self, request: Request) -> None:
        sampler = Sampler(self._model, request.sampling, request.prompt, self._context.length)
        self._sequences[request] = _Sequence(self._lowest_free_slot(), sampler)

    def _lowest_free_slot(self) -> int:
        taken = {sequence.slot for sequence in self._sequences.values()}
        return next(slot for slot in range(self.slots) if slot not in taken)

    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int]:
        self._close_gaps()
        self._context.clear()
        rows = {}
        for request in sorted(shares, key=lambda request: self._sequences[request].slot):
            row = self._add(request, shares[request])
            if shares[request] == len(request.pending):
                rows[request] = row
        self._context.decode()
        return {request: self._sample(request, row) for request, row in rows.items()}

    def _close_gaps(self) -> None:
        """Move sequences from the highest slots into the gaps that others left, so that n of them have slots 0 to n-1.

        llama.cpp goes through the weights once for a run of consecutive slots in ascending order, and once more
        for each further run: eight sequences in descending order take three times as long as in ascending order.
        """
        for sequence in self._sequences.values():
            if sequence.slot >= len(self._sequences):
                left, sequence.slot = sequence.slot, self._lowest_free_slot()
                self._context.move(left, sequence.slot)

    def _add(self, request: Request, share: int) -> int:
        """Put the next tokens of a request into the batch; the row of the last."""
        row, slot = -1, self._sequences[request].slot
        for index, token in enumerate(request.pending[:share]):
            is_last = index + 1 == len(request.pending)
            row = self._context.add(token, request.position + index, slot, logits=is_last)
        return row

    def _sample(self, request: Request, row: int) -> int:
        return self._sequences[request].sampler.sample(self._context, row, request.generated)

    def forget(self, request: Request) -> None:
        sequence = self._sequences.pop(request)
        self._context.forget(sequence.slot)
        sequence.sampler.close()

    def resize(self, slots: int) -> None:
        before = self.slots
        self._context.close()
        try:
            self._use(self._make_context(slots))
        except EngineError:
            self._use(self._make_context(before))
            raise

    def close(self) -> None:
        self._context.close()
        self._model.close()
