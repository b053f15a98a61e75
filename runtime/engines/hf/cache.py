"""The key-value cache of a batch whose rows come and go.

All rows end at the same column, so that one attention mask of two dimensions says what each may see, as it does for
left-padded prompts: every model and attention kernel of transformers that can generate in batches takes that.

    columns   0 1 2 3 4 5 6
    row 0     a b c d e f |        `start` 0
    row 1     . . . a b c |        `start` 3

A sequence is read into a cache of its own, and joins when its prompt is through.

A compiled model wants the same shapes at every step. It gets a cache that shows all slots and all columns always, and
is told by the mask, and by a tensor that says where the batch ends, what of it counts.
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
        rows, end = key_states.shape[0], self.end + 1
        self.keys[:rows, :, self.end : end] = key_states
        self.values[:rows, :, self.end : end] = value_states
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def get_seq_length(self) -> int:
        return self.end

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.end + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def grow(self, columns: int, most: int) -> None:
        """Have at least so many columns, and not more than the most."""
        have = self.keys.shape[2]
        if columns > have:
            more = (0, 0, 0, max(columns, min(2 * have, most)) - have)
            self.keys, self.values = (torch.nn.functional.pad(each, more) for each in (self.keys, self.values))

    def shift(self, rows: int, by: int) -> None:
        """Move what the rows have to the right, or to the left where `by` is negative."""
        first = max(0, -by)
        copies = [each[:rows, :, first : self.end].clone() for each in (self.keys, self.values)]
        for each, copy in zip((self.keys, self.values), copies, strict=True):
            each[:rows, :, first + by : self.end + by] = copy
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


class FixedRowsLayer(RowsLayer):
    """The same with shapes that stay. `ends`: where the batch ends, on each device, for all layers there."""

    is_compileable = True

    def __init__(self, slots: int, ends: dict[torch.device, torch.Tensor]) -> None:
        super().__init__(slots)
        self.ends = ends

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        device = key_states.device
        self.end_at = self.ends.setdefault(device, torch.zeros(1, dtype=torch.int64, device=device))
        self._columns_may_grow()

    def grow(self, columns: int, most: int) -> None:
        super().grow(columns, most)
        self._columns_may_grow()

    def _columns_may_grow(self) -> None:
        """Compile once for any number of columns: a second time would hold up everybody."""
        for each in (self.keys, self.values):
            torch._dynamo.maybe_mark_dynamic(each, 2)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.end_at, key_states)
        self.values.index_copy_(2, self.end_at, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> torch.Tensor:
        return self.end_at[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 (transformers' own)
        return self.keys.shape[2], 0


class RowsCache(Cache):  # type: ignore[misc]
    """The cache of a batch. `starts`: the first column of each row. `fixed`: shapes stay the same.

    `context`: columns that a row has at the most, and so the batch: some models know no more positions.
    """

    def __init__(self, slots: int, context: int, device: torch.device, *, fixed: bool = False) -> None:
        self.slots, self.context, self.fixed, self.device = slots, context, fixed, device
        self._ends: dict[torch.device, torch.Tensor] = {}
        layer = partial(FixedRowsLayer, slots, self._ends) if fixed else partial(RowsLayer, slots)
        super().__init__(layer_class_to_replicate=layer)
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
            layer.grow(layer.end + by, self.context)
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
        if self.end == columns and (unused >= columns // 4 or columns >= self.context):
            self._shift(-unused)
        elif self.end == columns:
            for layer in self.layers:
                layer.grow(self.end + 1, self.context)
        for end_at in self._ends.values():
            end_at.fill_(self.end)

    def mask(self) -> torch.Tensor | None:
        """What each row may see, the next token included: [rows, columns]; None where that is everything."""
        if not self.fixed and not any(self.starts):
            return None
        starts = self.starts + [0] * (self.slots - len(self.starts)) if self.fixed else self.starts
        columns = torch.arange(self.layers[0].keys.shape[2] if self.fixed else self.end + 1, device=self.device)
        mask = (columns >= torch.tensor(starts, device=self.device).unsqueeze(1)) & (columns <= self.end)
        torch._dynamo.maybe_mark_dynamic(mask, 1)
        return mask

    def advance(self) -> None:
        """Each row has one token more."""
        for layer in self.layers:
            layer.end += 1
