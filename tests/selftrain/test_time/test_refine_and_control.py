"""Rounds of refinement; prompts with a condition; rejection by length."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_process import prompts as wording
from data_process.schema import DataError
from selftrain import stats
from selftrain.config import ConfigError
from selftrain.engines.base import SamplingParams
from selftrain.engines.budget import Budget, preset
from selftrain.test_time import Condition, ContextLimit, Rejection, audit, length_control, run
from selftrain.test_time.tokens import thinking_tokens
from tests.selftrain.test_time.helpers import PROMPTS, SAMPLING, plan, problems, sampler, says


def rounds(request, seed):
    """Problem 0 goes A, B, B; problem 1 B, A, unreadable; problem 2 A, A, A."""
    number = int(request.prompt.split("number ")[1][0])
    turn = 0 if "Prediction" not in request.prompt else 1 if "round0" in request.prompt else 2
    return f"round{turn} {says([['A', 'B', 'B'], ['B', 'A', None], ['A', 'A', 'A']][number][turn])}"


def test_refinement(tmp_path):
    asked = problems(3)
    with sampler(tmp_path, rounds) as held:
        last = run("refine", asked, held, plan(1, rounds=2))
        voted = run("refine_vote", asked, held, plan(1, rounds=2))
        prompts = [r.prompt for call in held.engine.calls for r in call.requests]
        assert all(call.params.temperature == 0 for call in held.engine.calls)
    assert [o.credit for o in last] == [1, 0, 0]
    assert [o.abstain for o in last] == [0, 1, 0]
    assert [o.credit for o in voted] == [1, 0.5, 0]
    assert [[a.answer for a in o.texts] for o in last] == [["A", "B", "B"], ["B", "A", None], ["A", "A", "A"]]
    assert len(prompts) == 9  # the vote found every round in the bank
    assert sum(o.cost.prompt for o in last) == sum(len(prompt.split()) for prompt in prompts)
    assert last[0].cost == voted[0].cost
    assert last[0].cost.completions == 3
    assert audit.refinement(last) == [{"fixed": 1, "broke": 1, "missed": 1}, {"kept": 1, "missed": 2}]
    assert wording.refine(asked[0], last[0].texts[0].completion.text, PROMPTS) in prompts


def test_a_refinement_that_does_not_fit_is_refused(tmp_path):
    cot = len(wording.cot(problems(1)[0], PROMPTS).split())
    room = ContextLimit(cot + 62, lambda prompt, image: len(prompt.split()))
    with (
        sampler(tmp_path, rounds) as held,
        pytest.raises(ConfigError, match=r"problem p0 .and 2 more. does not fit.*lower max_tokens"),
    ):
        run("refine", problems(3), held, plan(1, context_limit=room))


@pytest.mark.parametrize(
    ("condition", "ending"),
    [
        (Condition("token", 64), "\n\nThink for up to 64 tokens."),
        (Condition("step", 8), "\n\nThink for up to 8 steps."),
        (Condition("short"), "\n\nAnswer after a short amount of thinking. Do not spend excessive time double-"
         "checking your work."),
        (Condition("long"), "absolutely sure that you have the correct answer."),
    ],
)  # fmt: skip
def test_conditions_are_in_the_prompt_of_every_attempt(tmp_path, condition, ending):
    setting = plan(2, condition=condition)
    with sampler(tmp_path, lambda request, seed: says("B")) as held:
        for name in ("greedy", "majority", "reject"):
            run(name, problems(2), held, replace(setting, rejection=Rejection(60)))
        prompts = {r.prompt for call in held.engine.calls for r in call.requests}
    assert len(prompts) == 2
    assert all(p.endswith(ending) and p.startswith("Question number") for p in prompts)


@pytest.mark.parametrize(
    "condition", [Condition("token"), Condition("short", 4), Condition("brief"), Condition("step", 0)]
)
def test_conditions_that_say_nothing(tmp_path, condition):
    with (
        sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held,
        pytest.raises(DataError, match="condition"),
    ):
        run("majority", problems(1), held, plan(2, condition=condition))


def test_bounds():
    assert length_control.bounds(Condition("token", 1024)) == (None, 1024)
    assert length_control.bounds(Condition("step", 16)) == (None, 1600)
    assert length_control.bounds(Condition("short"), 6109) == (None, 6109)
    assert length_control.bounds(Condition("long"), 6109) == (6109, None)
    with pytest.raises(ConfigError, match="run without it"):
        length_control.bounds(Condition("long"))
    with pytest.raises(ConfigError, match="no limit"):
        length_control.bounds(Condition("token"))


def test_the_published_control():
    """Golden: 40, 100, 60, 100 and 50% (arXiv 2501.19393, tables 11 to 13), from the published thinking tokens."""
    tokens = [length_control.bounds(Condition("token", n)) for n in (1024, 2048, 4096, 8192, 16384)]
    steps = [length_control.bounds(Condition("step", n)) for n in (16, 32, 64, 128, 256)]
    classes = [length_control.bounds(Condition(name), 6109) for name in ("short", "long")]
    assert stats.control((7939, 7158, 8263, 7108, 7500), tokens) == 0.4
    assert stats.control((1024, 2048, 4031, 5664, 6330), tokens) == 1
    assert stats.control((7252, 6277, 5396, 5552, 7551), steps) == 0.6
    assert stats.control((1517, 2963, 4636, 5409, 7551), steps) == 1
    assert stats.control((8033, 9651), classes) == 0.5


def lengths(request, seed):
    """From 3 to 42 words, by the seed; right when long."""
    words = seed % 40
    return f"t{seed} {says('B' if words >= 20 else 'A', words)}"


def test_rejection(tmp_path):
    asked = problems(12)
    setting = plan(1, rejection=Rejection(limit=20, tries=8))
    with sampler(tmp_path, lengths) as held:
        outcomes = run("reject", asked, held, setting)
        drawn = held.drawn
        samples = held.draw(setting.asks(asked), SAMPLING, 8)
        again = held.drawn
        other = run("reject", asked, held, replace(setting, rejection=Rejection(limit=30, tries=8)))
        assert held.drawn == again  # another limit reads the same stream
    assert drawn < 8 * 12
    tries = length_control.tries(outcomes, 20)
    for outcome in outcomes:
        stream = samples[outcome.problem_id]
        assert [a.completion for a in outcome.texts] == stream[: len(outcome.texts)]
        fits = [thinking_tokens(c) <= 20 for c in stream]
        expected = fits.index(True) if True in fits else 7
        assert len(outcome.texts) == expected + 1
        rejected = stream[:expected] if True in fits else stream
        kept = stream[expected : expected + 1] if True in fits else []
        cost = sum(min(len(c.token_ids), 21) for c in rejected) + sum(len(c.token_ids) for c in kept)
        assert (outcome.cost.generated, outcome.cost.completions) == (cost, expected + 1)
        assert outcome.cost.prompt == stream[0].n_prompt_tokens
        if not kept:
            assert (outcome.credit, outcome.abstain, outcome.choices[0].answers) == (0, 1, ())
    assert tries.n == 12
    assert tries.mean == sum(len(o.texts) for o in outcomes) / 12
    assert tries.most == max(len(o.texts) for o in outcomes)
    assert tries.exhausted == sum(o.abstain == 1 for o in outcomes)
    assert length_control.tries(other, 30).mean < tries.mean
    with pytest.raises(ValueError, match="no problems"):
        length_control.tries([], 20)


def test_rejection_gives_up(tmp_path):
    with sampler(tmp_path, lengths) as held:
        outcomes = run("reject", problems(3), held, plan(1, rejection=Rejection(limit=1, tries=5)))
        assert held.drawn == 15
    assert length_control.tries(outcomes, 1) == length_control.Tries(3, 5.0, 5, 3, 0)
    assert [o.abstain for o in outcomes] == [1, 1, 1]
    assert [o.cost.generated for o in outcomes] == [10, 10, 10]  # each of the five tries was stopped at two tokens
    exactly = len(says("B").split())
    with sampler(tmp_path, lambda request, seed: says("B"), weights="other") as held:
        outcomes = run("reject", problems(3), held, plan(1, rejection=Rejection(exactly, tries=5)))
    assert length_control.tries(outcomes, exactly) == length_control.Tries(
        3, 1.0, 1, 0, 0
    )  # the limit itself is allowed
    with sampler(tmp_path, lengths) as held, pytest.raises(ConfigError, match="every try is the same"):
        run("reject", problems(1), held, plan(1, sampling=replace(SAMPLING, temperature=0.0), rejection=Rejection(9)))


COUNTING = replace(SAMPLING, budget=Budget(end="</think>"))


def closing(limit: int) -> SamplingParams:
    """The tiny model's budget with a limit."""
    return replace(SAMPLING, budget=replace(preset("tiny"), max_tokens=limit, loop_repeats=0))


