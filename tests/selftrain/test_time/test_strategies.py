"""The table: every strategy gives one outcome per problem, on the same samples, with its cost."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain import stats
from selftrain.config import ConfigError
from selftrain.engines.base import Completion
from selftrain.test_time import (
    STRATEGIES,
    ContextLimit,
    Rejection,
    Strategy,
    credits,
    draw_pool,
    preflight,
    register_strategy,
    run,
    score,
    strategies,
    vote,
    weights,
)
from selftrain.test_time.records import Outcome, mean_outcome
from selftrain.test_time.tokens import TokenCost, cost_of
from tests.selftrain.test_time.helpers import (
    PROBLEM,
    attempts,
    is_selection,
    made,
    plan,
    problems,
    rating,
    sampler,
    says,
)

WIDE = ContextLimit(10_000, lambda prompt, image: len(prompt.split()))
EVERYTHING = {"context_limit": WIDE, "rejection": Rejection(40, 4), "rate": rating(lambda problem, c: len(c.text))}


def respond(request, seed):
    if is_selection(request.prompt):
        return says("ABCD"[len(request.prompt) % 4])
    return says(["A", "B", "B", None, "C"][seed % 5], words=seed % 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(("n", "pool"), [(1, None), (3, None), (3, 5)])
def test_every_strategy(tmp_path, name, n, pool):
    asked = problems(7)
    setting = plan(n, pool=pool, draws=2 if pool else 1, **EVERYTHING)
    with sampler(tmp_path, respond) as held:
        outcomes = run(name, asked, held, setting)
        drawn = held.drawn
        assert run(name, asked, held, setting, draw_pool(asked, held, setting)) == outcomes
        assert STRATEGIES[name].needs_pool is False or held.drawn == drawn  # nothing is drawn twice
        assert run(name, list(reversed(asked)), held, setting) == outcomes[::-1]
        best = {o.problem_id: o.credit for o in run("pass", asked, held, setting)}
    assert [o.problem_id for o in outcomes] == [p.id for p in asked]
    for outcome in outcomes:
        assert 0 <= outcome.credit <= 1
        assert outcome.credit + outcome.abstain <= 1 + 1e-12
        assert outcome.cost.total > 0
        if STRATEGIES[name].family in ("vote", "best", "oracle"):
            assert outcome.credit <= best[outcome.problem_id] + 1e-12
        if outcome.choices:
            assert outcome.credit == pytest.approx(sum(c.credit for c in outcome.choices) / len(outcome.choices))
    total = score(outcomes)
    json.dumps(total.to_json())
    assert total.correct == pytest.approx(sum(credits(outcomes).values()))
    assert total.low <= total.accuracy <= total.high


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(attempts.filter(lambda a: len(a) >= 4), min_size=1, max_size=4), st.integers(1, 4))
def test_votes_over_subsets(tmp_path_factory, pools, n):
    """Exact means and enumerated ones agree with all subsets, and cost what n samples cost on average."""
    pool = {f"p{i}": samples[:4] for i, samples in enumerate(pools)}
    asked = [replace(PROBLEM, id=name) for name in pool]
    setting = plan(n, pool=4, rate=rating(lambda problem, c: -c.mean_logprob))
    with sampler(tmp_path_factory.mktemp("s"), lambda request, seed: pytest.fail("asked")) as held:
        found = {name: run(name, asked, held, setting, pool) for name in STRATEGIES if "_" in name or name == "majority"
                 if "adaptive" not in name and STRATEGIES[name].family in ("vote", "best")}  # fmt: skip
    rules = {
        "majority": lambda few: vote.majority(few).credit,
        "vote_logprob": lambda few: vote.weighted(few, [vote.likelihood(a) for a in few]).credit,
        "vote_consistent": lambda few: vote.weighted(few, weights.consistent(PROBLEM, few, setting)).credit,
        "vote_consistent_logprob": lambda few: (
            vote.weighted(few, weights.consistent_likelihoods(PROBLEM, few, setting)).credit
        ),
        "vote_reward": lambda few: vote.weighted(few, [-a.logprob for a in few]).credit,
        "best_logprob": lambda few: vote.best_of(few, [a.logprob for a in few]).credit,
        "best_reward": lambda few: vote.best_of(few, [-a.logprob for a in few]).credit,
    }
    assert set(rules) == set(found)
    for name, outcomes in found.items():
        for outcome in outcomes:
            subsets = [list(few) for few in itertools.combinations(pool[outcome.problem_id], n)]
            assert outcome.credit == pytest.approx(sum(map(rules[name], subsets)) / len(subsets)), name
            assert outcome.error == 0
            costs = [cost_of([a.completion for a in few]) for few in subsets]
            assert outcome.cost.generated == pytest.approx(sum(c.generated for c in costs) / len(costs))
            assert (outcome.cost.prompt, outcome.cost.completions) == (7, pytest.approx(n))


def test_a_reward_is_paid_for_by_the_strategies_that_use_it(tmp_path):
    """Each response once, whatever asks for it, and for a share of the pool as the samples are."""
    pool = {"q": [made("AB"[k % 2], logprob=-0.1 * k) for k in range(4)]}
    asked = []

    def rate(items):
        asked.extend(items)
        return rating(lambda problem, c: -c.mean_logprob, TokenCost(3, 50, 3))(items)

    with sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held:
        plain, best, weighed, passed = (
            run(name, [PROBLEM], held, plan(2, pool=4, rate=rate), pool)[0].cost
            for name in ("majority", "best_reward", "vote_reward", "reward_pass")
        )
    assert best == weighed == passed == plain + TokenCost(6, 100, 6)
    assert len(asked) == 12


def test_a_large_pool_is_drawn_from_and_says_how_uncertain_that_is(tmp_path):
    pool = {"q": [made("AB"[k % 2], logprob=-0.1 * k) for k in range(20)]}
    setting = plan(10, pool=20)
    with sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held:
        [one] = run("vote_logprob", [PROBLEM], held, setting, pool)
        [same] = run("vote_logprob", [PROBLEM], held, setting, pool)
        [other] = run("vote_logprob", [PROBLEM], held, replace(setting, seed=1), pool)
    assert one == same != other
    assert 0 < one.error < 0.016
    assert abs(one.credit - other.credit) < 5 * math.hypot(one.error, other.error)


@pytest.mark.parametrize("name", ["vote_logprob", "best_logprob"])
@pytest.mark.parametrize("size", [2, 3])
def test_samples_without_log_probabilities_weigh_nothing(tmp_path, name, size):
    """A server that gives none: refused by name, whether all samples lack one or a single one; the others go on."""
    known, unknown = made("A", logprob=-0.1), made("B", logprob=None)
    with sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held:
        for cast in ([unknown] * 3, [known, known, unknown]):
            pool = {"q": cast}
            with pytest.raises(ConfigError, match=rf"{name}.* need log-prob.* of 3 samples of problem q .*logprobs to"):
                run(name, [PROBLEM], held, plan(size, pool=3), pool)
            [plain] = run("majority", [PROBLEM], held, plan(3), pool)
            assert plain.credit == float(cast[0] is unknown)


def test_greedy_and_mean_by_hand(tmp_path):
    def answer(request, seed):
        return says({0: "B", 1: None}[seed] if seed in (0, 1) else "BA"[seed % 2])

    with sampler(tmp_path, answer) as held:
        [greedy] = run("greedy", [PROBLEM], held, plan(1))
        pool = {"q": [made("B"), made("B", tokens=9), made("A"), made(None)]}
        [mean] = run("mean", [PROBLEM], held, plan(4), pool)
        [best] = run("pass", [PROBLEM], held, plan(2, pool=4), pool)
        [of_two] = run("mean", [PROBLEM], held, plan(2), pool)
    assert (greedy.credit, greedy.abstain, greedy.choices[0].answers) == (1, 0, ("B",))
    assert (mean.credit, mean.abstain, mean.cost) == (0.5, 0.25, TokenCost(6.0, 7.0, 1.0, 0.0))
    assert best.credit == pytest.approx(1 - 1 / 6)
    assert of_two.credit == 1  # a pool may hold more than the plan asks for: the first two count


def test_cost_counts_what_a_budget_took_out_again():
    from selftrain.engines.budget import ForcingRecord

    forcing = ForcingRecord(6, 3, 1, (2,), "model", 6, ((2, 4),), discarded=4)
    forced = Completion("Wait B", tuple(range(10)), 7, "length", -0.5, forcing)
    assert cost_of([forced, forced]) == TokenCost(28.0, 7.0, 2.0, 2.0)
    assert (TokenCost(1, 2, 3, 4) + TokenCost(1, 1, 1, 1)).total == 5
    with pytest.raises(ValueError, match="different prompts"):
        cost_of([forced, replace(forced, n_prompt_tokens=8)])


def test_score():
    rows = [
        Outcome("a", 1.0, 0.0, TokenCost(10, 5, 1, 0), error=0.3),
        Outcome("b", 0.5, 0.0, TokenCost(20, 5, 1, 1), error=0.4),
        Outcome("c", 0.0, 1.0, TokenCost(0, 5, 1, 0)),
    ]
    total = score(rows)
    assert (total.n, total.correct, total.accuracy, total.abstain) == (3, 1.5, 0.5, 1)
    assert (total.low, total.high) == stats.wilson(1.5, 3)
    assert total.drawing_error == pytest.approx(0.5 / 3)
    tokens = total.tokens_per_problem
    assert (tokens.generated, tokens.prompt, tokens.total) == (10, 5, 15)
    assert (total.completions, total.truncated) == (3, 1)
    assert score([*rows, replace(rows[0], problem_id="d", error=None)]).drawing_error is None
    for bad in ([], [rows[0], rows[0]]):
        with pytest.raises(ValueError, match="score"):
            score(bad)


def test_a_strategy_is_registered_once(tmp_path, monkeypatch):
    """It runs by its name like any other; a name that is taken is refused."""
    monkeypatch.setattr(strategies, "STRATEGIES", dict(STRATEGIES))
    register_strategy("again", Strategy("greedy under another name", "single", STRATEGIES["greedy"].run))
    with sampler(tmp_path, respond) as held:
        assert run("again", problems(2), held, plan(1)) == run("greedy", problems(2), held, plan(1))
    with pytest.raises(ConfigError, match="there is a strategy 'again' already"):
        register_strategy("again", STRATEGIES["greedy"])
    assert [name for name, s in STRATEGIES.items() if not s.answers] == ["mean", "reward_pass", "pass"]


def test_mean_outcome():
    draws = [Outcome("a", c, 0.0, TokenCost(c, 1, 1, 0)) for c in (0.0, 1.0, 1.0)]
    joined = mean_outcome(draws, exhaustive=False)
    assert (joined.credit, joined.cost.generated) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert joined.error == pytest.approx(math.sqrt((4 / 9 + 1 / 9 + 1 / 9) / 2 / 3))
    assert mean_outcome(draws, exhaustive=True).error == 0
    assert mean_outcome(draws[:1], exhaustive=False).error is None
    with pytest.raises(ValueError, match="one problem"):
        mean_outcome([draws[0], replace(draws[1], problem_id="b")], exhaustive=False)


@pytest.mark.parametrize(
    ("names", "setting", "message"),
    [
        (["majority", "elect"], {}, "no strategy 'elect'; known: greedy"),
        (["vote_reward"], {}, r"vote_reward needs a reward; set reward\.model .*vote_logprob"),
        (["best_reward"], {}, "best_reward needs a reward; .*best_logprob"),
        (["reject"], {}, "needs a rejection limit"),
        (["recursive"], {}, "needs a context limit"),
        (
            ["select"],
            {"context_limit": ContextLimit(100, lambda prompt, image: 81)},
            r"81 tokens of prompt \+ 20 of answer > 100",
        ),
    ],
)
def test_preflight(names, setting, message):
    setting = plan(3, **{"sampling": replace(plan().sampling, max_tokens=5), **setting})
    with pytest.raises(ConfigError, match=message):
        preflight(names, [PROBLEM], setting)
    with pytest.raises(ConfigError, match="no problem"):
        preflight([], [], setting)
    with pytest.raises(ConfigError, match="unique"):
        preflight([], [PROBLEM, PROBLEM], setting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"pool": 2}, "3 attempts cannot be chosen from a pool of 2"),
        ({"draws": 0}, "draws is 0"),
        ({"group": 1}, "group is 1; it is at least 2"),
        ({"permutations": 0}, "permutations is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rejection": Rejection(0)}, "accept nothing"),
        ({"sampling": replace(plan().sampling, temperature=0.0)}, "temperature 0"),
    ],
)
def test_a_plan_that_cannot_work(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(**{"n": 3, **changes})


def test_a_pool_or_reward_that_does_not_do(tmp_path):
    pool = {"q": [made("A"), made("B")]}
    with sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held:
        with pytest.raises(ConfigError, match="2 of 3 samples of problem q"):
            run("majority", [PROBLEM], held, plan(3), pool)
        with pytest.raises(ConfigError, match="negative"):
            run("vote_reward", [PROBLEM], held, plan(2, rate=rating(lambda problem, c: -1.0)), pool)
        with pytest.raises(ConfigError, match="not finite"):
            run("best_reward", [PROBLEM], held, plan(2, rate=rating(lambda problem, c: math.nan)), pool)
