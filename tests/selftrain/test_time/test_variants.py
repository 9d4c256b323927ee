"""Names with numbers, and the evaluation under several of them: each reads its own samples and pays for them."""

from __future__ import annotations

import pytest

from data_process import prompts as wording
from selftrain.config import Config, ConfigError, EvaluationConfig, load_config
from selftrain.test_time.evaluate import check_strategies, evaluate
from selftrain.test_time.results import EvaluatedProblem
from selftrain.test_time.variants import Variant, plans_of, strategy_of, variant
from tests.selftrain.test_time.helpers import PROMPTS, is_selection, problems, sampler, says

NAMES = [
    ("greedy", Variant("greedy")),
    ("greedy+1", Variant("greedy", waits=1)),
    ("majority@5", Variant("majority", 5)),
    ("select@3+2", Variant("select", 3, waits=2)),
    ("tournament@10/5", Variant("tournament", 10, 5)),
    ("reward_pass@10/2", Variant("reward_pass", 10, 2)),
    ("fused@10/4+1", Variant("fused", 10, 4, 1)),
    ("refine@1", Variant("refine", 1)),
    ("elect@5", None),
    ("majority@0", None),
    ("majority@", None),
    ("majority@5@5", None),
    ("greedy+", None),
    ("", None),
]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_names(name, expected):
    assert variant(name) == expected
    assert (strategy_of(name) is None) == (expected is None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elect@5", "no strategy 'elect@5'; known: greedy.*majority@5 has five samples"),
        ("greedy@5", "greedy has no number of samples"),
        ("select@5/2", "only a tournament has groups"),
        ("tournament@4/1", "group is 1; it is at least 2"),
        ("recursive@5", "needs a context limit"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ConfigError, match=message):
        check_strategies(EvaluationConfig(strategies=("greedy", name)), problems(1), PROMPTS)
    with pytest.raises(ConfigError, match=r"evaluation\.budget: no budget 's2'"):
        load_config(None, ["evaluation.budget=s2"])


def test_plans():
    config = EvaluationConfig(
        n=3, max_tokens=50, strategies=("greedy", "majority", "select@5", "greedy+2", "refine@1", "tournament@6/4+1")
    )
    plans = {name: plan for name, (_, plan) in plans_of(config, PROMPTS, 7).items()}
    assert [plan.n for plan in plans.values()] == [3, 3, 5, 3, 3, 6]
    assert plans["majority"].sampling == plans["select@5"].sampling == plans["refine@1"].sampling
    assert (plans["refine@1"].rounds, plans["tournament@6/4+1"].group) == (1, 4)
    budgets = {name: plan.sampling.budget for name, plan in plans.items()}
    assert [name for name, budget in budgets.items() if budget] == ["greedy+2", "tournament@6/4+1"]
    assert budgets["greedy+2"].num_ignore == 2
    assert plans["greedy+2"].sampling.max_tokens == 256
    assert {plan.seed for plan in plans.values()} == {7}


@pytest.mark.parametrize("extra", [("greedy",), ("majority@5", "majority@5")])
def test_each_strategy_is_listed_once(extra):
    with pytest.raises(ValueError, match="list every strategy once"):
        EvaluationConfig(test_strategies=extra)


def test_what_is_measured_where():
    config = EvaluationConfig(strategies=("greedy",), test_strategies=("majority@5",))
    assert config.on("dev").strategies == ("greedy",)
    assert config.on("test").strategies == ("greedy", "majority@5")
    assert EvaluationConfig().on("test") == EvaluationConfig()


def test_old_runs_keep_their_identity():
    values = Config().identity()["evaluation"]
    assert not {"strategies", "test_strategies", "budget", "forced_max_tokens"} & set(values)
    changed = Config(evaluation=EvaluationConfig(test_strategies=("greedy+1",), budget="s1")).identity()["evaluation"]
    assert (changed["test_strategies"], changed["budget"]) == (["greedy+1"], "s1")


def respond(request, seed):
    if is_selection(request.prompt):
        return says("B")
    return f"<think>it is {'ABBC'[seed % 4]}</think>\nAnswer: ({'ABBC'[seed % 4]})"


def measured(tmp_path, *names, n=3):
    with sampler(tmp_path, respond) as held:
        config = EvaluationConfig(n=n, max_tokens=40, strategies=("greedy", *names))
        found = evaluate(problems(5), held, config, PROMPTS, 0)
        again = evaluate(problems(5), held, config, PROMPTS, 0)
        assert [row.to_json() for row in again.rows] == [row.to_json() for row in found.rows]
        return found, held.drawn


def test_every_name_reads_its_own_samples(tmp_path):
    found, drawn = measured(tmp_path, "majority@2", "majority@4", "greedy+1", "majority@2+1", "select@2+1", "refine@1")
    for row in found.rows:
        assert [len(row.samples), *map(len, row.forced.values())] == [4, 2]
        assert [*row.forced] == ["+1"]
        assert all(" Wait," in sample.text for sample in row.forced["+1"])
        names = [name for name, _ in row.judged_texts()]
        assert {"sample 3", "sample 1 +1", "greedy+1", "select@2+1", "refine@1 1"} <= set(names)
        assert EvaluatedProblem.model_validate(row.to_json()) == row
    # greedy, 4 samples, greedy+1, 2 forced samples, 1 selection, 1 refinement, for each problem
    assert drawn == 5 * (1 + 4 + 1 + 2 + 1 + 1)
    prompt = len(wording.cot(problems(1)[0], PROMPTS).split())
    scores = found.split.strategies
    for name, texts in (
        ("majority@2", [r.samples[:2] for r in found.rows]),
        ("majority@2+1", [r.forced["+1"] for r in found.rows]),
    ):
        tokens = scores[name].tokens_per_problem
        assert tokens.prompt == prompt
        assert tokens.generated == pytest.approx(sum(t.tokens for several in texts for t in several) / 5)
    assert scores["majority@4"].completions == 20


@pytest.mark.parametrize(
    ("budget", "idle"),
    [
        ("tiny", 0.0),
        ({"preset": "s1-m", "answer_tokens": 4, "opener": "<reason>"}, 1.0),  # which no text has: all are let through
        ({"preset": "s1-m", "answer_tokens": 4, "opener": "<reason>", "start": "<reason>"}, 0.0),
    ],
)
def test_how_many_forced_samples_a_budget_did_nothing_to(tmp_path, budget, idle):
    with sampler(tmp_path, respond) as held:
        config = EvaluationConfig(
            n=2, max_tokens=40, strategies=("greedy", "majority", "greedy+1", "majority@2+1"), budget=budget
        )
        scores = evaluate(problems(5), held, config, PROMPTS, 0).split.strategies
    assert {name: score.idle for name, score in scores.items()} == {
        "greedy": None, "majority": None, "greedy+1": idle, "majority@2+1": idle,
    }  # fmt: skip


def test_without_forced_samples_rows_are_as_they_were(tmp_path):
    found, _ = measured(tmp_path, "majority", "select")
    assert set(found.rows[0].to_json()) == {"id", "question", "choices", "gold", "iteration", "samples", "strategies"}


def test_an_adaptive_vote_by_itself_draws_what_it_needs(tmp_path):
    """And its samples are in the rows; beside a strategy that needs all of them, nothing is saved."""
    found, drawn = measured(tmp_path / "alone", "adaptive@8")
    counts = [len(row.samples) for row in found.rows]
    assert sum(counts) + 5 == drawn
    assert found.split.strategies["adaptive@8"].completions == sum(counts) < 5 * 8
    both, all_drawn = measured(tmp_path / "beside", "adaptive@8", "majority@8")
    assert all_drawn == 5 * 9
    assert both.split.strategies["adaptive@8"] == found.split.strategies["adaptive@8"]
    assert all(row.strategies["adaptive@8"].answers == row.strategies["majority@8"].answers for row in both.rows)
