"""A transformers model and the caches of the sequences in it: all that has to happen on every device that shares one.

Sequences go by numbers. Each prompt is read into a cache of its own, several that begin in one step of the model; then
they are rows of one batch, which takes a token of each.
"""

import gc
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from runtime.engines.hf.cache import RowsCache

_SAME = 0.99
"""Cosine of logits that differ by rounding only."""

Compile = Callable[[PreTrainedModel], Callable[..., Any]]


class ModelRows:
    """The steps of one model. `compile_`: what makes the model faster where its shapes stay the same.

    `context`: tokens that a sequence has at the most, prompt and answer.
    """

    def __init__(self, model: PreTrainedModel, slots: int, context: int, compile_: Compile | None = None) -> None:
        self._model = model
        self._step = compile_(model) if compile_ else model
        self.is_compiled = compile_ is not None
        self.device = model.get_input_embeddings().weight.device
        if self.device.type == "meta":  # offloaded: its hook brings it where the model computes
            self.device = torch.device("cpu")
        self._context = context
        self._takes = inspect.signature(model.forward).parameters
        self._prompts: dict[int, DynamicCache] = {}
        self.rows: list[int] = []
        """The sequences of the batch, in its order."""
        self._lengths: dict[int, int] = {}
        self._cache = self._make_cache(slots)

    def _make_cache(self, slots: int) -> RowsCache:
        return RowsCache(slots, self._context, self.device, fixed=self.is_compiled)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def read(self, parts: Mapping[int, Sequence[int]], keep: int = 1) -> torch.Tensor:
        """The next parts of prompts; logits of their last `keep` tokens, [prompts, keep, vocabulary], as the model
        computes them. Several begin together.
        """
        numbers, first = list(parts), next(iter(parts))
        begin = self._lengths.get(first, 0)
        longest = max(map(len, parts.values()))
        pads = torch.tensor([longest - len(tokens) for tokens in parts.values()], device=self.device).unsqueeze(1)
        columns = torch.arange(longest, device=self.device)
        ids = [[0] * (longest - len(tokens)) + list(tokens) for tokens in parts.values()]
        cache = self._prompts.pop(first, None) or DynamicCache()
        mask = columns >= pads if len(parts) > 1 else None
        logits = self._forward(ids, (begin + columns - pads).clamp(min=0), cache, mask, keep)
        for row, number in enumerate(numbers):
            self._prompts[number] = cache if len(parts) == 1 else _row_of(cache, row, longest - len(parts[number]))
            self._lengths[number] = begin + len(parts[number])
        return logits

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def join(self, number: int) -> None:
        """A prompt that is through becomes a row."""
        self._cache.join(self._prompts.pop(number))
        self.rows.append(number)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        """A token of each row; logits of the next, [rows, vocabulary]."""
        self._cache.make_room()
        padding = self._cache.slots - len(self.rows) if self.is_compiled else 0
        ids = [*([token] for token in tokens), *[[0]] * padding]
        at = [*([self._lengths[number]] for number in self.rows), *[[0]] * padding]
        positions = torch.tensor(at, device=self.device)
        logits = self._forward(ids, positions, self._cache, self._cache.mask())
        self._cache.advance()
        for number in self.rows:
            self._lengths[number] += 1
        return logits[: len(self.rows), -1].float()

    def _forward(
        self,
        tokens: Sequence[Sequence[int]],
        positions: torch.Tensor,
        cache: DynamicCache | RowsCache,
        mask: torch.Tensor | None,
        keep: int = 1,
    ) -> torch.Tensor:
        """Logits of the last tokens of each row."""
        optional: dict[str, Any] = {"position_ids": positions, "logits_to_keep": keep}
        model = self._step if cache is self._cache else self._model
        more = {name: value for name, value in optional.items() if name in self._takes}
        ids = torch.tensor(tokens, device=self.device)
        done = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        logits: torch.Tensor = done.logits[:, -keep:]
        return logits

    def heeds_its_cache(self) -> bool:
        """Whether a token is told the same when those before it lie in the cache, with nothing else here."""
        whole = self.read({-1: [0, 1, 2]})[0, -1].float()
        self.leave(-1)
        self.read({-1: [0, 1]})
        self.join(-1)
        parted = self.decode([2])[0]
        self.leave(-1)
        return bool(torch.nn.functional.cosine_similarity(whole, parted, dim=0) > _SAME)

    def warm_up(self) -> None:
        """Read and write a token, with nothing else here: what is compiled at first use is compiled now."""
        self.read({-1: [0]})
        self.join(-1)
        self.decode([0])
        self.leave(-1)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def leave(self, number: int) -> None:
        """A sequence has ended, wherever it is."""
        self._prompts.pop(number, None)
        self._lengths.pop(number, None)
        if number in self.rows:
            row = self.rows.index(number)
            self._cache.leave(row)
            last = self.rows.pop()
            if row < len(self.rows):
                self.rows[row] = last

    def resize(self, slots: int) -> None:
        """Room for so many rows, in a cache of its own; those that there were are gone."""
        self.rows.clear()
        self._cache = self._make_cache(slots)

    def close(self) -> None:
        """Free the memory."""
        self._cache = self._make_cache(0)
        self._prompts.clear()
        del self._model, self._step
        release_memory()


def release_memory() -> None:
    """Give a GPU's memory back that nobody uses any more: PyTorch keeps it for its own next allocation."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _row_of(cache: DynamicCache, row: int, pad: int) -> DynamicCache:
    """One of several prompts that were read together, without the columns before it."""
    alone = DynamicCache()
    for index, layer in enumerate(cache.layers):
        alone.update(layer.keys[row : row + 1, :, pad:], layer.values[row : row + 1, :, pad:], index)
    return alone
