"""How many questions a paired comparison needs, before anything is run.

Two settings answer the same n questions. On a share `discordance` of them exactly one is right, and b is right more
often than a by `difference`, both fractions of 1. The test is the exact McNemar test of `paired_test`.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from selftrain.stats.intervals import z_score

MOST = 10**8  # questions: no benchmark has more, and a difference that needs more is no difference
TAIL = 10  # standard deviations of the number of discordant questions that are summed; the rest has a mass below 1e-20


def mcnemar_power(n: int, difference: float, discordance: float, level: float = 0.95) -> float:
    """The chance that the exact two-sided McNemar test on n questions finds the difference (p <= 1 - level).

    Exact: summed over the number of discordant questions, binomial(n, discordance), of which b wins each with
    probability (1 + difference / discordance) / 2. ValueError: arguments out of range.
    """
    import numpy as np
    from scipy.stats import binom

    _check(difference, discordance)
    z_score(level)
    if n < 1:
        raise ValueError(f"power needs at least one question, not {n}")
    alpha = 1 - level
    spread = TAIL * math.sqrt(n * discordance * (1 - discordance)) + TAIL
    m = np.arange(max(1, math.floor(n * discordance - spread)), min(n, math.ceil(n * discordance + spread)) + 1)
    # The most losses that still reject; -1 where even none does not.
    losses = binom.ppf(alpha / 2, m, 0.5)
    losses = np.where(binom.cdf(losses, m, 0.5) <= alpha / 2, losses, losses - 1)
    win = (1 + difference / discordance) / 2
    rejects = binom.cdf(losses, m, win) + binom.sf(m - losses - 1, m, win)
    return float(min(1.0, np.sum(binom.pmf(m, n, discordance) * rejects)))


def questions_needed(difference: float, discordance: float, power: float = 0.8, level: float = 0.95) -> int:
    """How many questions it takes to find `difference` with the given power.

    The answer of `connor` is the start; the exact test needs a few more, found by bisection on `mcnemar_power`, which
    grows with n but for ripples of a discrete test that may move the answer by a question or two.
    ValueError: arguments out of range, or more than MOST questions.
    """
    low, high = 0, max(1, math.ceil(connor(difference, discordance, power, level)))
    while high > MOST or mcnemar_power(high, difference, discordance, level) < power:
        if high > MOST:
            raise ValueError(f"to find a difference of {difference:g} takes more than {MOST} questions")
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(middle, difference, discordance, level) < power:
            low = middle
        else:
            high = middle
    return high


def detectable_difference(n: int, discordance: float, power: float = 0.8, level: float = 0.95) -> float | None:
    """The smallest difference that n questions find with the given power, to 1e-6; None if even a difference of the
    whole discordance (b never loses) is too small. ValueError: arguments out of range."""
    _check_power(power)
    low, high = 0.0, discordance
    if mcnemar_power(n, high, discordance, level) < power:
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if mcnemar_power(n, middle, discordance, level) < power else (low, middle)
    return high


def connor(difference: float, discordance: float, power: float = 0.8, level: float = 0.95) -> float:
    """Questions by the normal approximation (Connor 1987, Biometrics 43:207): with D the discordance and d the
    difference, ((z_(1-alpha/2) sqrt(D) + z_power sqrt(D - d^2)) / d)^2. ValueError: arguments out of range."""
    _check(difference, discordance)
    _check_power(power)
    if difference == 0:
        raise ValueError("no number of questions finds a difference of 0")
    z = z_score(level)
    reach = z * math.sqrt(discordance) + NormalDist().inv_cdf(power) * math.sqrt(discordance - difference**2)
    return (reach / difference) ** 2


def _check(difference: float, discordance: float) -> None:
    if not 0 < discordance <= 1:
        raise ValueError(f"the share of questions that change sides lies in (0, 1], not {discordance}")
    if not abs(difference) <= discordance:
        raise ValueError(f"a difference of {difference} needs at least as many discordant questions, not {discordance}")


def _check_power(power: float) -> None:
    if not 0 < power < 1:
        raise ValueError(f"a power lies between 0 and 1, not {power}")
