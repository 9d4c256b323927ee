"""The key/value cache of many samples of few prompts, and the attention that reads it.

The keys and values of a prompt are held once, whatever the number of its samples; a sample holds its own tokens only.
Against a cache repeated for every sample this saves memory in proportion to the prompt's share, and time: the samples
of one prompt become one matrix product instead of many reads of the same numbers. What is generated is written into
memory allocated once, where transformers' DynamicCache concatenates every layer anew for each token.
Finished rows leave the cache without it being rebuilt, and a row can be made to forget its last tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = "shared_prompt"  # the name under which transformers knows `attend`
GROWTH = 64  # tokens by which the rows' memory grows when more are appended than was said
SHRINK_BELOW = 0.75  # prompts without rows are dropped when fewer than this share is still in use: it copies the rest


class SharedPromptCache:
    """Keys and values of every layer.

    Prompts: [prompts, kv heads, prompt columns, head size], left-padded. Rows: [rows, kv heads, capacity, head size],
    filled up to `length`, the same for all rows. `slot[row]` is prompt x width + place: where the row's query goes when
    those of a prompt are put together, `width` places for each.
    """

    def __init__(self, repeats: Tensor, columns: int, capacity: int) -> None:
        """`repeats` int64 [prompts]: rows of each. `columns`: tokens of the longest prompt. `capacity`: tokens that
        will be appended to a row; more are possible, but cost a copy.
        """
        import torch

        device = repeats.device
        self.columns = columns
        self.capacity = capacity
        self.length = 0
        self.width = int(repeats.max())
        self.prompts = len(repeats)
        prompt_of = torch.repeat_interleave(repeats)
        first = (repeats.cumsum(0) - repeats)[prompt_of]
        self.slot = prompt_of * self.width + torch.arange(len(prompt_of), device=device) - first
        self.mask: Tensor | None = None  # [prompts, 1, 1, columns], added to scores
        self.hidden: Tensor | None = None  # [rows, appended tokens or more], added to scores; None: nothing is hidden
        self._dense = bool((repeats == self.width).all())  # slot is 0, 1, 2, ...: nothing to move
        self._prompt_keys: list[Tensor] = []
        self._prompt_values: list[Tensor] = []
        self._row_keys: list[Tensor] = []
        self._row_values: list[Tensor] = []

    @property
    def rows(self) -> int:
        return len(self.slot)

    def fill(self, prefill: Any, first: int) -> None:
        """Copy prompts in, from number `first` on, moved right to end at the last column.

        `prefill` is a DynamicCache over at most `columns` columns, left-padded like this one.
        """
        import torch

        layers = [(layer.keys, layer.values) for layer in prefill.layers]
        if not self._prompt_keys:
            for keys, _ in layers:
                _, heads, _, size = keys.shape
                for slabs, shape in (
                    ((self._prompt_keys, self._prompt_values), (self.prompts, heads, self.columns, size)),
                    ((self._row_keys, self._row_values), (self.rows, heads, self.capacity, size)),
                ):
                    for slab in slabs:
                        slab.append(torch.empty(shape, dtype=keys.dtype, device=keys.device))
        for mine, theirs in zip((self._prompt_keys, self._prompt_values), zip(*layers, strict=True), strict=True):
            for held, part in zip(mine, theirs, strict=True):
                start = self.columns - part.shape[2]
                held[first : first + len(part), :, :start] = 0  # unset memory may hold NaN, which a mask does not hide
                held[first : first + len(part), :, start:] = part

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append one token to a layer; returns the rows' own keys and values so far, prompts not included."""
        column, rows = self.length, self.rows
        if column == self._row_keys[layer_idx].shape[2]:
            self._grow(layer_idx)
        row_keys, row_values = self._row_keys[layer_idx][:rows], self._row_values[layer_idx][:rows]
        row_keys[:, :, column : column + 1] = keys
        row_values[:, :, column : column + 1] = values
        if layer_idx == len(self._row_keys) - 1:
            self.length += 1
        return row_keys[:, :, : column + 1], row_values[:, :, : column + 1]

    def _grow(self, layer: int) -> None:
        import torch

        for slabs in (self._row_keys, self._row_values):
            old = slabs[layer]
            slabs[layer] = torch.cat([old, old.new_empty(*old.shape[:2], GROWTH, old.shape[3])], dim=2)

    def forget(self, row: int, first: int, last: int) -> None:
        """Hide the tokens [first, last) that were appended to a row, from it and for good. They keep their places."""
        import torch

        if self.hidden is None:
            keys = self._row_keys[0]
            self.hidden = torch.zeros(self.rows, self.capacity, dtype=keys.dtype, device=keys.device)
        self.own_mask(last)[row, ..., first:last] = torch.finfo(self.hidden.dtype).min

    def keep(self, holes: Tensor, movers: Tensor, rows: int) -> None:
        """Shrink to `rows` rows: the rows `movers` (all >= `rows`) are copied into the rows `holes` (all < `rows`)."""
        import torch

        for slab in (*self._row_keys, *self._row_values):
            slab[holes, :, : self.length] = slab[movers, :, : self.length]
        self.slot[holes] = self.slot[movers]
        self.slot = self.slot[:rows]
        if self.hidden is not None:
            self.hidden[holes] = self.hidden[movers]
            self.hidden = self.hidden[:rows]
        self._dense = False
        used, renumbered = torch.unique(self.slot // self.width, return_inverse=True)
        if len(used) < SHRINK_BELOW * self.prompts:
            self.slot = renumbered * self.width + self.slot % self.width
            self.prompts = len(used)
            assert self.mask is not None
            self.mask = self.mask[used]
            for slabs in (self._prompt_keys, self._prompt_values):
                for layer, slab in enumerate(slabs):
                    slabs[layer] = slab[used]

    def own_mask(self, tokens: int) -> Tensor:
        """What is added to a row's scores against the `tokens` appended to it: [rows, 1, 1, tokens]."""
        import torch

        assert self.hidden is not None
        if self.hidden.shape[1] < tokens:
            self.hidden = torch.nn.functional.pad(self.hidden, (0, tokens + GROWTH - self.hidden.shape[1]))
        return self.hidden[:, None, None, :tokens]

    def prompt_scores(self, query: Tensor, layer: int) -> Tensor:
        """Scores of each row's query against its prompt: [rows, kv heads, queries per kv head, ...] in and out."""
        assert self.mask is not None
        together = self._together(query)
        return self._apart(together @ self._prompt_keys[layer].transpose(-1, -2) + self.mask, query.shape[2])

    def prompt_values(self, weights: Tensor, layer: int) -> Tensor:
        """Each prompt's values under its rows' weights, [rows, kv heads, queries per kv head, head size]."""
        return self._apart(self._together(weights) @ self._prompt_values[layer], weights.shape[2])

    def _together(self, x: Tensor) -> Tensor:
        """[rows, heads, queries, n] -> [prompts, heads, width x queries, n], zeros in the places of rows that left."""
        if not self._dense:
            sparse = x.new_zeros(self.prompts * self.width, *x.shape[1:])
            sparse[self.slot] = x
            x = sparse
        x = x.view(self.prompts, self.width, *x.shape[1:]).transpose(1, 2)
        return x.reshape(self.prompts, x.shape[1], -1, x.shape[-1])

    def _apart(self, x: Tensor, queries: int) -> Tensor:
        x = x.view(self.prompts, x.shape[1], self.width, queries, x.shape[-1]).transpose(1, 2)
        x = x.reshape(self.prompts * self.width, *x.shape[2:])
        return x if self._dense else x[self.slot]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns + self.length


def attend(
    module: Any,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    shared: SharedPromptCache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """One new token per row over its prompt and its own tokens; without `shared`, transformers' sdpa attention.

    query [rows, heads, 1, head size]; keys, values [rows, kv heads, tokens, head size] of the rows' own tokens. Returns
    [rows, 1, heads, head size]. The softmax is one over both parts, so the result is that of ordinary attention.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if shared is None:
        return sdpa_attention_forward(module, query, keys, values, attention_mask, scaling=scaling, **options)
    rows, heads, _, size = query.shape
    kv_heads = keys.shape[1]
    # The heads that read one kv head stand together, so they can share its product instead of repeating it.
    query = query.reshape(rows, kv_heads, heads // kv_heads, size) * scaling
    old = shared.prompt_scores(query, module.layer_idx)
    new = query @ keys.transpose(-1, -2)
    if shared.hidden is not None:
        new += shared.own_mask(keys.shape[2])
    weights = torch.cat([old, new], dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    n_old = old.shape[-1]
    out = shared.prompt_values(weights[..., :n_old], module.layer_idx) + weights[..., n_old:] @ values
    return out.reshape(rows, 1, heads, size), None


def register() -> None:
    """Make `attend` known to transformers as ATTENTION. For everything but this cache it behaves as sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