def thinks(request, seed):
    """From 2 to 41 tokens of thinking, by the seed, then two of an answer that is right when the thinking is long."""
    words = seed % 40
    return f"t{seed} {'so ' * words}then </think>\nAnswer: ({'B' if words >= 20 else 'A'})"


def thought(completion):
    return len(completion.text.partition("</think>")[0].split())


def test_a_ledger_counts_thinking_and_changes_no_text(tmp_path):
    asked = problems(8)
    setting = plan(1, sampling=COUNTING, rejection=Rejection(limit=20, tries=8))
    with sampler(tmp_path, thinks) as held:
        outcomes = run("reject", asked, held, setting)
        samples = held.draw(setting.asks(asked), COUNTING, 8)
        assert {call.params for call in held.engine.calls} == {COUNTING}
        said = {thinks(r, seed) for call in held.engine.calls for r in call.requests for seed in r.seeds}
    assert {completion.text for completions in samples.values() for completion in completions} == said
    for outcome in outcomes:
        lengths = [thought(completion) for completion in samples[outcome.problem_id]]
        assert [thinking_tokens(completion) for completion in samples[outcome.problem_id]] == lengths
        fits = [length <= 20 for length in lengths]
        assert len(outcome.texts) == (fits.index(True) + 1 if True in fits else 8)
        assert outcome.abstain == (True not in fits)


