"""ChartQA's relaxed accuracy: the published rule with its edges."""

from __future__ import annotations

import pytest

from data_process.judging.published.chartqa import relaxed, relaxed_verdict
from data_process.schema import Problem


@pytest.mark.parametrize(
    ("prediction", "gold", "right"),
    [
        ("10.5", "10", True),  # the boundary is inside
        ("10.51", "10", False),
        ("-10.5", "-10", True),
        ("10", "-10", False),
        ("2100", "2011", True),  # a year is a number like others
        ("14%", "14", False),
        ("0.14", "14%", True),
        ("14.5%", "14%", True),
        ("1,400", "1400", False),
        ("0.001", "0", False),  # of a gold 0 nothing is within 5%
        ("0", "0", True),
        ("0.0", "0", False),
        ("norway", "Norway", True),
        ("Norway.", "Norway", False),
        ("", "Norway", False),
        ("nan", "5", False),
        ("inf", "5", False),
    ],
)
def test_relaxed(prediction, gold, right):
    assert relaxed(prediction, gold) is right


def test_the_verdict():
    problem = Problem("p", "Which?", "Norway", answer_type="text", alternatives=("Kingdom of Norway",))
    assert relaxed_verdict(problem, " kingdom of norway ").status == "correct"
    assert relaxed_verdict(problem, "Sweden").status == "wrong"
    assert relaxed_verdict(problem, None).status == "abstain"
    number = Problem("n", "How much?", "14", answer_type="number")
    assert relaxed_verdict(number, 14.5).status == "correct"  # JSON may hold a number
