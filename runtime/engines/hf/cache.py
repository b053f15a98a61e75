"""The key-value cache of a batch whose rows come and go.

All rows end at the same column, so that one attention mask of two dimensions says what each may see, as it does for
left-padded prompts: every model and attention kernel of transformers that can generate in batches takes that.

    columns   0 1 2 3 4 5 6
    row 0     a b c d e f |        `start` 0
    row 1     . . . a b c |        `start` 3

A sequence is read into a cache of its own, and joins when its prompt is through.
"""

from functools import partial

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

_FIRST_COLUMNS = 256


class RowsLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: [slots, heads, columns, size], of which a batch uses a part."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.end = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Room for all slots, of the kind that these have."""
        self.keys, self.values = (
            each.new_zeros(self.slots, each.shape[1], _FIRST_COLUMNS, each.shape[3])
            for each in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the newest token of each row behind the others; all that the batch has."""
        rows, begin = key_states.shape[0], self.end
        self.end += key_states.shape[2]
        self.keys[:rows, :, begin : self.end] = key_states
        self.values[:rows, :, begin : self.end] = value_states
        return self.keys[:rows, :, : self.end], self.values[:rows, :, : self.end]

    def get_seq_length(self) -> int:
        return self.end

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.end + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def grow(self, columns: int) -> None:
        """Have at least so many columns."""
        have = self.keys.shape[2]
        if columns > have:
            more = (0, 0, 0, max(columns, 2 * have) - have)
            self.keys, self.values = (torch.nn.functional.pad(each, more) for each in (self.keys, self.values))

    def shift(self, rows: int, by: int) -> None:
        """Move what the rows have to the right, or to the left where `by` is negative."""
        first = max(0, -by)
        for each in (self.keys, self.values):
            each[:rows, :, first + by : self.end + by] = each[:rows, :, first : self.end].clone()
        self.end += by

    def put(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """A row that ends where the others do. `keys`, `values`: [1, heads, tokens, size]."""
        begin = self.end - keys.shape[2]
        self.keys[row, :, begin : self.end] = keys[0]
        self.values[row, :, begin : self.end] = values[0]

    def move(self, row: int, to: int) -> None:
        """Give a row's place to another one."""
        for each in (self.keys, self.values):
            each[to, :, : self.end] = each[row, :, : self.end]


class RowsCache(Cache):  # type: ignore[misc]
    """The cache of a batch. `starts`: the first column of each row."""

    def __init__(self, slots: int) -> None:
        super().__init__(layer_class_to_replicate=partial(RowsLayer, slots))
        self.layers: list[RowsLayer]
        self.starts: list[int] = []

    @property
    def end(self) -> int:
        """The column behind the newest token."""
        return self.layers[0].end if self.layers else 0

    def join(self, other: DynamicCache) -> None:
        """A sequence becomes the last row."""
        length = other.get_seq_length()
        if not self.layers:
            for layer in other.layers:
                self.layers.append(self.layer_class_to_replicate())
                self.layers[-1].lazy_initialization(layer.keys, layer.values)
        if not self.starts:
            for layer in self.layers:
                layer.end = 0
        if length > self.end:
            self._shift(length - self.end)
        for layer, source in zip(self.layers, other.layers, strict=True):
            layer.put(len(self.starts), source.keys, source.values)
        self.starts.append(self.end - length)

    def _shift(self, by: int) -> None:
        for layer in self.layers:
            layer.grow(layer.end + by)
            layer.shift(len(self.starts), by)
        self.starts = [start + by for start in self.starts]

    def leave(self, row: int) -> None:
        """Take a row out; the last one gets its place."""
        last = self.starts.pop()
        if row < len(self.starts):
            self.starts[row] = last
            for layer in self.layers:
                layer.move(len(self.starts), row)

    def make_room(self) -> None:
        """For one more token: drop columns that no row uses any more, or have more of them."""
        columns, unused = self.layers[0].keys.shape[2], min(self.starts)
        if self.end < columns:
            return
        if unused >= columns // 4:
            self._shift(-unused)
        else:
            for layer in self.layers:
                layer.grow(self.end + 1)

    def mask(self, device: torch.device) -> torch.Tensor | None:
        """What each row may see, the next token included: [rows, columns]; None where that is everything."""
        if not any(self.starts):
            return None
        columns = torch.arange(self.end + 1, device=device)
        return columns >= torch.tensor(self.starts, device=device).unsqueeze(1)
