"""A transformers model and the caches of the sequences in it: all that has to happen on every device that shares one.

Sequences go by numbers. Each prompt is read into a cache of its own, several in one step of the model; then they are
rows of one batch, which takes a token of each. The cache of a prompt can be kept, for others that begin alike.
"""

import gc
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from runtime.engines.hf.cache import RowsCache

_SAME = 0.99
"""Cosine of logits that differ by rounding only."""

Compile = Callable[[PreTrainedModel], Callable[..., Any]]


class Part(NamedTuple):
    """Tokens of a prompt, behind the first `begin` ones, which the sequence's cache has."""

    tokens: Sequence[int]
    begin: int = 0


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
        self._kept: dict[int, DynamicCache] = {}
        self.rows: list[int] = []
        """The sequences of the batch, in its order."""
        self._lengths: dict[int, int] = {}
        self._cache = self._make_cache(slots)

    def _make_cache(self, slots: int) -> RowsCache:
        return RowsCache(slots, self._context, self.device, fixed=self.is_compiled)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def read(self, parts: Mapping[int, Part], keep: int = 1) -> torch.Tensor:
        """Parts of prompts, which end at the same column; logits of their last `keep` tokens, [prompts, keep,
        vocabulary], as the model computes them. Those that do not begin a prompt are of the same length, the longest.
        """
        width = max(len(part.tokens) for part in parts.values())
        seen = max(part.begin for part in parts.values())
        ends = {number: part.begin + len(part.tokens) for number, part in parts.items()}
        pads = [seen + width - end for end in ends.values()]
        columns = torch.arange(seen + width, device=self.device)
        first = torch.tensor(pads, device=self.device).unsqueeze(1)
        ids = [[0] * (width - len(part.tokens)) + list(part.tokens) for part in parts.values()]
        cache = _together([self._begun(number, part.begin) for number, part in parts.items()], seen)
        mask = columns >= first if len(parts) > 1 else None
        logits = self._forward(ids, (columns[seen:] - first).clamp(min=0), cache, mask, keep)
        for row, (number, pad) in enumerate(zip(parts, pads, strict=True)):
            self._prompts[number] = cache if len(parts) == 1 else _cut(cache, slice(pad, None), row)
        self._lengths |= ends
        return logits

    def _begun(self, number: int, length: int) -> DynamicCache:
        """The first so many tokens of a prompt. Its cache may hold more: when it failed in one of the layers, or is
        another's, too. What one of those puts behind their common tokens, none of the others looks at.
        """
        cache = self._prompts.get(number) or DynamicCache()
        return cache if cache.get_seq_length() == length else _cut(cache, slice(length))

    def share(self, number: int, other: int) -> None:
        """A prompt begins as another one, which has been kept; where it goes on, `read` says."""
        self._prompts[number] = self._kept[other]

    def drop(self, number: int) -> None:
        """Keep a prompt no longer."""
        del self._kept[number]

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def join(self, number: int, *, keep: bool = False) -> None:
        """A prompt that is through becomes a row. `keep`: until `drop`, whatever becomes of the row."""
        prompt = self._prompts.pop(number)
        self._cache.join(prompt)
        self.rows.append(number)
        if keep:
            self._kept[number] = prompt

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

    def is_even(self) -> bool:
        """Whether `decode`, which has failed, can begin anew: all layers still end at the same column."""
        return len({layer.end for layer in self._cache.layers}) == 1

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
        whole = self.read({-1: Part([0, 1, 2])})[0, -1].float()
        self.leave(-1)
        self.read({-1: Part([0, 1])})
        self.join(-1)
        parted = self.decode([2])[0]
        self.leave(-1)
        return bool(torch.nn.functional.cosine_similarity(whole, parted, dim=0) > _SAME)

    def warm_up(self) -> None:
        """Read and write a token, with nothing else here: what is compiled at first use is compiled now."""
        self.read({-1: Part([0])})
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
        """Room for so many rows, in a cache of its own; those that there were are gone, and all that was kept."""
        self.rows.clear()
        self._kept.clear()
        self._cache = self._make_cache(slots)

    def close(self) -> None:
        """Free the memory."""
        self._cache = self._make_cache(0)
        self._prompts.clear()
        self._kept.clear()
        del self._model, self._step
        release_memory()


def release_memory() -> None:
    """Give a GPU's memory back that nobody uses any more: PyTorch keeps it for its own next allocation."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _cut(cache: DynamicCache, columns: slice, row: int = 0) -> DynamicCache:
    """A copy of some columns of a row."""
    part = DynamicCache()
    for index, layer in enumerate(cache.layers):
        part.update(layer.keys[row : row + 1, :, columns], layer.values[row : row + 1, :, columns], index)
    return part


def _together(caches: Sequence[DynamicCache], end: int) -> DynamicCache:
    """The rows of one cache, which end at the same column."""
    begun = next((cache for cache in caches if cache.layers), None)
    if len(caches) == 1 or begun is None:
        return caches[0]
    whole = DynamicCache()
    for index, like in enumerate(begun.layers):
        layers = [cache.layers[index] if cache.layers else None for cache in caches]
        keys = [layer.keys if layer else like.keys[:, :, :0] for layer in layers]
        values = [layer.values if layer else like.values[:, :, :0] for layer in layers]
        whole.update(_aligned(keys, end), _aligned(values, end), index)
    return whole


def _aligned(rows: Sequence[torch.Tensor], end: int) -> torch.Tensor:
    """[rows, heads, end, size], with nothing where a row has not begun."""
    return torch.cat([torch.nn.functional.pad(row, (0, 0, end - row.shape[2], 0)) for row in rows])
