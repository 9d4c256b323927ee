"""Whether a score between 0 and 1 says how likely something is right: Brier score, AUC, and a reliability table."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The scores in [low, high), or up to 1 in the last bin."""

    low: float
    high: float
    n: int
    mean: float  # score
    right: float  # share


@dataclass(frozen=True)
class Reliability:
    """How well scores agree with what is right."""

    n: int
    mean: float  # score
    right: float  # share
    brier: float  # mean of (score - right)^2 (Brier 1950)
    auc: float | None  # None: all are right, or none is
    ece: float  # expected calibration error over the bins (Naeini et al. 2015)
    bins: tuple[Bin, ...]  # those that have scores


def calibration(judged: Sequence[tuple[float, bool]], bins: int = BINS) -> Reliability:
    """Of (score, whether it is right). ValueError for none, or a score outside [0, 1]."""
    if not judged:
        raise ValueError("the calibration of no scores")
    if wrong := next((score for score, _ in judged if not 0 <= score <= 1), None):
        raise ValueError(f"a score that is calibrated lies in [0, 1], not {wrong}")
    n = len(judged)
    held: dict[int, list[tuple[float, bool]]] = {}
    for score, right in judged:
        held.setdefault(min(int(score * bins), bins - 1), []).append((score, right))
    found = tuple(
        Bin(k / bins, (k + 1) / bins, len(few), _mean([s for s, _ in few]), _mean([float(r) for _, r in few]))
        for k, few in sorted(held.items())
    )
    return Reliability(
        n=n, mean=_mean([score for score, _ in judged]), right=_mean([float(right) for _, right in judged]),
        brier=_mean([(score - right) ** 2 for score, right in judged]), auc=auc(judged),
        ece=math.fsum(one.n / n * abs(one.mean - one.right) for one in found), bins=found,
    )  # fmt: skip


def auc(judged: Sequence[tuple[float, bool]]) -> float | None:
    """The chance that a right one has a higher score than a wrong one, a tie counting half; None without both kinds."""
    right = [score for score, is_right in judged if is_right]
    wrong = sorted(score for score, is_right in judged if not is_right)
    if not right or not wrong:
        return None
    below = sum(bisect_left(wrong, score) + bisect_right(wrong, score) for score in right)
    return below / 2 / len(right) / len(wrong)


def _mean(values: Sequence[float]) -> float:
    return min(1.0, math.fsum(values) / len(values))


def auc_within(groups: Iterable[Sequence[tuple[float, bool]]]) -> float | None:
    """The same chance for a right and a wrong one of the same group; None if no group has both kinds.

    A score that tells easy problems from hard ones raises `auc`, but not this, which is what a choice among the samples
    of a problem depends on.
    """
    found, pairs = 0.0, 0
    for group in groups:
        n_right = sum(right for _, right in group)
        if (share := auc(group)) is not None:
            n = n_right * (len(group) - n_right)
            found, pairs = found + share * n, pairs + n
    return found / pairs if pairs else None


def platt(values: Sequence[float], right: Sequence[bool]) -> tuple[float, float]:
    """(scale, offset) for which sigmoid(scale * value + offset) is most likely the chance of being right.

    Platt scaling with its smoothed targets (Platt 1999, "Probabilistic outputs for support vector machines"). Values
    that are all the same get the scale 0. ValueError for none.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    if not values:
        raise ValueError("the calibration of no values")
    x, n_right = np.asarray(values, dtype=float), sum(right)
    t = np.where(right, (n_right + 1) / (n_right + 2), 1 / (len(right) - n_right + 2))
    start = math.log(t.mean() / (1 - t.mean()))
    middle, spread = float(x.mean()), float(x.std())
    if not spread:
        return 0.0, start
    x = (x - middle) / spread  # so that the two unknowns are of the same size and hardly depend on each other

    def loss(unknown: Any) -> tuple[float, Any]:
        z = unknown[0] * x + unknown[1]
        slopes = expit(z) - t
        return float((np.logaddexp(0, z) - t * z).sum()), np.array([slopes @ x, slopes.sum()])

    scale, offset = minimize(loss, [0.0, start], jac=True, method="BFGS").x
    return float(scale / spread), float(offset - scale * middle / spread)