@pytest.mark.parametrize("limit", [4, 12, 30])
@pytest.mark.parametrize("tries", [1, 2, 6])
def test_rejection_with_forcing_answers_every_question(tmp_path, limit, tries):
    asked = problems(16)
    loose = plan(1, sampling=COUNTING, rejection=Rejection(limit, tries))
    setting = replace(loose, rejection=Rejection(limit, tries, closing(limit)))
    with sampler(tmp_path, thinks) as held:
        outcomes = run("reject", asked, held, setting)
        drawn = held.drawn
        samples = held.draw(loose.asks(asked), COUNTING, tries)
        lasts = held.draw(loose.asks(asked), closing(limit), 1)
    assert drawn <= tries * len(asked)
    by_force = 0
    for outcome in outcomes:
        free = samples[outcome.problem_id][: tries - 1]
        fits = [thought(completion) <= limit for completion in free]
        at = fits.index(True) if True in fits else tries - 1
        path = [a.completion for a in outcome.texts]
        last = free[at] if True in fits else lasts[outcome.problem_id][0]
        assert path == [*free[:at], last]
        assert thinking_tokens(last) <= limit
        assert outcome.abstain == 0
        assert outcome.credit == outcome.texts[-1].right
        rejected = sum(min(len(completion.token_ids), limit + 1) for completion in free[:at])
        assert outcome.cost.generated == rejected + len(last.token_ids) + last.forcing.discarded
        assert outcome.cost.completions == at + 1
        by_force += last.forcing.closed_by == "budget"
    found = length_control.tries(outcomes, limit)
    assert (found.exhausted, found.forced) == (0, by_force)
    assert found.most <= tries
    assert by_force or limit == 30


def test_a_text_that_was_cut_while_thinking_fits_no_limit(tmp_path):
    """Its 60 tokens are below the limit, but it would have gone on."""
    rejection = Rejection(limit=80, tries=3)
    for sampling in (SAMPLING, COUNTING):
        with sampler(tmp_path, lambda request, seed: "so " * 100) as held:
            outcomes = run("reject", problems(2), held, plan(1, sampling=sampling, rejection=rejection))
        assert length_control.tries(outcomes, 80) == length_control.Tries(2, 3.0, 3, 2, 0)


@pytest.mark.parametrize("last", [SAMPLING, COUNTING, closing(9)])
def test_a_last_try_that_is_not_closed_at_the_limit(last):
    with pytest.raises(ConfigError, match="must be closed there; give `last` a budget with max_tokens 8"):
        plan(1, rejection=Rejection(8, 3, last))


def test_the_last_try_must_fit_too(tmp_path):
    words = len(wording.cot(problems(1)[0], PROMPTS).split())
    room = ContextLimit(words + SAMPLING.max_tokens, lambda prompt, image: len(prompt.split()))
    longer = replace(closing(8), max_tokens=SAMPLING.max_tokens + 1)
    with sampler(tmp_path, thinks) as held:
        run("reject", problems(1), held, plan(1, context_limit=room, rejection=Rejection(8, 3, closing(8))))
        with pytest.raises(ConfigError, match=r"does not fit.*lower max_tokens"):
            run("reject", problems(1), held, plan(1, context_limit=room, rejection=Rejection(8, 3, longer)))
