"""Audits of selections, counted by hand; the test of places against draws without and with bias."""

from __future__ import annotations

from random import Random

import pytest
from scipy.stats import chisquare

from selftrain import stats
from selftrain.test_time import audit
from selftrain.test_time.records import Choice, Outcome, SelectorCall
from selftrain.test_time.tokens import TokenCost


def call(shown, answer, gold="B", named=None) -> SelectorCall:
    cast = tuple(None if letter == "?" else letter for letter in shown)
    return SelectorCall(cast, tuple(letter == gold for letter in cast), answer, answer == gold, named)


def outcome(calls, name="q", choices=None) -> Outcome:
    return Outcome(name, 0.0, 0.0, TokenCost(), choices or (Choice(("B",), 1.0, 1),), calls=tuple(calls))


def test_by_position_and_given_right():
    calls = [
        call("BA", "B"), call("BA", "A"), call("AB", "B"), call("AAB", None),
        call("BB", "B"), call("AC", "B"), call("A?", "A"),
    ]  # fmt: skip
    places = audit.by_position(calls)
    assert {k: (r.n, r.correct) for k, r in places.items()} == {1: (2, 1), 2: (1, 1), 3: (1, 0)}
    assert (places[1].low, places[1].high) == stats.wilson(1, 2)
    counts = audit.given_right(calls)
    assert {k: (r.n, r.correct) for k, r in counts.items()} == {0: (2, 1), 1: (4, 2), 2: (1, 1)}
    assert counts[1].accuracy == 0.5
    assert sum(rate.n for rate in counts.values()) == len(calls)


def test_sources_and_naming():
    calls = [call("AB", "B", named=2), call("AB", "B", named=1), call("AB", "C"), call("AB", None), call("?A", "B")]
    assert audit.sources(calls) == {"candidate": 2, "novel": 2, "abstain": 1}
    assert audit.naming(calls) == {"same": 1, "other": 1, "unnamed": 3}
    assert audit.calls_of([outcome(calls[:2]), outcome(calls[2:])]) == calls


def test_agreement():
    same = outcome([call("AB", "B"), call("BA", "B"), call("AB", "B")])
    half = outcome([call("AB", "A"), call("BA", "B"), call("AB", "A")])
    silent = outcome([call("AB", None), call("BA", None)])  # two silences agree on nothing
    found = audit.agreement([same, half, silent, outcome([call("AB", "B")])])
    assert (found.n, found.pairs, found.unanimous) == (3, pytest.approx((1 + 1 / 3 + 0) / 3), pytest.approx(1 / 3))
    assert audit.agreement([]) == audit.Agreement(0, None, None)
    with pytest.raises(ValueError, match="several"):
        audit.agreement([outcome([call("AB", "B")] * 2, choices=(Choice((), 0, 0),) * 2)])


def test_efficiency():
    assert audit.efficiency(0.6, 0.5, 0.9) == pytest.approx(0.25)
    assert audit.efficiency(0.4, 0.5, 0.9) == pytest.approx(-0.25)
    assert audit.efficiency(0.5, 0.5, 0.5) is None


def test_position_bias_by_hand():
    """Of one size it is the plain chi-square test; sizes are strata."""
    threes = [call("ABC", letter) for letter, times in zip("ABC", (30, 20, 10), strict=True) for _ in range(times)]
    found = audit.position_bias(threes)
    theirs = chisquare([30, 20, 10])
    assert (found.chi_square, found.p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    assert (found.chosen, found.expected) == ({1: 30, 2: 20, 3: 10}, {1: 20, 2: 20, 3: 20})
    assert (found.left_out, found.reliable) == (0, True)
    twos = [call("AB", "A")] * 12 + [call("AB", "B")] * 8
    odd = [call("AA", "A"), call("AB", "C"), call("AB", None)]  # no place is chosen
    both = audit.position_bias(threes + twos + odd)
    assert both.chi_square == pytest.approx(theirs.statistic + chisquare([12, 8]).statistic)
    assert (both.chosen, both.expected[3], both.left_out) == ({1: 42, 2: 28, 3: 10}, 20, 3)
    assert sum(both.chosen.values()) == sum(both.expected.values()) == 80
    assert not audit.position_bias(twos[:8]).reliable
    nothing = audit.position_bias(odd)
    assert (nothing.chi_square, nothing.p, nothing.left_out, nothing.reliable) == (None, None, 3, False)


@pytest.mark.slow
def test_position_bias_finds_bias_and_no_other():
    """Size of the test under no bias (5% expected of 400: 20, standard deviation 4.4), power under bias."""
    random = Random(0)

    def p_value(first):
        """p of a selector that takes the first place with a chance of `first` beyond fair."""
        calls = []
        for _ in range(120):
            shown = random.sample("ABCD", random.choice([2, 3, 4]))
            calls.append(call(shown, shown[0] if random.random() < first else random.choice(shown)))
        return audit.position_bias(calls).p

    assert 7 <= sum(p_value(0.0) < 0.05 for _ in range(400)) <= 36
    assert sum(p_value(0.4) < 0.05 for _ in range(50)) >= 45
