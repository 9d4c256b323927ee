"""s1's three metrics of a test-time method (arXiv 2501.19393, section 3.2), and the frontier at equal tokens.

A method is a set of settings ("runs"), each with its mean thinking tokens and its accuracy. Accuracies are fractions
of 1 on the way in; Scaling comes out in percentage points, because that is how it is published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

Bounds = tuple[float | None, float | None]  # tokens at least, tokens at most; None is no bound


@dataclass(frozen=True)
class Scaling:
    """How accuracy grows with thinking. None where no two runs differ in tokens."""

    per_doubling: float | None  # points per doubling of tokens
    per_token: float | None  # points per token: the formula as the paper prints it
    pairs: int  # pairs of runs that the means are over
    skipped: int  # pairs whose runs used equally many tokens: a slope does not exist


def scaling(points: Sequence[tuple[float, float]]) -> Scaling:
    """Scaling of `points`, (mean thinking tokens, accuracy as a fraction) of each run, in any order.

    The mean over all pairs of runs of the difference in points over the difference in tokens (arXiv 2501.19393,
    equation 2). The published values come out of it only with log2 tokens, that is as points per doubling; both are
    given. Equal tokens (limits that were never reached give the same run twice) make no slope: those pairs are counted.
    ValueError: tokens that are not positive, or an accuracy outside [0, 1].
    """
    for tokens, accuracy in points:
        if not 0 < tokens < math.inf:
            raise ValueError(f"a run with {tokens} thinking tokens has no place on a token axis")
        if not 0 <= accuracy <= 1:
            raise ValueError(f"an accuracy is a fraction of 1, not {accuracy}")
    logs, slopes, skipped = [], [], 0
    for (a, f_a), (b, f_b) in combinations(sorted(points), 2):
        if a == b:
            skipped += 1
            continue
        logs.append(100 * (f_b - f_a) / (math.log2(b) - math.log2(a)))
        slopes.append(100 * (f_b - f_a) / (b - a))
    if not logs:
        return Scaling(None, None, 0, skipped)
    return Scaling(math.fsum(logs) / len(logs), math.fsum(slopes) / len(slopes), len(logs), skipped)


def control(used: Sequence[float], bounds: Sequence[Bounds]) -> float:
    """Share of runs whose mean thinking tokens `used` lie within what was asked of them, `bounds`, ends included.

    That is s1's Control (equation 1). A mean hides samples beyond the bound: give `sample_control` beside it.
    ValueError: no runs, or unequally many.
    """
    return sample_control([[tokens] for tokens in used], bounds)


def sample_control(used: Sequence[Sequence[float]], bounds: Sequence[Bounds]) -> float:
    """Share of samples, over all runs, whose own thinking tokens lie within the bounds of their run, ends included.

    `used[i]` holds the tokens of each sample of run i. ValueError: no samples, or not one pair of bounds for each run.
    """
    if len(used) != len(bounds):
        raise ValueError(f"{len(used)} runs and bounds for {len(bounds)}: every run needs its own")
    inside = [_within(tokens, low, high) for run, (low, high) in zip(used, bounds, strict=True) for tokens in run]
    if not inside:
        raise ValueError("Control of no samples")
    return sum(inside) / len(inside)


def _within(tokens: float, low: float | None, high: float | None) -> bool:
    return (low is None or tokens >= low) and (high is None or tokens <= high)


def performance(accuracies: Sequence[float]) -> float:
    """s1's Performance: the best accuracy of any run. On the split it is reported on, that is a choice made on it:
    see `choose_on_dev`. ValueError when there are none."""
    if not accuracies:
        raise ValueError("Performance of no runs")
    return max(accuracies)


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the settings that no other one beats: (tokens per question, accuracy), cheapest first.

    A setting is beaten by one with no more tokens and no less accuracy, and one of the two strictly better.
    """

    def beaten(name: str) -> bool:
        tokens, accuracy = points[name]
        return any(t <= tokens and a >= accuracy and (t < tokens or a > accuracy) for t, a in points.values())

    return sorted((name for name in points if not beaten(name)), key=lambda name: (points[name], name))
