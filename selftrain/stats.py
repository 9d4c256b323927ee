"""Intervals, paired tests, votes and pass@k: how sure a number is, and how to count one that is a tie.

Functions of counts, votes, or per-problem outcomes joined by id: no order of votes or problems changes a result.
Proportions and differences are fractions of 1, never percent. numpy and scipy are imported inside the functions that
need them, so that importing this module stays cheap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000  # draws of a bootstrap: the Monte-Carlo error of a p of 0.05 is then 0.002
BLOCK = (
    1 << 21
)  # numbers drawn at once, so that 10,000 resamples of a large split need tens of megabytes, not gigabytes


# ---------------------------------------------------------------------------------------------- one proportion


def wilson(correct: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion, as fractions (Wilson 1927; Newcombe 1998, Stat Med 17:857, method 3).

    `correct` may be fractional: a tied majority earns part of a point and mean@N sums fractions. An outcome in [0, 1]
    varies at most as much as a coin of the same mean, so the interval is then wider than it need be, never narrower.
    Without a single problem nothing is known and the interval is (0, 1). ValueError: counts or level out of range.
    """
    _check_counts(correct, n)
    z = _z(level)
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    denominator = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / denominator
    # Rounding may leave 1e-17 where the formula gives exactly 0 or 1, or push an end past the estimate.
    low = 0.0 if correct == 0 else min(max(centre - half, 0.0), p)
    high = 1.0 if correct == n else max(min(centre + half, 1.0), p)
    return low, high


def standard_error(correct: float, n: int) -> float:
    """The binomial standard error of correct / n, as a fraction. ValueError when n is 0 or the counts disagree."""
    _check_counts(correct, n)
    if n == 0:
        raise ValueError("a standard error needs at least one problem")
    p = correct / n
    return math.sqrt(p * (1 - p) / n)


# ---------------------------------------------------------------------------------------------- pass@k


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


def mean_pass_at_k(counts: Iterable[tuple[int, int]], k: int) -> float:
    """The mean of pass@k over problems; `counts` holds (n, c) for each. ValueError when there are none."""
    values = [pass_at_k(n, c, k) for n, c in counts]
    if not values:
        raise ValueError("mean pass@k of no problems")
    return math.fsum(values) / len(values)


# ---------------------------------------------------------------------------------------------- votes


@dataclass(frozen=True)
class Vote:
    """The outcome of a majority vote: every answer that shares first place, and how many votes each of them had."""

    answers: tuple[str, ...]  # sorted, so that two votes over the same samples are equal; empty when nobody voted
    votes: int

    def credit(self, gold: str) -> float:
        """What a fair draw among the tied answers earns on average: 1/m for one right answer among m, otherwise 0."""
        return 1 / len(self.answers) if gold in self.answers else 0.0


def majority(votes: Sequence[str | None]) -> Vote:
    """Count the votes. None abstains and is never a vote; no order of `votes` changes the result."""
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    return Vote(tuple(sorted(answer for answer, count in counts.items() if count == most)), most)


def majority_credit(votes: Sequence[str | None], gold: str) -> float:
    """Expected credit of the majority: 1 when gold leads alone, 1/m when it ties with m - 1 others, otherwise 0."""
    return majority(votes).credit(gold)


