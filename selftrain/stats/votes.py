"""Counting samples: unbiased pass@k, order-free majority votes and their exact mean over subsets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, drawn without replacement, contain one of the c right ones.

    Unbiased for pass@k where 1 - (1 - c/n)^k is not (Chen et al. 2021, arXiv 2107.03374, section 2.1). Exact: integers
    until the last division. ValueError when k is not in 1..n or c not in 0..n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"{c} right samples of {n} is not possible")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs between 1 and n = {n} samples; sample more or ask for a smaller k")
    return float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))


def majority(votes: Sequence[str | None]) -> tuple[str, ...]:
    """Every answer that shares first place, sorted; () when nobody voted. None abstains and is never a vote.

    No order of `votes` changes the result. Of m answers that share first place each earns 1/m of the credit.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    return tuple(sorted(answer for answer, count in counts.items() if count == most))


def vote_at_n(answers: Sequence[str | None], gold: str, n: int) -> float:
    """majority@n: the mean credit of `gold` over all subsets of n of the given answers, abstentions included.

    Exact for any number of answers, without drawing or listing subsets: samples with the same answer are exchangeable,
    so it is enough to count, for each number g of gold votes, the ways in which the other answers get at most g each,
    by how many of them get exactly g (and share the credit). The cost is about n² · N · ln n steps, a fraction of a
    second for n = N = 64. ValueError when n is not in 1..len(answers).
    """
    if not 1 <= n <= len(answers):
        raise ValueError(f"majority@{n} needs between 1 and {len(answers)} answers; sample more or ask for a smaller n")
    counts = Counter(answer for answer in answers if answer is not None)
    gold_count = counts.pop(gold, 0)
    silent = len(answers) - gold_count - counts.total()
    return _vote_at_n(gold_count, tuple(sorted(counts.values())), silent, n)


# Only the counts matter, and a split of many problems has few different ones.
@lru_cache(maxsize=1 << 14)
def _vote_at_n(gold_count: int, others: tuple[int, ...], silent: int, n: int) -> float:
    credit = Fraction(0)
    for g in range(1, min(gold_count, n) + 1):
        rest = n - g
        ways = Counter({(used, 0): math.comb(silent, used) for used in range(min(silent, rest) + 1)})
        for count in others:
            grown: Counter[tuple[int, int]] = Counter()
            for (used, ties), subsets in ways.items():
                for more in range(min(count, g, rest - used) + 1):
                    grown[used + more, ties + (more == g)] += subsets * math.comb(count, more)
            ways = grown
        shared = sum(Fraction(subsets, 1 + ties) for (used, ties), subsets in ways.items() if used == rest)
        credit += math.comb(gold_count, g) * shared
    return float(credit / math.comb(gold_count + sum(others) + silent, n))
