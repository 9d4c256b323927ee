"""How sure one number is: Wilson interval of a proportion, percentile bootstrap of a mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

RESAMPLES = 10_000  # draws of a bootstrap: the Monte-Carlo error of a p of 0.05 is then 0.002
# Numbers drawn at once, so that 10,000 resamples of a large split need tens of megabytes, not gigabytes.
BLOCK = 1 << 21


def wilson(correct: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion, as fractions (Wilson 1927; Newcombe 1998, Stat Med 17:857, method 3).

    `correct` may be fractional: a tied majority earns part of a point and mean@N sums fractions. An outcome in [0, 1]
    varies at most as much as a coin of the same mean, so the interval is then wider than it need be, never narrower.
    Without a single problem nothing is known and the interval is (0, 1). ValueError: counts or level out of range.
    """
    if not 0 <= correct <= n:  # also refuses NaN
        raise ValueError(f"{correct} correct of {n} is not possible")
    z = z_score(level)
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
    z_score(level)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [data[rng.integers(0, data.size, (rows, data.size))].mean(axis=1) for rows in blocks(n_resamples, data.size)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = math.fsum(data) / data.size
    return mean, min(float(low), mean), max(float(high), mean)


def blocks(rows: int, width: int) -> Iterable[int]:
    """`rows` in portions of at most BLOCK // width."""
    size = max(BLOCK // width, 1)
    return (min(size, rows - start) for start in range(0, rows, size))


def z_score(level: float) -> float:
    """How many standard errors a two-sided interval of `level` reaches; ValueError outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, not {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
