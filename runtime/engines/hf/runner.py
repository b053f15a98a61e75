"""What one step of a transformers model is: the next tokens of the batch's rows, and a part of each new prompt.

transformers has continuous batching of its own. It takes temperature, top_k and top_p from each request and nothing
else (no seed, no penalties, no min_p, no least length), and it needs paged attention kernels, which MPT, layers
offloaded to disk and DeepSpeed's shards do not have. So the batch is ours, and the model, its cache's shape and the
logits processors are theirs.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from runtime.engines.batching import Request, Runner
from runtime.engines.contract import Limits
from runtime.engines.hf.cache import RowsCache
from runtime.engines.hf.sampling import Sampler
from runtime.errors import EngineError

_STEP_TOKENS = 512
"""Tokens of new prompts in one step; answers under way wait as long as it takes."""


@dataclass(slots=True)
class _Sequence:
    """One sequence. `prompt`: its own cache, until it joins the batch."""

    sampler: Sampler
    prompt: DynamicCache | None


class HfRunner(Runner):
    """Steps one model."""

    step_tokens = _STEP_TOKENS

    def __init__(self, model: PreTrainedModel, slots: int, limits: Limits, end_tokens: Sequence[int]) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        if self._device.type == "meta":  # offloaded: its hook brings it where the model computes
            self._device = torch.device("cpu")
        self._takes = inspect.signature(model.forward).parameters
        self.slots, self.limits, self.end_tokens = slots, limits, frozenset(end_tokens)
        self._sequences: dict[Request, _Sequence] = {}
        self._rows: list[Request] = []
        self._cache = RowsCache(slots)

    def admit(self, request: Request) -> None:
        sampler = Sampler(request.sampling, request.prompt, sorted(self.end_tokens), self._device)
        self._sequences[request] = _Sequence(sampler, DynamicCache())

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int]:
        try:
            logits = self._next_logits() if self._rows else {}
            for request, share in shares.items():
                if request not in logits:
                    last = self._read(request, share)
                    if share == len(request.pending):
                        logits[request] = last
                        self._join(request)
            return self._choose(logits)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of memory: {str(error).partition('.')[0]}") from error

    def _next_logits(self) -> dict[Request, torch.Tensor]:
        """A step of all rows."""
        self._cache.make_room()
        tokens = torch.tensor([[request.pending[0]] for request in self._rows], device=self._device)
        positions = torch.tensor([[request.position] for request in self._rows], device=self._device)
        logits = self._forward(tokens, positions, self._cache, self._cache.mask(self._device))
        return dict(zip(self._rows, logits, strict=True))

    def _read(self, request: Request, share: int) -> torch.Tensor:
        """A part of a prompt; the logits of its last token."""
        cache = self._sequences[request].prompt
        assert cache is not None
        tokens = torch.tensor([request.pending[:share]], device=self._device)
        positions = torch.arange(request.position, request.position + share, device=self._device).unsqueeze(0)
        return self._forward(tokens, positions, cache, None)[0]

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, cache: DynamicCache | RowsCache, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits of the last token of each row: [rows, vocabulary]."""
        optional: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
        more = {name: value for name, value in optional.items() if name in self._takes}
        done = self._model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        return done.logits[:, -1].float()

    def _join(self, request: Request) -> None:
        sequence = self._sequences[request]
        assert sequence.prompt is not None
        self._cache.join(sequence.prompt)
        self._rows.append(request)
        sequence.prompt = None

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

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def forget(self, request: Request) -> None:
        del self._sequences[request]
        if request in self._rows:
            row = self._rows.index(request)
            self._cache.leave(row)
            last = self._rows.pop()
            if row < len(self._rows):
                self._rows[row] = last

    def resize(self, slots: int) -> None:
        self.slots, self._cache = slots, RowsCache(slots)

    def close(self) -> None:
        self._cache = RowsCache(0)
        self._sequences.clear()
        del self._model
