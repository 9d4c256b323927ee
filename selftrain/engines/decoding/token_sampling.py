"""Drawing the next token of many rows at once, each row with a random stream of its own.

A stream is counter-based: the number used for a token is a hash of (seed, position), so a completion does not depend on
which other rows are decoded beside it, in which order, or after how many earlier calls.
torch is imported inside the functions: importing this file stays cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selftrain.engines.base import SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Sorting a vocabulary of 150 000 for every row and token costs more than a small model. The nucleus nearly always lies
# within this many tokens; where it does not, the row is sorted in full.
NUCLEUS_GUESS = 1024


def uniforms(seeds: Sequence[int], n_draws: int) -> Tensor:
    """One number in (0, 1) per seed and position: float64 [len(seeds), n_draws].

    Each is splitmix64 (Steele, Lea, Flood 2014: the finaliser of a Weyl sequence) of a hashed seed and the position;
    the seed is hashed first so that the streams of neighbouring seeds are not shifted copies of each other.
    Seeds are taken modulo 2**64.
    """
    import numpy as np
    import torch

    def mix(x: np.ndarray) -> np.ndarray:
        # A bijection of uint64 that passes as random; overflow wraps round, which is meant.
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        return x

    golden = np.uint64(0x9E3779B97F4A7C15)
    start = mix(mix(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64) + golden) ^ golden)
    bits = mix(start[:, None] + golden * np.arange(1, n_draws + 1, dtype=np.uint64)[None, :])
    # 48 bits, so that the number stays clear of 0 and of 1 whatever it is multiplied with in float64
    return torch.from_numpy(((bits >> np.uint64(16)).astype(np.float64) + 0.5) * 2.0**-48)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty as in transformers: seen tokens are divided by it where positive, multiplied where negative.

    `logits` [rows, vocab]; `seen` bool, same shape: tokens of the prompt or of the answer so far.
    """
    import torch

    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def filtered(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Temperature, then top-k, then top-p, in the order of transformers: (scores, ids), removed tokens at -inf.

    `logits` float32 [rows, vocab]. Without top-k `scores` has a column for every token and `ids` is None. With top-k it
    has k columns and `ids` [rows, k] tells which tokens they are, in increasing order. Differs from transformers only
    where logits are exactly equal at a boundary: at top-k exactly k stay, at top-p all equal ones stay.
    """
    import torch

    scores = logits / params.temperature
    ids = None
    if 0 < params.top_k < scores.shape[-1]:
        # By token id, not by score: rounding may swap two near-equal scores, and the draw must not notice.
        ids = scores.topk(params.top_k, dim=-1, sorted=False).indices.sort(dim=-1).values
        scores = scores.gather(-1, ids)
    if params.top_p < 1:
        scores = scores.masked_fill(scores < _nucleus_floor(scores, params.top_p)[:, None], -torch.inf)
    return scores, ids


def _nucleus_floor(scores: Tensor, top_p: float) -> Tensor:
    """The smallest score in the nucleus, [rows]: the most probable tokens until their mass reaches `top_p`."""
    import torch

    width = scores.shape[-1]
    total = scores.logsumexp(dim=-1, keepdim=True)
    for guess in (NUCLEUS_GUESS, width) if width > 4 * NUCLEUS_GUESS else (width,):
        best = scores.topk(guess, dim=-1).values if guess < width else scores.sort(dim=-1, descending=True).values
        mass = torch.exp(best - total)
        above = mass.cumsum(dim=-1)
        if guess == width or bool((above[:, -1] >= top_p).all()):
            break
    inside = above - mass < top_p  # the mass of all better tokens does not suffice yet, so this one is needed
    inside[:, 0] = True
    return best.gather(-1, inside.sum(dim=-1, keepdim=True) - 1).squeeze(-1)


def draw(logits: Tensor, params: SamplingParams, uniform: Tensor) -> Tensor:
    """The next token of every row, int64 [rows].

    `logits` float32 [rows, vocab], repetition penalty already applied; `uniform` float64 [rows]. Temperature 0 takes
    the most probable token. Otherwise the inverse of the cumulative distribution over token ids is taken at `uniform`.
    """
    import torch

    if params.temperature == 0:
        return logits.argmax(dim=-1)
    scores, ids = filtered(logits, params)
    # float64: over a large vocabulary float32 sums lose the tail
    cumulative = torch.softmax(scores, dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    # The first token whose cumulative mass exceeds the target; removed tokens add nothing, so they are never it.
    column = torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[-1] - 1)
    return (column if ids is None else ids.gather(-1, column)).squeeze(-1)
