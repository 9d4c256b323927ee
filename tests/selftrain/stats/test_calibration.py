"""Brier score, AUC and reliability."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.stats import calibration
from selftrain.stats.calibration import auc, auc_within, platt

JUDGED = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.75, 1.0]), st.booleans()), min_size=1, max_size=30)


def test_by_hand():
    found = calibration([(0.9, True), (0.8, True), (0.8, False), (0.1, False)])
    assert (found.n, found.mean, found.right) == (4, pytest.approx(0.65), 0.5)
    assert found.brier == pytest.approx((0.01 + 0.04 + 0.64 + 0.01) / 4)
    assert found.auc == (1 + 1 + 1 + 0.5) / 4
    assert [(one.low, one.n, one.right) for one in found.bins] == [(0.1, 1, 0), (0.8, 2, 0.5), (0.9, 1, 1)]
    assert found.ece == pytest.approx((0.1 + 2 * 0.3 + 0.1) / 4)


@given(JUDGED)
def test_what_holds_for_all(judged):
    found = calibration(judged)
    assert sum(one.n for one in found.bins) == found.n == len(judged)
    assert all(one.low - 1e-9 <= one.mean <= one.high + 1e-9 for one in found.bins)
    assert 0 <= found.ece <= 1
    assert found.ece**2 <= found.brier + 1e-9  # the bins lose what differs within them (Jensen)
    pairs = [(a > b) + (a == b) / 2 for a, right in judged if right for b, other in judged if not other]
    assert found.auc == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)
    assert auc([(1 - score, right) for score, right in judged]) == (
        pytest.approx(1 - found.auc) if found.auc is not None else None
    )


@pytest.mark.parametrize(("judged", "message"), [([], "no scores"), ([(0.5, True), (1.5, True)], "not 1.5")])
def test_what_has_no_calibration(judged, message):
    with pytest.raises(ValueError, match=message):
        calibration(judged)


@given(st.lists(JUDGED, min_size=1, max_size=6))
def test_auc_within_groups(groups):
    pairs = [
        (a > b) + (a == b) / 2 for group in groups for a, right in group if right for b, other in group if not other
    ]
    assert auc_within(groups) == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_what_tells_problems_apart_helps_no_choice_within_them():
    groups = [[(0.9, True), (0.9, True), (0.9, False)], [(0.1, True), (0.1, False), (0.1, False)]]
    assert auc([one for group in groups for one in group]) == 6 / 9
    assert auc_within(groups) == 0.5


# ---- Platt scaling --------------------------------------------------------------------------------------------------


def chances(values, scale, offset):
    return [1 / (1 + math.exp(-scale * v - offset)) for v in values]


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.3, -2.0), (4.0, 1.0), (-1.0, 0.5)])
def test_platt_finds_what_made_the_outcomes(scale, offset):
    draw = random.Random(1)
    values = [draw.gauss(0, 2) for _ in range(5000)]
    right = [draw.random() < p for p in chances(values, scale, offset)]
    found = platt(values, right)
    assert found == pytest.approx((scale, offset), rel=0.1, abs=0.1)


@pytest.mark.parametrize(("times", "plus"), [(100.0, 5000.0), (1e-3, -7.0), (-2.0, 0.0)])
def test_platt_does_not_depend_on_the_zero_and_the_unit(times, plus):
    draw = random.Random(2)
    values = [draw.gauss(0, 2) for _ in range(300)]
    right = [draw.random() < p for p in chances(values, 1.0, -1.0)]
    moved = [times * v + plus for v in values]
    first, second = chances(values, *platt(values, right)), chances(moved, *platt(moved, right))
    assert second == pytest.approx(first, abs=1e-3)
    assert sum(first) / 300 == pytest.approx((sum(right) + 1) / 302, abs=0.01)


def test_platt_at_the_edges():
    scale, offset = platt([0.0, 1.0, 10.0, 11.0], [False, False, True, True])  # separable: still finite
    assert 0 < scale < 10
    assert chances([0.0, 11.0], scale, offset) == pytest.approx([1 / 4, 3 / 4], abs=0.1)  # Platt's targets
    assert platt([3.0] * 4, [True, True, True, False]) == (0.0, pytest.approx(math.log(0.6834 / 0.3166), abs=0.01))
    scale, offset = platt([1.0, 2.0, 3.0], [True] * 3)
    assert chances([2.0], scale, offset) == pytest.approx([0.8], abs=1e-3)
    assert scale == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="no values"):
        platt([], [])
