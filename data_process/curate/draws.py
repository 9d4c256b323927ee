"""Seeded draws among problems. They depend on ids and lengths, not on the order of the problems.

s1's draw picks a domain uniformly and then a problem in it with weight 2^-rank, where rank 0 is the longest, without
replacement. Its code picks the last 300 of 1,000 in domains in proportion to a target mix instead of uniformly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from data_process.curate.pool import Item
from data_process.seeds import seed_for


@dataclass(frozen=True)
class TargetMix:
    """From place `start` on, domains are drawn in proportion to `weights` as long as one of them has problems."""

    start: int  # problems drawn before
    weights: Mapping[str, float]


def rank_weights(lengths: Sequence[float]) -> list[float]:
    """2^-rank for each length; rank 0 is the longest, and of equal lengths the first."""
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    weights = [0.0] * len(lengths)
    for rank, k in enumerate(order):
        weights[k] = 2.0**-rank
    return weights


def draw_rank(n: int, rng: Random) -> int:
    """A rank below `n` with probability in proportion to 2^-rank, from one random number: the inverse of the sum."""
    u = rng.random() * (1 - 2.0**-n)
    return min(int(-math.log2(1 - u)), n - 1)


def shortest_first(items: Sequence[Item], seed: int) -> list[Item]:
    """By length, so that the longest are at the end, where taking one out is cheap. The seed orders equal lengths."""
    return sorted(items, key=lambda item: (item.length or 0.0, seed_for(seed, "tie", item.id), item.id))


def longest(items: Sequence[Item], size: int, seed: int) -> list[tuple[Item, str]]:
    """The longest, longest first."""
    ordered = shortest_first(items, seed)[::-1][:size]
    return [(item, f"length {item.length:g}, rank {rank}") for rank, item in enumerate(ordered)]


def at_random(items: Sequence[Item], size: int, seed: int) -> list[tuple[Item, str]]:
    """Each with the same probability."""
    ordered = sorted(items, key=lambda item: item.id)
    return [(item, "") for item in Random(seed_for(seed, "random")).sample(ordered, size)]


def over_domains(
    items: Sequence[Item], size: int, seed: int, *, by_length: bool, target: TargetMix | None = None
) -> list[tuple[Item, str]]:
    """A domain uniformly, then a problem in it, by 2^-rank of its length or uniformly; `size` times.

    A domain without problems left is not drawn. Every item must have a domain, and with `by_length` a length.
    """
    rng = Random(seed_for(seed, "domains", by_length))
    domains: dict[str, list[Item]] = {}
    ordered = shortest_first(items, seed) if by_length else sorted(items, key=lambda item: item.id)
    for item in ordered:
        domains.setdefault(str(item.domain), []).append(item)
    names = sorted(domains)
    drawn: list[tuple[Item, str]] = []
    while len(drawn) < size:
        name, how = _domain(names, len(drawn), target, rng)
        left = domains[name]
        if by_length:
            rank = draw_rank(len(left), rng)
            item = left.pop(len(left) - 1 - rank)
            why = f"{how} {name!r}, rank {rank} of {len(left) + 1} by length"
        else:
            k = rng.randrange(len(left))
            left[k], left[-1] = left[-1], left[k]
            item = left.pop()
            why = f"{how} {name!r}, one of {len(left) + 1}"
        drawn.append((item, why))
        if not left:
            names.remove(name)
    return drawn


def _domain(names: Sequence[str], drawn: int, target: TargetMix | None, rng: Random) -> tuple[str, str]:
    if target is not None and drawn >= target.start:
        weights = [target.weights.get(name, 0.0) for name in names]
        if any(weights):
            return rng.choices(names, weights)[0], "target domain"
    return rng.choice(names), "domain"
