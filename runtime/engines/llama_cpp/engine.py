"""The llamaCpp engine: what one step of llama.cpp is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import llama_cpp

from runtime.application import ModelArguments
from runtime.engines.batching import BatchingEngine
from runtime.engines.contract import Batching, Engine, Limits
from runtime.engines.embedding import EmbeddingEngine
from runtime.engines.llama_cpp import LlamaCpp, LlamaKwargs
from runtime.engines.llama_cpp.embedding import LlamaEncoder, WholeGgufTokenizer
from runtime.engines.llama_cpp.model import Context, GgufTokenizer, Model, Sampler, scored
from runtime.engines.prefix import common_length
from runtime.engines.scheduler import Request, Runner
from runtime.errors import ConfigError, EngineDeadError, EngineError
from runtime.weights.sources import model_file

_INITIALIZER = "model_config.initialization.initializer"


def load(arguments: ModelArguments, folder: Path, batching: Batching) -> Engine:
    """The engine table's loader."""
    config = arguments.initialization.initializer
    assert isinstance(config, LlamaCpp)
    field = f"{_INITIALIZER}.model_filename"
    path = model_file(folder, config.model_filename, ".gguf", field, arguments.declared_in)
    options = _with_layers(config.model_init_kwargs, arguments)
    threads = options.n_threads or max(1, round(arguments.scaling_config.num_cpus_per_worker))
    try:
        model = Model(path, options)
    except EngineError as error:
        raise ConfigError(field, arguments.declared_in, str(error)) from error
    try:
        if arguments.embeds:
            encoder = LlamaEncoder(model, options, threads, batching.max_size)
            limits = Limits(encoder.length, model.vocabulary_size, embeds=True)
            return EmbeddingEngine(encoder, WholeGgufTokenizer(model), limits, batching)
        runner = LlamaRunner(model, options, threads, batching.max_size)
    except EngineError as error:
        model.close()
        field = f"{_INITIALIZER}.model_init_kwargs{'' if arguments.embeds else '.n_ctx'}"
        raise ConfigError(field, arguments.declared_in, str(error)) from error
    return BatchingEngine(runner, GgufTokenizer(model), batching)


def _with_layers(options: LlamaKwargs, arguments: ModelArguments) -> LlamaKwargs:
    """Options that say how many layers go on GPUs. Raises ConfigError where that cannot be."""
    field, layers = f"{_INITIALIZER}.model_init_kwargs.n_gpu_layers", options.n_gpu_layers
    if layers is None:
        field, layers = "scaling_config.num_gpus_per_worker", -1 if arguments.scaling_config.num_gpus_per_worker else 0
    if layers and not llama_cpp.llama_supports_gpu_offload():
        problem = "this node's llama-cpp-python was built without GPU support, see docs/serving.md"
        raise ConfigError(field, arguments.declared_in, problem)
    return options.model_copy(update={"n_gpu_layers": layers})


