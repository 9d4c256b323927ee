"""Adaptive N: nothing is drawn in vain, and the exact rule never changes the answer."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.engines.base import EngineError
from selftrain.test_time import adaptive, draw_pool, run, vote, weights
from selftrain.test_time.records import ballots
from tests.selftrain.test_time.helpers import NUMBER, PROBLEM, made, plan, problems, sampler, says

EXACT, POSTERIOR = adaptive.Stop(weights.equal), adaptive.Stop(weights.equal, posterior=True)
CONSISTENT = adaptive.Stop(weights.consistent)


def drawn(stop, samples, n, problem=PROBLEM, **changes):
    """How many of the samples are drawn."""
    setting = plan(n, **changes)
    return len(stop.counted(stop.cast(problem, samples, setting), setting))


# (answers in the order of drawing, - for none; at most n; drawn by the exact rule; by the posterior of 0.95)
CASES = [
    ("A", 1, 1, 1),
    ("AA", 2, 2, 2),
    ("AAB", 3, 2, 2),
    ("ABA", 3, 3, 3),
    ("ABC", 3, 3, 3),
    ("AAAAAAAAAA", 10, 6, 4),  # P(Beta(5, 1) > 1/2) = 31/32
    ("AABAAAAAAA", 10, 7, 7),
    ("ABABABABAB", 10, 10, 10),
    ("---AAAAAAA", 10, 7, 7),  # four of at most seven
    ("----------", 10, 10, 10),
    ("-AA", 3, 3, 3),
    ("-A-", 3, 3, 3),
    ("AAAAABBBBB", 10, 10, 4),
    ("ABCDABCDAA", 10, 10, 10),
]


MADE = {mark: made(None if mark == "-" else mark) for mark in "ABCD-"}


def cast(answers):
    return [MADE[mark] for mark in answers]


@pytest.mark.parametrize(("answers", "n", "exact", "posterior"), CASES)
def test_how_many_are_drawn(answers, n, exact, posterior):
    assert drawn(EXACT, cast(answers), n) == exact
    assert drawn(POSTERIOR, cast(answers), n) == posterior


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.sampled_from("AABC-"), min_size=1, max_size=5))
def test_the_exact_rule_is_exact(answers):
    """It stops where no completion changes the winner, and nowhere earlier than that."""
    n, stopped = len(answers), drawn(EXACT, cast(answers), len(answers))
    full = vote.majority(cast(answers))
    assert vote.majority(cast(answers[:stopped])).answers == full.answers

    def open_after(k):
        rest = itertools.product("ABC-", repeat=n - k)
        return len({vote.majority(cast([*answers[:k], *more])).answers for more in rest}) > 1

    assert stopped == n or not open_after(stopped)
    assert all(open_after(k) for k in range(stopped))


# What is right, contradicts itself, is unreadable, or is the same number in another form.
TEXTS = ["Answer: B", "Answer: A", "10+10=30. Answer: A", "10+10=30. Answer: B", "10+10=20. Answer: D", "no"]
FORMS = ["1/3", "0.33333333", "0.333333", "0.3333331", "0.3333336", "0.5", None]


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=9))
def test_weights_do_not_change_that(texts):
    from selftrain.engines.base import Completion
    from selftrain.test_time.records import attempt

    samples = [attempt(Completion(text, (1, 2), 7, "stop", -0.5), PROBLEM) for text in texts]
    setting = plan(len(samples))
    full = vote.weighted(samples, weights.consistent(PROBLEM, samples, setting))
    few = samples[: drawn(CONSISTENT, samples, len(samples))]
    assert vote.weighted(few, weights.consistent(PROBLEM, few, setting)).answers == full.answers


@given(st.lists(st.sampled_from(FORMS), min_size=1, max_size=8))
def test_answers_in_several_forms(answers):
    """A sample still to come may show that two answers are one; the winner stays the same value."""
    samples = [made(answer, NUMBER) for answer in answers]
    few = samples[: drawn(EXACT, samples, len(samples), NUMBER)]
    full, early = vote.majority(samples), vote.majority(few)
    names = dict(zip([a.answer for a in samples], ballots(samples), strict=True))
    assert {names[answer] for answer in early.answers} == {names[answer] for answer in full.answers}


@pytest.mark.parametrize(("leader", "rival"), [(0, 0), (1, 0), (4, 0), (3, 1), (10, 4), (40, 38)])
def test_the_posterior(leader, rival):
    from scipy.stats import beta

    assert adaptive.leads(leader, rival) == pytest.approx(float(beta.sf(0.5, leader + 1, rival + 1)))
    assert adaptive.leads(leader + 1e-9, rival) == pytest.approx(adaptive.leads(leader, rival))


@pytest.mark.parametrize(
    "name", ["adaptive", "adaptive_posterior", "adaptive_consistent", "adaptive_consistent_posterior"]
)
def test_only_what_is_needed_is_drawn(tmp_path, name):
    """And paid for. Nothing is drawn twice, and a pool that is there gives the same."""
    asked = problems(9)

    def respond(request, seed):
        return says("BBBBAC"[seed % 6], words=seed % 5)

    with sampler(tmp_path, respond, unit_rows=4) as held:
        outcomes = run(name, asked, held, plan(8))
        used = held.drawn
        assert used == sum(o.cost.completions for o in outcomes)
        assert 9 * 4 <= used < 9 * 8
        assert run(name, asked, held, plan(8)) == outcomes
        assert held.drawn == used
        full = run("majority", asked, held, plan(8))
        pool = draw_pool(asked, held, plan(8))
        assert run(name, asked, held, plan(8), pool) == outcomes
    if "posterior" not in name:
        assert [o.choices[0].answers for o in outcomes] == [o.choices[0].answers for o in full]
    for few, all_of_them, problem in zip(outcomes, full, asked, strict=True):
        texts = pool[problem.id][: int(few.cost.completions)]
        assert few.cost.generated == sum(len(a.completion.token_ids) for a in texts) <= all_of_them.cost.generated
        assert few.cost.prompt == all_of_them.cost.prompt


def test_a_run_that_died_goes_on_to_the_same(tmp_path):
    asked = problems(6)

    def respond(request, seed):
        return says("BBAC"[seed % 4])

    with sampler(tmp_path / "whole", respond, unit_rows=2) as held:
        whole = run("adaptive", asked, held, plan(7))
    with sampler(tmp_path / "died", respond, unit_rows=2) as held:
        held.engine.fail_at = 9
        with pytest.raises(EngineError, match="scripted failure"):
            run("adaptive", asked, held, plan(7))
        before = held.drawn
        assert run("adaptive", asked, held, plan(7)) == whole
        assert before < held.drawn == sum(o.cost.completions for o in whole)


def test_a_larger_pool_is_averaged_over(tmp_path):
    """The exact rule keeps the mean of the vote, up to the drawing of orders."""
    pool = {"q": [made(a, tokens=3 + k % 4) for k, a in enumerate("BBABCBAB-B")]}
    with sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held:
        [some] = run("adaptive", [PROBLEM], held, plan(5, pool=10), pool)
        [full] = run("majority", [PROBLEM], held, plan(5, pool=10), pool)
        assert [some] == run("adaptive", [PROBLEM], held, plan(5, pool=10), pool)
    assert abs(some.credit - full.credit) < 4 * some.error
    assert 3 <= some.cost.completions < full.cost.completions == 5
    assert some.cost.generated < full.cost.generated
    assert math.isclose(some.cost.prompt, full.cost.prompt)


def test_a_pool_that_is_too_small_is_added_to(tmp_path):
    """Others may need fewer samples than the adaptive vote."""
    asked = problems(3)
    with sampler(tmp_path, lambda request, seed: says("BABC"[seed % 4])) as held:
        small = draw_pool(asked, held, plan(2))
        found = run("adaptive", asked, held, plan(7), small)
        assert found == run("adaptive", asked, held, plan(7), draw_pool(asked, held, plan(7)))
