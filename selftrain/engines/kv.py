"""A key/value cache that is allocated once, filled in place and emptied of finished rows without being rebuilt.

transformers' DynamicCache concatenates every layer's keys and values anew for each token, which for a batch of rows
costs more than the attention itself. This one has the three methods a decoder calls on a cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class KVSlab:
    """Keys and values of every layer, [rows, heads, capacity, head size], valid up to `length`.

    Rows are left-padded: all rows end at the same column. Padding holds zeros and has to be masked by the caller.
    """

    is_compileable = False  # asked by transformers' mask code

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity
        self.length = 0  # columns filled
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def fill(self, prefill: Any, rows_of: Tensor, first_row: int, length: int) -> None:
        """Copy prompts in: row `first_row + i` becomes row `rows_of[i]` of `prefill`, moved right to end at `length`.

        `prefill` is a DynamicCache over at most `length` columns, left-padded like this one.
        """
        import torch

        layers = [(layer.keys, layer.values) for layer in prefill.layers]
        if not self._keys:
            for keys, values in layers:
                self._keys.append(_empty(torch, keys, self.rows, self.capacity))
                self._values.append(_empty(torch, values, self.rows, self.capacity))
        span = slice(first_row, first_row + len(rows_of))
        for mine, theirs in zip((self._keys, self._values), zip(*layers, strict=True), strict=True):
            for slab, part in zip(mine, theirs, strict=True):
                start = length - part.shape[2]
                slab[span, :, :start] = 0  # uninitialised memory may hold NaN, which a mask does not hide
                slab[span, :, start:length] = part[rows_of]
        self.length = length

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append one token to a layer; returns all its keys and values so far. The last layer moves the column on."""
        column = self.length
        slab_k, slab_v = self._keys[layer_idx], self._values[layer_idx]
        slab_k[: self.rows, :, column : column + 1] = keys
        slab_v[: self.rows, :, column : column + 1] = values
        if layer_idx == len(self._keys) - 1:
            self.length += 1
        return slab_k[: self.rows, :, : column + 1], slab_v[: self.rows, :, : column + 1]

    def keep(self, holes: Tensor, movers: Tensor, rows: int) -> None:
        """Shrink to `rows` rows: the rows `movers` (all >= `rows`) are copied into the rows `holes` (all < `rows`)."""
        for slab in (*self._keys, *self._values):
            slab[holes, :, : self.length] = slab[movers, :, : self.length]
        self.rows = rows

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.length + query_length, 0


def _empty(torch: Any, like: torch.Tensor, rows: int, capacity: int) -> torch.Tensor:
    _, heads, _, size = like.shape
    return torch.empty(rows, heads, capacity, size, dtype=like.dtype, device=like.device)
