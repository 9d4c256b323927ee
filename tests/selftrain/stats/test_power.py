"""Power of the exact McNemar test, against enumeration and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selftrain.stats import connor, detectable_difference, mcnemar_power, paired_test, questions_needed


def enumerated(n, difference, discordance, level):
    """Every table of n questions with its probability, each put to `paired_test`."""
    win, lose = (discordance + difference) / 2, (discordance - difference) / 2
    power = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            same = n - gained - lost
            ways = math.factorial(n) / math.factorial(gained) / math.factorial(lost) / math.factorial(same)
            a = {i: i < lost for i in range(n)}
            b = {i: lost <= i < lost + gained for i in range(n)}
            if paired_test(a, b).p <= 1 - level + 1e-12:
                power += ways * win**gained * lose**lost * (1 - discordance) ** same
    return power


@pytest.mark.parametrize(("difference", "discordance"), [(0.3, 0.6), (-0.3, 0.6), (0.5, 0.5), (0.0, 0.8), (0.9, 1.0)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_power_is_exact(difference, discordance, level):
    expected = enumerated(14, difference, discordance, level)
    assert mcnemar_power(14, difference, discordance, level) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_power_against_simulation():
    rng = np.random.default_rng(0)
    found, rejects = 0, {}
    for gained, lost, _ in rng.multinomial(300, [0.14, 0.06, 0.8], size=1500).tolist():
        if (gained, lost) not in rejects:
            a = {i: gained <= i < gained + lost for i in range(300)}
            b = {i: i < gained for i in range(300)}
            rejects[gained, lost] = paired_test(a, b).p <= 0.05
        found += rejects[gained, lost]
    power = mcnemar_power(300, 0.08, 0.2)
    assert found / 1500 == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / 1500))


@pytest.mark.parametrize(
    ("difference", "discordance", "expected"), [(0.02, 0.1, 2043), (0.04, 0.2, 1021), (0.05, 0.3, 975), (0.1, 0.3, 249)]
)
def test_questions_needed(difference, discordance, expected):
    n = questions_needed(difference, discordance)
    assert n == expected
    assert mcnemar_power(n, difference, discordance) >= 0.8 > mcnemar_power(n - 1, difference, discordance)
    # The normal approximation asks for a little less: about 1/difference questions.
    assert 0.7 / difference < n - connor(difference, discordance) < 2 / difference
    assert questions_needed(-difference, discordance) == n
    assert questions_needed(difference, discordance, power=0.9) > n
    assert questions_needed(difference, discordance, level=0.99) > n
    assert detectable_difference(n, discordance) == pytest.approx(difference, rel=2e-3)


def test_connor_by_hand():
    # (1.959964 * sqrt(0.2) + 0.841621 * sqrt(0.2 - 0.0016))^2 / 0.0016
    assert connor(0.04, 0.2) == pytest.approx((0.876523 + 0.374873) ** 2 / 0.0016, rel=1e-5)


def test_known_benchmarks():
    """30 questions see nothing under 20% of discordance; 800 see 4.5 points."""
    assert detectable_difference(30, 0.2) is None
    assert detectable_difference(800, 0.2) == pytest.approx(0.0453, abs=5e-5)
    assert mcnemar_power(5, 0.5, 0.5) == 0  # six wins of six are the first p below 0.05


def test_refusals():
    for arguments in [(0.0, 0.2), (0.3, 0.2), (0.1, 0.0), (0.1, 1.1), (math.nan, 0.5)]:
        with pytest.raises(ValueError, match=r"finds a difference|discordant|change sides"):
            connor(*arguments)
    with pytest.raises(ValueError, match="at least one question"):
        mcnemar_power(0, 0.1, 0.2)
    for power in (0, 1, math.nan):
        with pytest.raises(ValueError, match="power lies"):
            questions_needed(0.1, 0.2, power)
        with pytest.raises(ValueError, match="power lies"):
            detectable_difference(10, 0.2, power)
    with pytest.raises(ValueError, match="level"):
        mcnemar_power(10, 0.1, 0.2, 1.0)
    with pytest.raises(ValueError, match="more than"):
        questions_needed(1e-5, 0.2)
