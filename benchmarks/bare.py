"""The libraries themselves, with nothing of ours between: what an engine can be at most.

Each has a process of its own. Two users of one OpenMP library in a process take more threads together than there are
CPUs, and then its threads sleep at every barrier: both made two thirds of the tokens/s.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp

from benchmarks.answers import TOKENS

_CHUNK = 512
Row = tuple[int, int, int, bool]
"""Token, position, sequence, and whether the next token is wanted."""


class Tokens(NamedTuple):
    """An answer: its tokens and when they came, by the clock of all processes."""

    tokens: Sequence[int]
    times: Sequence[float]


class Library(ABC):
    """What answers prompts."""

    @abstractmethod
    def answer(self, prompts: Sequence[Sequence[int]]) -> list[Tokens]:
        """All of them, as fast as it can. Blocks."""


class LlamaLoop(Library):
    """llama.cpp's C functions in a loop: a token of each sequence, one decode, the best next token of each."""

    def __init__(self, path: Path, sequences: int, context: int, threads: int, *, gpu: bool) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = context * sequences, sequences
        parameters.n_batch = parameters.n_ubatch = _CHUNK
        parameters.n_threads = parameters.n_threads_batch = threads
        weights = llama_cpp.llama_model_default_params()
        weights.n_gpu_layers = 2**31 - 1 if gpu else 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), weights)
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(_CHUNK, 0, 1)
        self._sampler = llama_cpp.llama_sampler_init_greedy()
        self._sequences = sequences

    def answer(self, prompts: Sequence[Sequence[int]]) -> list[Tokens]:
        """As many at a time as there are sequences."""
        answers, left = [], iter(prompts)
        while wave := list(islice(left, self._sequences)):
            steps, times = self._run(wave)
            answers += [Tokens(tokens, times) for tokens in zip(*steps, strict=True)]
        return answers

    def _run(self, prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[float]]:
        llama_cpp.llama_memory_clear(self._memory, False)
        rows = [
            (token, position, sequence, position + 1 == len(prompt))
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        steps, times = [list(self._decode(rows))], [time.perf_counter()]
        while len(steps) < TOKENS:
            newest = enumerate(zip(steps[-1], prompts, strict=True))
            rows = [(token, len(prompt) + len(steps) - 1, sequence, True) for sequence, (token, prompt) in newest]
            steps.append(list(self._decode(rows)))
            times.append(time.perf_counter())
        return steps, times

    def _decode(self, rows: Sequence[Row]) -> Iterator[int]:
        batch = self._batch
        for begin in range(0, len(rows), _CHUNK):
            chunk = rows[begin : begin + _CHUNK]
            batch.n_tokens = len(chunk)
            for index, (token, position, sequence, wanted) in enumerate(chunk):
                batch.token[index], batch.pos[index] = token, position
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
                batch.logits[index] = wanted
            if llama_cpp.llama_decode(self._context, batch):
                raise RuntimeError("llama.cpp failed to decode")
            for index, row in enumerate(chunk):
                if row[-1]:
                    yield int(llama_cpp.llama_sampler_sample(self._sampler, self._context, index))


class Generate(Library):
    """`model.generate()` of transformers, one answer at a time."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": device})

    def answer(self, prompts: Sequence[Sequence[int]]) -> list[Tokens]:
        """One after the other."""
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Sequence[int]) -> Tokens:
        import torch

        clock = _Clock()
        ids = torch.tensor([prompt], device=self._model.device)
        done = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=TOKENS,
            streamer=clock,
        )
        return Tokens(done[0, len(prompt) :].tolist(), clock.times)


class _Clock:
    """A streamer that notes when tokens come; the prompt comes first."""

    def __init__(self) -> None:
        self._calls: list[float] = []

    @property
    def times(self) -> list[float]:
        """One for each token."""
        return self._calls[1:]

    def put(self, _: Any) -> None:
        """transformers has a token."""
        self._calls.append(time.perf_counter())

    def end(self) -> None:
        """It has no more."""
