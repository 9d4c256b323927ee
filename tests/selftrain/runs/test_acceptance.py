"""Which iteration is the result, and when a run stops, from outcomes on dev."""

from __future__ import annotations

import pytest

from selftrain.config import AcceptanceConfig, ConfigError, load_config
from selftrain.runs.acceptance import accepted_of, decide, reason_to_stop
from selftrain.test_time.results import EvaluatedProblem, StrategyResult

N = 200


def evaluated(iteration: int, right: int, solved: int = N) -> list[EvaluatedProblem]:
    """The first `right` problems are answered rightly, the first `solved` by some sample."""

    def credit(wanted: bool) -> StrategyResult:
        return StrategyResult(credit=float(wanted), abstain=0)

    return [
        EvaluatedProblem(
            id=str(i), gold="A", iteration=iteration, samples=(),
            strategies={"greedy": credit(i < right), "pass": credit(i < solved)},
        )
        for i in range(N)
    ]  # fmt: skip


def dev_of(*right: int) -> dict[int, list[EvaluatedProblem]]:
    return {k: evaluated(k, r) for k, r in enumerate(right)}


@pytest.mark.parametrize(
    ("rule", "right", "statuses", "accepted"),
    [
        ("best", [100], "", 0),
        ("best", [100, 80], "e", 0),
        ("best", [80, 100, 100], "ae", 1),  # of equals, the one that took less training
        ("best", [100, 100], "e", 0),
        ("best", [0, 20, 60, 40], "aae", 2),
        ("best", [100, 101], "a", 1),
        ("interval", [100, 101], "e", 0),  # a gain within chance is none
        ("interval", [100, 101, 140], "ea", 2),
        ("interval", [100, 140, 100], "aw", 1),
        ("interval", [100, 60], "w", 0),
        ("interval", [100, 140, 139, 100, 170], "aewa", 4),
    ],
)
def test_decisions(rule, right, statuses, accepted):
    found = decide(dev_of(*right), AcceptanceConfig(rule=rule), 0)
    assert "".join(one.status[0] for one in found) == statuses
    assert accepted_of(found) == accepted


def test_a_decision_says_its_evidence():
    (one,) = decide(dev_of(100, 140), AcceptanceConfig(rule="interval"), 0)
    assert str(one).startswith("iteration 1 is accepted: greedy on dev +20.0 points [+")


@pytest.mark.parametrize(
    ("settings", "right", "why"),
    [
        ({}, [100, 90, 80], None),
        ({"patience": 2}, [100, 120, 110], None),
        ({"patience": 2}, [100, 120, 110, 120], "no gain on dev since iteration 1, for 2 iterations"),
        ({"patience": 1}, [100, 100], "no gain on dev above the base model, for 1 iteration "),
    ],
)
def test_patience(settings, right, why):
    dev, rules = dev_of(*right), AcceptanceConfig(**settings)
    found = reason_to_stop(dev, decide(dev, rules, 0), rules, 0)
    assert found is None if why is None else found is not None and found.startswith(why)


@pytest.mark.parametrize(("solved", "most", "stops"), [(150, 0.2, True), (150, 0.3, False), (198, 0.0, False)])
def test_collapse_of_the_oracle(solved, most, stops):
    """Only a drop beyond chance counts."""
    dev, rules = {0: evaluated(0, 100), 1: evaluated(1, 100, solved)}, AcceptanceConfig(max_pass_drop=most or 1e-9)
    found = reason_to_stop(dev, decide(dev, rules, 0), rules, 0)
    assert (found is not None) == stops
    if found:
        assert "fell by 25.0 points" in found


def test_a_collapse_that_cannot_be_seen_is_refused():
    with pytest.raises(ConfigError, match="add pass to evaluation"):
        load_config(None, ["acceptance.max_pass_drop=0.1", "evaluation.strategies=[greedy]"])
