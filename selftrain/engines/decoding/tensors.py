"""Tensors of a decode: positions, masks, and parts of a batch. torch is imported inside the functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from selftrain.engines.decoding.inputs import Picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_T = TypeVar("_T")


def positions_of(ids: Sequence[int], picture: Picture | None, image_start: int) -> Tensor:
    """Multimodal rotary positions of a prompt, int64 [3 (time, height, width), tokens]: `get_rope_index` for one image.

    Text counts on in all three; image tokens share one time and count rows and columns from there; the text after the
    image continues from the larger of its sides.
    """
    import torch

    if picture is None:
        return torch.arange(len(ids)).expand(3, -1)
    n = picture.n_tokens
    grid = torch.arange(n)
    image = torch.stack([torch.zeros_like(grid), grid // picture.width, grid % picture.width]) + image_start
    rest = torch.arange(len(ids) - image_start - n) + image_start + max(picture.height, picture.width)
    return torch.cat([torch.arange(image_start).expand(3, -1), image, rest.expand(3, -1)], dim=1)


def only(logits: Tensor, choices: Sequence[tuple[int, list[int]]]) -> Tensor:
    """Logits [rows, vocab] with all tokens of a row but the given ones at -inf, for each (row, tokens)."""
    import torch

    if not choices:
        return logits
    logits = logits.clone()
    for row, tokens in choices:
        left = logits[row, tokens]
        logits[row] = -torch.inf
        logits[row, tokens] = left
    return logits


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to be added to attention scores. Not -inf: a padding row that sees nothing would become NaN."""
    import torch

    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def chunks(items: Sequence[_T], sizes: Sequence[int], limit: int) -> list[list[_T]]:
    """Consecutive parts whose sizes add up to at most `limit`, or that have one item."""
    parts: list[list[_T]] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if not parts or total + size > limit:
            parts.append([])
            total = 0
        parts[-1].append(item)
        total += size
    return parts