@dataclass(slots=True)
class _Sequence:
    """What llama.cpp keeps of one: its place in the cache, the tokens there, and its sampler."""

    slot: int
    sampler: Sampler
    tokens: list[int]


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
        self._left: dict[int, list[int]] = {}
        """What sequences that have ended left in their slots: another one may begin with the same tokens."""
        self._owners: dict[int, str] = {}
        """Whose that is."""
        self.slots, self.step_tokens = context.slots, context.batch_size
        self.limits = Limits(context.length, self._model.vocabulary_size)

    def admit(self, request: Request) -> int:
        sampler = Sampler(self._model, request.sampling, request.prompt, self._context.length)
        reusable = [] if request.sampling.echo else request.prompt  # a token that is scored has to be seen
        slot, seen = self._best_free_slot(reusable, request.sampling.owner)
        if not self._context.forget(slot, seen):  # not every kind of model can forget a part
            self._context.forget(slot)
            seen = 0
        self._left.pop(slot, None)
        self._sequences[request] = _Sequence(slot, sampler, list(request.prompt[:seen]))
        return seen

    def _best_free_slot(self, prompt: Sequence[int], owner: str) -> tuple[int, int]:
        """A slot, and how much of the prompt's beginning it holds of the same owner's. The last token is seen again.

        It is one whose tokens are mostly the prompt's, so that a conversation finds its own; else an empty one, or the
        one that has been left for the longest time.
        """
        others = prompt[:-1]
        own = {slot: tokens for slot, tokens in self._left.items() if self._owners[slot] == owner}
        common = {slot: common_length(tokens, others) for slot, tokens in own.items()}
        fitting = [slot for slot in common if 2 * common[slot] >= len(own[slot])]
        if fitting:
            slot = max(fitting, key=lambda slot: common[slot])
            return slot, common[slot]
        empty, taken = self._empty(), [sequence.slot for sequence in self._sequences.values()]
        if not empty:
            oldest = next(iter(self._left))
            return oldest, common.get(oldest, 0)
        return min(empty, key=lambda slot: min((abs(slot - other) for other in taken), default=0)), 0

    def _empty(self) -> list[int]:
        used = {*self._left, *(sequence.slot for sequence in self._sequences.values())}
        return [slot for slot in range(self.slots) if slot not in used]

    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int]:
        self._close_gaps()
        self._context.clear()
        rows = {}
        for request in sorted(shares, key=lambda request: self._sequences[request].slot):
            rows[request] = self._add(request, shares[request])
        try:
            self._context.decode()
        except EngineError:
            for sequence in self._sequences.values():
                sequence.tokens.clear()  # nobody knows what the cache holds now
            raise
        for request, row in rows.items():
            self._score(request, row - shares[request] + 1, shares[request])
        through = {request: row for request, row in rows.items() if shares[request] == len(request.pending)}
        return {request: self._sample(request, row) for request, row in through.items()}

    def _close_gaps(self) -> None:
        """Move sequences from the highest slots into the gaps between others, so that all have consecutive slots.

        llama.cpp goes through the weights once for a run of consecutive slots in ascending order, and once more
        for each further run: eight sequences in descending order take three times as long as in ascending order.
        """
        by_slot = {sequence.slot: sequence for sequence in self._sequences.values()}
        first = min(by_slot)
        for slot in range(first, first + len(by_slot)):
            if slot not in by_slot:
                self._clear(slot)
                sequence = by_slot.pop(max(by_slot))
                self._context.move(sequence.slot, slot)
                sequence.slot = slot
                by_slot[slot] = sequence

    def _clear(self, slot: int) -> None:
        """What was left there goes to an empty slot, if there is one."""
        left = self._left.pop(slot, None)
        if left and (empty := self._empty()):
            to = next((each for each in empty if each != slot), None)
            if to is not None:
                self._context.move(slot, to)
                self._left[to], self._owners[to] = left, self._owners[slot]

    def _add(self, request: Request, share: int) -> int:
        """Put the next tokens of a request into the batch; the row of the last."""
        row, sequence = -1, self._sequences[request]
        sequence.tokens += request.pending[:share]
        for index, token in enumerate(request.pending[:share]):
            is_last = index + 1 == len(request.pending)
            wanted = is_last or request.sampling.echo
            row = self._context.add(token, request.position + index, sequence.slot, logits=wanted)
        return row

    def _score(self, request: Request, first: int, share: int) -> None:
        """The tokens of an echoed prompt, from the batch's row `first` on."""
        for row, token in enumerate(request.to_score(share), first):
            request.scored.append(scored(self._context.logprobs(row), token, request.sampling.logprobs or 0))

    def _sample(self, request: Request, row: int) -> int:
        allowed = request.matcher.look() if request.matcher else None
        return self._sequences[request].sampler.sample(self._context, row, request.generated, allowed)

    def forget(self, request: Request) -> None:
        sequence = self._sequences.pop(request)
        sequence.sampler.close()
        if sequence.tokens:
            self._left[sequence.slot], self._owners[sequence.slot] = sequence.tokens, request.sampling.owner
        else:
            self._context.forget(sequence.slot)

    def resize(self, slots: int) -> None:
        before = self.slots
        self._context.close()
        try:
            self._use(self._make_context(slots))
        except EngineError:
            try:
                self._use(self._make_context(before))
            except EngineError as error:
                raise EngineDeadError(str(error)) from error
            raise

    def close(self) -> None:
        self._context.close()
        self._model.close()
