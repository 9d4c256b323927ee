"""Brier score, AUC and reliability."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.stats import calibration
from selftrain.stats.calibration import auc

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
