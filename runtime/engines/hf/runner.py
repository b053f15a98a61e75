"""What one step of a transformers model is: the next tokens of the batch's rows, and a part of each new prompt.

transformers has continuous batching of its own. It takes temperature, top_k and top_p from each request and nothing
else (no seed, no penalties, no min_p, no least length), and it needs paged attention kernels, which MPT, layers
offloaded to disk and DeepSpeed's shards do not have. So the batch is ours, and the model, its cache's shape and the
logits processors are theirs.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from runtime.engines.batching import Request, Runner
from runtime.engines.contract import Limits
from runtime.engines.hf.rows import ModelRows
from runtime.engines.hf.sampling import Sampler
from runtime.errors import EngineError

_STEP_TOKENS = 512
"""Tokens of new prompts in one step; answers under way wait as long as it takes."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One sequence, by its number among the rows."""

    number: int
    sampler: Sampler


class HfRunner(Runner):
    """Steps one model."""

    step_tokens = _STEP_TOKENS

    def __init__(self, rows: ModelRows, slots: int, limits: Limits, end_tokens: Sequence[int]) -> None:
        self._rows = rows
        self.slots, self.limits, self.end_tokens = slots, limits, frozenset(end_tokens)
        self._numbers = itertools.count()
        self._sequences: dict[Request, _Sequence] = {}
        self._requests: dict[int, Request] = {}

    def admit(self, request: Request) -> None:
        sampler = Sampler(request.sampling, request.prompt, sorted(self.end_tokens), self._rows.device)
        sequence = _Sequence(next(self._numbers), sampler)
        self._sequences[request], self._requests[sequence.number] = sequence, request

    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int]:
        try:
            with torch.inference_mode():
                return self._choose(self._logits(shares))
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of memory: {str(error).partition('.')[0]}") from error

    def _logits(self, shares: Mapping[Request, int]) -> dict[Request, torch.Tensor]:
        """Of the last token of each request that has nothing left pending then."""
        found: dict[Request, torch.Tensor] = {}
        if self._rows.rows:
            under_way = [self._requests[number] for number in self._rows.rows]
            logits = self._rows.decode([request.pending[0] for request in under_way])
            found.update(zip(under_way, logits, strict=True))
        for request, share in shares.items():
            if request not in found:
                is_last = share == len(request.pending)
                last = self._rows.read(self._sequences[request].number, request.pending[:share], is_last=is_last)
                if is_last:
                    found[request] = last
        return found

    def _choose(self, logits: Mapping[Request, torch.Tensor]) -> dict[Request, int]:
        """The next token of each, with one wait for the device."""
        if not logits:
            return {}
        samplers = [self._sequences[request].sampler for request in logits]
        together = torch.stack(list(logits.values()))
        best = together.argmax(-1)
        chosen = [
            best[row] if sampler.takes_the_best else sampler.choose(together[row])[0]
            for row, sampler in enumerate(samplers)
        ]
        tokens = torch.stack(chosen).tolist()
        for sampler, token in zip(samplers, tokens, strict=True):
            sampler.accept(token)
        return dict(zip(logits, tokens, strict=True))

    def forget(self, request: Request) -> None:
        number = self._sequences.pop(request).number
        del self._requests[number]
        self._rows.leave(number)

    def resize(self, slots: int) -> None:
        self._rows.resize(slots)
        self.slots = slots

    def close(self) -> None:
        self._rows.close()
