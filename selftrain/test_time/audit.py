"""What is behind a selector's score: places, orders, invented answers, and how much of the possible gain it takes.

Functions of outcomes and their calls. A count stands beside every share, and a share of nothing is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise

from selftrain import stats
from selftrain.test_time.records import Outcome, SelectorCall

LEAST_EXPECTED = 5.0  # expected counts below this make a chi-square p-value unreliable (Cochran 1954)


@dataclass(frozen=True)
class Rate:
    """`correct` of `n`, with its Wilson interval; `correct` may be fractional."""

    n: int
    correct: float
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


def calls_of(outcomes: Iterable[Outcome]) -> list[SelectorCall]:
    return [call for outcome in outcomes for call in outcome.calls]


def by_position(calls: Iterable[SelectorCall]) -> dict[int, Rate]:
    """Accuracy by the place (from 1) of the right candidate, where exactly one candidate is right."""
    return _rates((call.right.index(True) + 1, float(call.correct)) for call in calls if sum(call.right) == 1)


def given_right(calls: Iterable[SelectorCall]) -> dict[int, Rate]:
    """A selector's accuracy by how many of the candidates it was shown are right, 0 included."""
    return _rates((sum(call.right), float(call.correct)) for call in calls)


@dataclass(frozen=True)
class PositionBias:
    """Test of position bias. Under no bias each place is chosen equally often."""

    chosen: dict[int, int]  # place (from 1) -> calls whose answer exactly the candidate there gave
    expected: dict[int, float]
    left_out: int  # calls that name no place: unreadable, novel, or an answer of several candidates
    chi_square: float | None  # None: nothing to test
    p: float | None
    reliable: bool  # whether every expected count reaches LEAST_EXPECTED


def position_bias(calls: Iterable[SelectorCall]) -> PositionBias:
    """Pearson's chi-square test that the chosen candidate stands in each place equally often.

    It needs no gold answers, but orders that do not depend on quality, as samples drawn alike or shuffled have. Picks
    among different numbers of candidates are strata: their statistics and degrees of freedom add up. Picks of one
    problem in several orders are not independent: give one call for each problem where p matters.
    """
    strata: dict[int, Counter[int]] = {}  # candidates shown -> place -> times chosen
    left_out = 0
    for call in calls:
        if call.answer is None or call.shown.count(call.answer) != 1:
            left_out += 1
        else:
            strata.setdefault(len(call.shown), Counter())[call.shown.index(call.answer) + 1] += 1
    chosen: Counter[int] = Counter()
    expected: dict[int, float] = {}
    chi_square, freedom = 0.0, 0
    for size, places in sorted(strata.items()):
        share = places.total() / size
        chosen.update(places)
        for place in range(1, size + 1):
            expected[place] = expected.get(place, 0.0) + share
            chi_square += (places[place] - share) ** 2 / share
        freedom += size - 1
    counts = {place: chosen[place] for place in expected}
    if not freedom:
        return PositionBias(counts, expected, left_out, None, None, False)
    from scipy.stats import chi2

    p = float(chi2.sf(chi_square, freedom))
    least = min(places.total() / size for size, places in strata.items())
    return PositionBias(counts, expected, left_out, chi_square, p, least >= LEAST_EXPECTED)


def sources(calls: Iterable[SelectorCall]) -> Counter[str]:
    """Where selected answers come from: "candidate", "novel" (no candidate gave it), "abstain". They add up to all."""
    return Counter("abstain" if call.answer is None else "novel" if call.novel else "candidate" for call in calls)


def naming(calls: Iterable[SelectorCall]) -> Counter[str]:
    """Does the answer follow from the prediction that the text calls correct? "same", "other", "unnamed"; for the
    reasoning form. They add up to all calls."""
    return Counter(
        "unnamed" if call.named is None else "same" if call.shown[call.named - 1] == call.answer else "other"
        for call in calls
    )


@dataclass(frozen=True)
class Agreement:
    """How far a selection depends on the order of its candidates. Shares are None where no problem had two orders."""

    n: int  # problems that were asked in two orders or more
    pairs: float | None  # mean over problems of the share of pairs of orders with the same readable answer
    unanimous: float | None  # share of problems whose orders all gave the same readable answer


def agreement(outcomes: Iterable[Outcome]) -> Agreement:
    """Agreement of a permutation vote's calls. ValueError for outcomes with several draws, whose calls are mixed."""
    shares = []
    for outcome in outcomes:
        if len(outcome.choices) != 1:
            raise ValueError(f"{outcome.problem_id}: agreement is between orders of one draw, not of several")
        if len(outcome.calls) > 1:
            pairs = list(combinations([call.answer for call in outcome.calls], 2))
            shares.append(sum(a == b and a is not None for a, b in pairs) / len(pairs))
    if not shares:
        return Agreement(0, None, None)
    return Agreement(len(shares), sum(shares) / len(shares), sum(share == 1 for share in shares) / len(shares))


def efficiency(chosen: float, mean: float, best: float) -> float | None:
    """How much of the possible gain a selector takes: (chosen - mean@1) / (pass@N - mean@1), accuracies on the same
    samples. Negative when it chooses worse than at random; None when there is nothing to gain."""
    return None if best == mean else (chosen - mean) / (best - mean)


def refinement(outcomes: Iterable[Outcome]) -> list[Counter[str]]:
    """What each round of refinement did: "kept" (right, stays right), "fixed", "broke", "missed" (wrong, stays wrong).

    An unreadable attempt counts as wrong. Each round's counts add up to the problems.
    """
    names = {(True, True): "kept", (False, True): "fixed", (True, False): "broke", (False, False): "missed"}
    rounds: list[Counter[str]] = []
    for outcome in outcomes:
        for k, (before, after) in enumerate(pairwise(outcome.texts)):
            if k == len(rounds):
                rounds.append(Counter())
            rounds[k][names[before.right, after.right]] += 1
    return rounds


def _rates(cases: Iterable[tuple[int, float]]) -> dict[int, Rate]:
    groups: dict[int, list[float]] = {}
    for key, credit in cases:
        groups.setdefault(key, []).append(credit)
    rates = {}
    for key, credits in sorted(groups.items()):
        correct = min(math.fsum(credits), float(len(credits)))
        rates[key] = Rate(len(credits), correct, *stats.wilson(correct, len(credits)))
    return rates
