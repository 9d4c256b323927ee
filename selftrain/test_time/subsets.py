"""Which samples, and in which order: seeded subsets and permutations in which every place is used alike.

Samples are named by their index in the pool. The same seed gives the same draws in every process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, permutations
from random import Random


def unordered(pool: int, n: int, most: int, seed: int) -> tuple[list[tuple[int, ...]], bool]:
    """(subsets of n of `pool`, whether these are all): every subset if there are at most `most`, otherwise `most`
    independent seeded draws, sorted inside. ValueError: n not in 1..pool, or `most` below 1."""
    _check(pool, n, most)
    if math.comb(pool, n) <= most:
        return list(combinations(range(pool), n)), True
    random = Random(seed)
    return [tuple(sorted(random.sample(range(pool), n))) for _ in range(most)], False


def ordered(pool: int, n: int, draws: int, seed: int) -> list[tuple[int, ...]]:
    """`draws` ordered subsets of n of `pool`, each uniformly random by itself, with balanced places together.

    In every `pool` draws in a row each sample stands exactly once in each of the n places; in a remainder at most once.
    ValueError: n not in 1..pool, or no draws.
    """
    _check(pool, n, draws)
    stream = _squares(pool, n, Random(seed))
    return [next(stream) for _ in range(draws)]


def orders(n: int, most: int, seed: int) -> list[tuple[int, ...]]:
    """`most` different permutations of n, or all n! if there are not as many; balanced like `ordered`.

    ValueError: n or `most` below 1.
    """
    _check(n, n, most)
    if math.factorial(n) <= most:
        return list(permutations(range(n)))
    # A square may repeat an earlier one: then all its rows are known, and another is drawn.
    found: dict[tuple[int, ...], None] = {}
    stream = _squares(n, n, Random(seed))
    while len(found) < most:
        found.setdefault(next(stream))
    return list(found)


def _squares(pool: int, n: int, random: Random) -> Iterator[tuple[int, ...]]:
    """Rows of random Latin rectangles: `pool` rows of n, each sample once in each column, never twice in a row."""
    while True:
        names = random.sample(range(pool), pool)
        shifts = random.sample(range(pool), n)
        for start in random.sample(range(pool), pool):
            yield tuple(names[(start + shift) % pool] for shift in shifts)


def _check(pool: int, n: int, draws: int) -> None:
    if not 1 <= n <= pool:
        raise ValueError(f"{n} of {pool} samples cannot be shown; sample more or lower n")
    if draws < 1:
        raise ValueError(f"at least one draw is needed, not {draws}")
