"""Statistics against published values, enumeration and scipy; properties that must hold for every input."""

import itertools
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from selftrain.stats import (
    bootstrap_mean,
    majority,
    paired_bootstrap,
    paired_test,
    pass_at_k,
    vote_at_n,
    wilson,
)

votes = st.lists(st.sampled_from(["A", "B", "C", None]), max_size=7)
fast = settings(max_examples=60, deadline=None)


# Newcombe 1998, Stat Med 17:857, table I, method 3.
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718), (0, 0, 0, 1)],
)
def test_wilson_published(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@fast
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))), st.sampled_from([0.5, 0.95]))
def test_wilson_contains_the_estimate(counts, level):
    correct, n = counts
    low, high = wilson(correct, n, level)
    assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (3, 7), (7, 7), (390, 754)])
def test_wilson_matches_scipy(correct, n):
    theirs = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson(correct, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(("correct", "n", "level"), [(-1, 5, 0.95), (6, 5, 0.95), (math.nan, 5, 0.95), (1, 5, 1.0)])
def test_wilson_refuses(correct, n, level):
    with pytest.raises(ValueError, match=r"possible|level"):
        wilson(correct, n, level)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_edges():
    assert pass_at_k(2000, 1, 1000) == 0.5  # factorials beyond a float
    assert [pass_at_k(4, c, 2) for c in (0, 4, 1)] == [0, 1, 0.5]
    for n, c, k in [(4, 1, 5), (4, 1, 0), (4, 5, 1), (0, 0, 1)]:
        with pytest.raises(ValueError, match=r"pass@|possible"):
            pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("cast", "leaders", "gold", "credit"),
    [
        (["1", "2", "2", "1"], ("1", "2"), "2", 0.5),  # published code gave the first seen, or the last
        (["A", "B"], ("A", "B"), "B", 0.5),
        (["A", "B", "C"], ("A", "B", "C"), "C", 1 / 3),
        (["B", "A", "B"], ("B",), "B", 1.0),
        (["B", "A", "B"], ("B",), "A", 0.0),
        ([None, None, None], (), "D", 0.0),  # abstentions were once read as choice D
        ([None, None, "D"], ("D",), "D", 1.0),
        ([], (), "A", 0.0),
    ],
)
def test_majority(cast, leaders, gold, credit):
    for order in itertools.permutations(cast):
        assert majority(order) == leaders
    assert credit_of(gold, cast) == pytest.approx(credit)


def credit_of(gold, cast):
    leaders = majority(cast)
    return (gold in leaders) / len(leaders) if leaders else 0.0


@fast
@given(votes.flatmap(lambda v: st.tuples(st.just(v), st.permutations(v))))
def test_votes_do_not_depend_on_order(pair):
    first, second = pair
    assert majority(first) == majority(second)
    for n in range(1, len(first) + 1):
        assert vote_at_n(first, "A", n) == vote_at_n(second, "A", n)


@fast
@given(votes.filter(len), st.data())
def test_vote_at_n_is_the_mean_over_all_subsets(answers, data):
    n = data.draw(st.integers(1, len(answers)))
    credits = [credit_of("A", subset) for subset in itertools.combinations(answers, n)]
    assert vote_at_n(answers, "A", n) == pytest.approx(sum(credits) / len(credits), abs=1e-12)


def test_vote_at_n_edges():
    assert vote_at_n(["A"] * 40 + ["B"] * 24, "A", 64) == 1.0
    assert vote_at_n(["A", None, "B", "A"], "A", 1) == 0.5  # majority@1 is mean@1, abstentions included
    for n in (0, 3):
        with pytest.raises(ValueError, match="majority@"):
            vote_at_n(["A", "B"], "A", n)


def outcomes(both, b_only, a_only, neither):
    a = [True] * both + [False] * b_only + [True] * a_only + [False] * neither
    b = [True] * both + [True] * b_only + [False] * a_only + [False] * neither
    return {f"q{i}": x for i, x in enumerate(a)}, {f"q{i}": x for i, x in enumerate(b)}


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((20, 12, 2, 16), 0.0562, 0.3292),  # Newcombe 1998, Stat Med 17:2635
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland, Lydersen and Laake 2014, Stat Med 33:2850 (Bentur et al. 2009)
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman et al. 2000, Statistics with Confidence, table 6.2
    ],
)
def test_paired_interval_published(table, low, high):
    result = paired_test(*outcomes(*table))
    assert (result.low, result.high) == pytest.approx((low, high), abs=6e-4)


@fast
@given(st.tuples(*[st.integers(0, 12)] * 4).filter(any))
def test_paired_test_properties(table):
    a, b = outcomes(*table)
    result, back = paired_test(a, b), paired_test(b, a)
    _, gained, lost, _ = table
    assert (result.n, result.gained, result.lost) == (sum(table), gained, lost)
    assert -1 <= result.low <= result.difference <= result.high <= 1
    assert (back.low, back.high, back.p) == pytest.approx((-result.high, -result.low, result.p))
    # McNemar by hand: both tails of a fair coin.
    tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert result.p == pytest.approx(min(1.0, 2 * tail))
    assert paired_test(dict(reversed(a.items())), b) == result


def test_paired_test_refuses():
    with pytest.raises(ValueError, match=r"1 missing from b: q1; 2 missing from a: q7, q8"):
        paired_test({"q0": True, "q1": True}, {"q0": True, "q7": False, "q8": True})
    with pytest.raises(ValueError, match="no problems"):
        paired_test({}, {})
    with pytest.raises(ValueError, match=r"q0 is 0\.5"):
        paired_test({"q0": 0.5}, {"q0": True})


def test_paired_bootstrap_agrees_with_mcnemar_when_few_problems_changed():
    a, b = outcomes(20, 9, 2, 16)
    difference, low, high, p = paired_bootstrap(a, b, seed=0)
    exact = paired_test(a, b)
    assert (difference, p) == (pytest.approx(exact.difference), pytest.approx(exact.p))
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.06)
    assert paired_bootstrap(dict(reversed(a.items())), b, seed=0) == (difference, low, high, p)


def test_paired_bootstrap_with_fractions_and_many_changes():
    a = {f"q{i}": (i % 4) / 3 for i in range(300)}
    b = {key: 1 - value for key, value in a.items()}
    difference, low, high, p = paired_bootstrap(a, b, seed=3, n_resamples=2000)
    assert low <= difference <= high
    assert p > 0.9  # the differences are symmetric
    assert paired_bootstrap(a, b, seed=4, n_resamples=2000) != (difference, low, high, p)
    better = {key: min(1.0, value + 1 / 3) for key, value in a.items()}
    assert paired_bootstrap(a, better, seed=3, n_resamples=2000)[3] == 1 / 2001
    assert paired_bootstrap(a, a, seed=3, n_resamples=50) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="missing from b: q0"):
        paired_bootstrap(a, {k: v for k, v in a.items() if k != "q0"}, seed=0)


def test_bootstrap_mean():
    mean, low, high = bootstrap_mean([0.0, 1.0] * 200, seed=5)
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.005)  # 0.5 ± 1.96 · 0.025
    assert bootstrap_mean([0.25], seed=0, n_resamples=10) == (0.25, 0.25, 0.25)
    for bad in ([], [math.nan], [[1.0]]):
        with pytest.raises(ValueError, match="bootstrap"):
            bootstrap_mean(bad, seed=0)


def test_importing_needs_no_numpy():
    code = "import sys, selftrain.stats; sys.exit(sum(m in sys.modules for m in ('numpy', 'scipy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
