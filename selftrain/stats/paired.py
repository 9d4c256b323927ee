"""Two systems on the same problems: exact McNemar with Newcombe's interval, paired bootstrap with a sign-flip test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selftrain.stats.intervals import RESAMPLES, blocks, bootstrap_mean, wilson

if TYPE_CHECKING:
    import numpy as np


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
        for rows in blocks(n_resamples, changed.size)
    )
    return (extreme + 1) / (n_resamples + 1)  # the observed pattern is one of those the null could give


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
