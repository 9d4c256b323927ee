"""Tensors of a decode: positions, masks, and parts of a batch. torch is imported inside the functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from selftrain.engines.decoding.inputs import Prompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_T = TypeVar("_T")


def positions_of(prompt: Prompt) -> Tensor:
    """Multimodal rotary positions of a prompt, int64 [3 (time, height, width), tokens]: `get_rope_index` for images.

    Text counts on in all three; the tokens of an image share one time and count rows and columns from there; the text
    after it continues from the larger of its sides.
    """
    import torch

    parts, end, place = [], 0, 0  # index of the next token; its position
    for picture, start in zip(prompt.pictures, prompt.starts, strict=True):
        parts.append((torch.arange(start - end) + place).expand(3, -1))
        place += start - end
        grid = torch.arange(picture.n_tokens)
        parts.append(torch.stack([torch.zeros_like(grid), grid // picture.width, grid % picture.width]) + place)
        place += max(picture.height, picture.width)
        end = start + picture.n_tokens
    parts.append((torch.arange(len(prompt.ids) - end) + place).expand(3, -1))
    return torch.cat(parts, dim=1)


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


def equal_parts(rows: Sequence[_T], most: int) -> list[list[_T]]:
    """The rows in as few parts of at most `most` as there can be, which differ in size by one at most."""
    count = math.ceil(len(rows) / most)
    edges = [len(rows) * i // count for i in range(count + 1)] if rows else [0]
    return [list(rows[a:b]) for a, b in itertools.pairwise(edges)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch is about memory. On a CPU it is a RuntimeError like others, known by its text alone."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