def vote_at_n(answers: Sequence[str | None], gold: str, n: int) -> float:
    """majority@n: the mean of `majority_credit` over all subsets of n of the given answers, abstentions included.

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
    credit = Fraction(0)
    for g in range(1, min(gold_count, n) + 1):
        rest = n - g
        ways = Counter({(used, 0): math.comb(silent, used) for used in range(min(silent, rest) + 1)})
        for count in counts.values():
            grown: Counter[tuple[int, int]] = Counter()
            for (used, ties), subsets in ways.items():
                for more in range(min(count, g, rest - used) + 1):
                    grown[used + more, ties + (more == g)] += subsets * math.comb(count, more)
            ways = grown
        shared = sum(Fraction(subsets, 1 + ties) for (used, ties), subsets in ways.items() if used == rest)
        credit += math.comb(gold_count, g) * shared
    return float(credit / math.comb(len(answers), n))


# ---------------------------------------------------------------------------------------------- paired comparisons


@dataclass(frozen=True)
class PairedTest:
    """Two systems on the same problems. `difference`, `low` and `high` are fractions, b minus a."""

    n: int
    gained: int  # a wrong, b right
    lost: int  # a right, b wrong
    difference: float
    low: float
    high: float
    p: float  # two-sided


def paired_test(a: Mapping[str, bool], b: Mapping[str, bool], level: float = 0.95) -> PairedTest:
    """Did b answer more of the same problems than a? Joined by problem id.

    p is the exact McNemar test: if a and b are equally good, each problem on which they differ is a fair coin (p is 1
    where they never differ).
    The interval is method 10 of Newcombe 1998 (Stat Med 17:2635): the Wilson intervals of both accuracies, combined
    with their correlation, which is made smaller by n/2 when positive. It keeps a width when no problem changed sides.
    Interval and test are built differently, so near the border one may say "significant" where the other does not.
    ValueError when the ids differ (it names them), when there are none, or when an outcome is neither right nor wrong.
    """
    ids = _common_ids(a, b)
    for system in (a, b):
        for problem_id in ids:
            # A tied vote is worth a half, and bool(0.5) would quietly make it right.
            if system[problem_id] not in (True, False):
                raise ValueError(
                    f"{problem_id} is {system[problem_id]!r}, neither right nor wrong; use paired_bootstrap"
                )
    n = len(ids)
    both = sum(bool(a[i] and b[i]) for i in ids)
    gained = sum(bool(b[i] and not a[i]) for i in ids)
    lost = sum(bool(a[i] and not b[i]) for i in ids)
    neither = n - both - gained - lost

    p = 1.0
    if gained + lost:
        from scipy.stats import binomtest

        p = float(binomtest(gained, gained + lost, 0.5).pvalue)

    p_a, p_b = (both + lost) / n, (both + gained) / n
    low_a, high_a = wilson(both + lost, n, level)
    low_b, high_b = wilson(both + gained, n, level)
    product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    cross = both * neither - gained * lost
    phi = (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(product) if product else 0.0
    difference = (gained - lost) / n
    below, above = p_b - low_b, high_b - p_b  # how far the interval of b reaches to each side
    a_below, a_above = p_a - low_a, high_a - p_a
    low = difference - math.sqrt(max(below**2 - 2 * phi * below * a_above + a_above**2, 0.0))
    high = difference + math.sqrt(max(above**2 - 2 * phi * above * a_below + a_below**2, 0.0))
    return PairedTest(n, gained, lost, difference, max(low, -1.0), min(high, 1.0), min(p, 1.0))


def paired_bootstrap(
    a: Mapping[str, float], b: Mapping[str, float], seed: int, n_resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float, float, float]:
    """(difference, low, high, p) of mean(b) - mean(a), for outcomes such as the fractional credit of a tied vote.

    Joined by problem id. The interval is the percentile bootstrap over problems. p is the two-sided sign-flip test: if
    the two systems were alike, each problem's difference would be as likely with the other sign. With at most
    n_resamples sign patterns all of them are tried, so p is exact and for plain right or wrong equals McNemar's;
    otherwise they are drawn, and p is never below 1 / (n_resamples + 1). The result depends on the outcomes and the
    seed, not on the order of the mappings. ValueError when the ids differ (it names them) or there are none.
    """
    import numpy as np

    ids = _common_ids(a, b)
    deltas = np.array([float(b[i]) - float(a[i]) for i in ids])
    difference, low, high = bootstrap_mean(deltas, seed, n_resamples, level)
    return difference, low, high, _sign_flip_p(deltas, seed, n_resamples)


def bootstrap_mean(
    values: Iterable[float], seed: int, n_resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high): the percentile bootstrap (Efron 1979) of the mean of `values`, shape (n,), in their unit.

    The same values in the same order and the same seed give the same interval on any machine.
    ValueError: no values, one that is not finite, or fewer than one resample.
    """
    import numpy as np

    data = np.asarray(values if hasattr(values, "__len__") else list(values), dtype=float)
    if data.ndim != 1 or data.size == 0:
        raise ValueError(f"a bootstrap needs a flat list of at least one value, not shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError("a bootstrap needs finite values")
    if n_resamples < 1:
        raise ValueError("a bootstrap needs at least one resample")
    _z(level)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [data[rng.integers(0, data.size, (rows, data.size))].mean(axis=1) for rows in _blocks(n_resamples, data.size)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = math.fsum(data) / data.size
    return mean, min(float(low), mean), max(float(high), mean)


def _sign_flip_p(deltas: np.ndarray, seed: int, n_resamples: int) -> float:
    import numpy as np

    changed = deltas[deltas != 0]  # a problem that did not change adds nothing under either sign
    if changed.size == 0:
        return 1.0
    # Thirds and halves add up to slightly different floats in another order: "as extreme" must include those.
    threshold = abs(math.fsum(changed)) - 1e-9
    if 2.0**changed.size <= n_resamples:
        patterns = np.arange(2**changed.size)[:, None] >> np.arange(changed.size) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ changed) >= threshold))
    rng = np.random.default_rng([seed, 1])  # its own stream, so that the interval's draws do not move it
    extreme = sum(
        int((np.abs((1 - 2 * rng.integers(0, 2, (rows, changed.size), dtype=np.int8)) @ changed) >= threshold).sum())
        for rows in _blocks(n_resamples, changed.size)
    )
    return (extreme + 1) / (n_resamples + 1)  # the observed pattern is one of those the null could give


def _blocks(rows: int, width: int) -> Iterable[int]:
    size = max(BLOCK // width, 1)
    return (min(size, rows - start) for start in range(0, rows, size))


def _common_ids(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The ids of both, sorted, so that nothing depends on the order in which a file was written."""
    lacking = [
        f"{len(missing)} missing from {name}: {', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}"
        for name, missing in (("b", sorted(a.keys() - b.keys())), ("a", sorted(b.keys() - a.keys())))
        if missing
    ]
    if lacking:
        raise ValueError(f"a paired comparison needs the same problems on both sides; {'; '.join(lacking)}")
    if not a:
        raise ValueError("a paired comparison of no problems")
    return sorted(a)


def _check_counts(correct: float, n: int) -> None:
    if not 0 <= correct <= n:  # also refuses NaN
        raise ValueError(f"{correct} correct of {n} is not possible")


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
