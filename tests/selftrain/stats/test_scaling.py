"""s1's metrics from its published points, and properties of slopes, bounds and frontiers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.stats import control, frontier, performance, sample_control, scaling

# arXiv 2501.19393, tables 11 to 13 and figure 1: (mean thinking tokens, right of 30 AIME24 questions) of each run.
PUBLISHED = {
    "token": [(7939, 8), (7158, 9), (8263, 10), (7108, 10), (7500, 12)],
    "token+bf": [(1024, 1), (2048, 9), (4031, 10), (5664, 10), (6330, 12)],
    "step": [(7252, 10), (6277, 7), (5396, 10), (5552, 11), (7551, 10)],
    "step+bf": [(1517, 7), (2963, 7), (4636, 10), (5409, 11), (7551, 10)],
    "class": [(8033, 9), (9651, 11)],
    "bf": [(500, 0), (1000, 4), (2000, 9), (3933, 13), (5300, 15), (6657, 16), (7319, 17)],
}
fast = settings(max_examples=80, deadline=None)
points = st.lists(st.tuples(st.integers(1, 10**5), st.integers(0, 30).map(lambda c: c / 30)), max_size=8)


def runs(method):
    return [(tokens, right / 30) for tokens, right in PUBLISHED[method]]


@pytest.mark.parametrize(
    ("method", "per_doubling", "published", "best"),
    [
        ("token", -23.767, -24, 40.0), ("token+bf", 13.158, 13, 40.0), ("step", 2.929, 3, 36.7),
        ("step+bf", 6.410, 6, 36.7), ("class", 25.182, 25, 36.7), ("bf", 14.822, 15, 56.7),
    ],
)  # fmt: skip
def test_published_scaling_is_points_per_doubling(method, per_doubling, published, best):
    found = scaling(runs(method))
    assert found.per_doubling == pytest.approx(per_doubling, abs=5e-4)
    assert round(found.per_doubling) == published
    assert found.pairs == math.comb(len(PUBLISHED[method]), 2)
    assert round(100 * performance([accuracy for _, accuracy in runs(method)]), 1) == best
    # The formula as printed gives another value under any scale of tokens: negative control.
    assert all(round(found.per_token * scale) != published for scale in (1, 100, 1000, 1024))


@pytest.mark.parametrize(
    ("method", "per_thousand"),
    [("token", -4.76), ("token+bf", 6.73), ("step", 0.64), ("step+bf", 2.475), ("class", 4.14)],
)
def test_linear_tokens(method, per_thousand):
    """From accuracies rounded to 0.1 points, as published; exact thirtieths give -4.82, 6.72, 0.61, 2.47, 4.12."""
    rounded = [(tokens, round(accuracy, 3)) for tokens, accuracy in runs(method)]
    assert 1000 * scaling(rounded).per_token == pytest.approx(per_thousand, abs=0.005)


@fast
@given(points, st.randoms(use_true_random=False))
def test_scaling_properties(runs, random):
    found = scaling(runs)
    assert found == scaling(random.sample(runs, len(runs)))
    assert found.pairs + found.skipped == math.comb(len(runs), 2)
    assert (found.per_doubling is None) == (found.pairs == 0)
    if found.pairs:
        doubled = scaling([(2 * tokens, accuracy) for tokens, accuracy in runs])
        assert doubled.per_doubling == pytest.approx(found.per_doubling, abs=1e-6, rel=1e-6)
        assert doubled.per_token == pytest.approx(found.per_token / 2, abs=1e-9)


def test_scaling_of_a_line_in_log_tokens():
    line = scaling([(100 * 2**k, 0.1 * k) for k in range(6)])
    assert line.per_doubling == pytest.approx(10)
    same = scaling([(100, 0.5), (100, 0.6), (200, 0.6)])  # two limits that were never reached
    assert (same.pairs, same.skipped) == (2, 1)


@pytest.mark.parametrize("bad", [(0, 0.5), (-1, 0.5), (math.inf, 0.5), (10, 40.0), (10, math.nan)])
def test_scaling_refuses(bad):
    with pytest.raises(ValueError, match=r"token axis|fraction of 1"):
        scaling([bad, (20, 0.5)])


def test_control_per_run_and_per_sample():
    """A mean within the limit hides samples beyond it."""
    used = [[900, 1500, 300], [2000, 2100, 100]]
    limits = [(None, 1024.0), (None, 2048.0)]
    assert control([sum(run) / 3 for run in used], limits) == 1
    assert sample_control(used, limits) == pytest.approx(4 / 6)
    assert control([5, 5, 5, 5], [(5, 5), (None, 4), (6, None), (None, None)]) == 0.5  # ends are included
    with pytest.raises(ValueError, match="every run needs its own"):
        control([1.0], [])
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="no samples"):
            sample_control(nothing, [(None, None)] * len(nothing))
    with pytest.raises(ValueError, match="no runs"):
        performance([])


@fast
@given(st.dictionaries(st.text("abc", max_size=3), st.tuples(st.integers(1, 20), st.integers(0, 5)), max_size=8))
def test_frontier(settings_):
    kept = frontier(settings_)
    assert bool(kept) == bool(settings_)
    chain = [settings_[name] for name in kept]
    assert chain == sorted(chain)
    for name, (tokens, accuracy) in settings_.items():
        better = any(t <= tokens and a >= accuracy and (t, a) != (tokens, accuracy) for t, a in settings_.values())
        assert (name in kept) == (not better)
