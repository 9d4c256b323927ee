"""Honest accuracy: recounted by hand for every way to answer, and absent where the data set cannot tell."""

from __future__ import annotations

import pytest
from hypothesis import given

from data_process.schema import Problem
from selftrain.engines.base import Completion
from selftrain.test_time import results, strategies
from selftrain.test_time.records import Attempt, attempt
from selftrain.test_time.strategy_config import draw_pool
from tests.selftrain.test_time import helpers

TRIANGLE = Problem(
    id="t", question="Find the third angle x of the triangle.", answer="B", choices=("60", "62", "118", "120"),
    meta={"variant": "triangle2", "labels": ["80", "38"], "value": 62},
)  # fmt: skip
HONEST = "I see 80 and 38. 80+38=118. 180-118=62. 62 is (B).\nAnswer: (B)"
LUCKY = "I see 80 and 38. 80+38=117. 180-117=63. 63 is (B).\nAnswer: (B)"
MISREAD = "I see 80 and 40. 80+40=120. 180-120=60. 60 is (A).\nAnswer: (A)"
WRONG_RULE = "I see 80 and 38. 80+38=118. 118 is (C).\nAnswer: (C)"
BARE = "Answer: (B)"
SILENT = "I see 80 and 38."


def outcome(name, tmp_path, samples, greedy=HONEST, selected=BARE, problem=TRIANGLE):
    """One strategy on one problem, whose samples and selector's answer are given."""
    left = list(samples)

    def respond(request, seed):
        if helpers.is_selection(request.prompt):
            return selected
        return left.pop(0) if len(request.seeds) > 1 else greedy

    with helpers.sampler(tmp_path, respond) as sampler:
        plan = helpers.plan(len(samples))
        needs = strategies.STRATEGIES[name].needs_pool
        pool = draw_pool([problem], sampler, plan) if needs else None
        (found,) = strategies.run(name, [problem], sampler, plan, pool)
    return found


@pytest.mark.parametrize(
    ("name", "texts", "credit", "honest", "faults"),
    [
        ("greedy", {"greedy": HONEST}, 1, 1, {}),
        ("greedy", {"greedy": LUCKY}, 1, 0, {}),
        ("greedy", {"greedy": BARE}, 1, 0, {}),
        ("greedy", {"greedy": MISREAD}, 0, 0, {"misread": 1}),
        ("greedy", {"greedy": SILENT}, 0, 0, {}),
        ("mean", {"samples": [HONEST, LUCKY, WRONG_RULE, SILENT]}, 1 / 2, 1 / 4, {"wrong_rule": 1 / 4}),
        ("majority", {"samples": [HONEST, LUCKY, WRONG_RULE]}, 1, 1 / 2, {"wrong_rule": 0}),
        ("majority", {"samples": [MISREAD, MISREAD, LUCKY]}, 0, 0, {"misread": 1}),
        ("select", {"samples": [HONEST, LUCKY, MISREAD], "selected": BARE}, 1, 1 / 2, {"misread": 0}),
        ("select", {"samples": [LUCKY, LUCKY, MISREAD], "selected": HONEST}, 1, 1, {}),
        ("select", {"samples": [HONEST, HONEST, MISREAD], "selected": MISREAD}, 0, 0, {"misread": 1}),
    ],
)
def test_honest_part_of_the_credit(tmp_path, name, texts, credit, honest, faults):
    found = outcome(name, tmp_path, **{"samples": [HONEST] * 3, **texts})
    assert found.credit == pytest.approx(credit)
    assert found.honest == pytest.approx(honest)
    assert found.faults == pytest.approx(faults)


def test_the_oracle_and_other_data_sets_are_not_measured(tmp_path):
    assert outcome("pass", tmp_path / "a", [HONEST] * 3).honest is None
    other = helpers.problems(1)[0]
    found = outcome("greedy", tmp_path / "b", [HONEST] * 3, problem=other)
    assert (found.honest, found.faults) == (None, {})
    row = results.score([found]).to_json()
    assert not {"honest", "faults"} & row.keys()
    assert "honest" not in results.StrategyResult.of(found).to_json()


def test_a_score_of_zero_is_written(tmp_path):
    found = outcome("greedy", tmp_path, [HONEST] * 3, greedy=LUCKY)
    assert results.score([found]).to_json()["honest"] == 0
    assert results.StrategyResult.of(found).to_json()["honest"] == 0


@pytest.mark.slow
@given(helpers.attempts)
def test_without_a_measure_nothing_changes(attempts: list[Attempt]):
    assert all(one.derivation is None and not one.honest for one in attempts)


def test_an_attempt_is_checked_once_and_for_all():
    one = attempt(Completion(LUCKY, (1, 2), 3, "stop", -0.1), TRIANGLE)
    assert (one.right, one.honest, one.derivation) == (True, False, "slip")


def test_paired_comparison_of_honest_answers(tmp_path):
    def row(found, iteration):
        strategy = results.StrategyResult.of(found)
        return results.EvaluatedProblem(
            id="t", gold="B", iteration=iteration, samples=(), strategies={"greedy": strategy}
        )

    before = row(outcome("greedy", tmp_path / "a", [HONEST] * 3, greedy=LUCKY), 0)
    after = row(outcome("greedy", tmp_path / "b", [HONEST] * 3, greedy=HONEST), 1)
    plain, honest = results.compare_both([before], [after], "dev", "greedy", 0)
    assert (plain.honest, plain.difference) == (False, 0)
    assert (honest.honest, honest.difference, honest.gained) == (True, 1, 1)
    assert "honest" not in plain.to_json()
