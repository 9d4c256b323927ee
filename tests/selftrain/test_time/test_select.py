"""Selection by the model: what it is shown, who goes on, what it costs, what it says."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process import prompts as wording
from data_process.judging import judge
from selftrain.config import ConfigError
from selftrain.engines.base import Completion
from selftrain.engines.budget import TINY
from selftrain.test_time import ContextLimit, draw_pool, preflight, run, select
from selftrain.test_time.records import attempt
from tests.selftrain.test_time.helpers import (
    NUMBER,
    PROBLEM,
    PROMPTS,
    SAMPLING,
    is_selection,
    made,
    plan,
    predictions,
    problems,
    sampler,
    says,
)

SELECTIONS = ("select", "tournament", "fused", "recursive", "permuted")
WIDE = ContextLimit(10_000, lambda prompt, image: len(prompt.split()))


def script(letters, choose=lambda shown: shown[0]):
    """Samples with these letters in turn (by seed), and a selector that sees the shown letters."""

    def respond(request, seed):
        if is_selection(request.prompt):
            return says(choose([judge(text, PROBLEM).extracted for text in predictions(request.prompt)]))
        return f"try{seed} {says(letters[seed % len(letters)])}"  # no two texts alike: no prompt is shared

    return respond


def knows(shown):
    return "B" if "B" in shown else shown[0]


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10])
def test_a_selector_that_knows_is_an_oracle(tmp_path, name, n):
    asked = problems(6)
    setting = plan(n, context_limit=WIDE)
    with sampler(tmp_path, script("ABCAD", knows)) as held:
        pool = draw_pool(asked, held, setting)
        outcomes = run(name, asked, held, setting, pool)
        best = run("pass", asked, held, setting, pool)
    assert [o.problem_id for o in outcomes] == [p.id for p in asked]
    assert [o.credit for o in outcomes] == [o.credit for o in best]
    for problem, outcome in zip(asked, outcomes, strict=True):
        assert outcome.choices[0].n_right == sum(a.right for a in pool[problem.id])
        assert all(1 < len(call.shown) <= (setting.group if name == "tournament" else n) for call in outcome.calls)
        if n == 1:
            assert not outcome.calls
            assert outcome.cost.completions == 1


@pytest.mark.parametrize("name", SELECTIONS)
def test_tokens_add_up(tmp_path, name):
    """Recounted from what the engine was asked: a word is a token."""
    asked = problems(3)
    setting = plan(5, context_limit=WIDE, permutations=3)
    with sampler(tmp_path, script("ABCAD")) as held:
        outcomes = run(name, asked, held, setting)
        calls = [(call, request) for call in held.engine.calls for request in call.requests]
        samples = [(call, request) for call, request in calls if not is_selection(request.prompt)]
        selections = [(call, request) for call, request in calls if is_selection(request.prompt)]
        generated = sum(len(held.engine.respond(r, s).split()) for _, r in calls for s in r.seeds)
    assert sum(o.cost.prompt for o in outcomes) == sum(len(r.prompt.split()) for _, r in samples + selections)
    assert sum(o.cost.generated for o in outcomes) == generated
    assert sum(o.cost.completions for o in outcomes) == 3 * 5 + len(selections)
    assert sum(len(o.calls) for o in outcomes) == len(selections)
    assert all(o.cost.total == o.cost.prompt + o.cost.generated for o in outcomes)


def test_flat_selection_shares_the_bank_with_evaluation(tmp_path):
    """The first n samples in their order: the very prompt that `evaluate` sends, so nothing is drawn twice."""
    asked = problems(2)
    with sampler(tmp_path, script("ABC")) as held:
        pool = draw_pool(asked, held, plan(3))
        run("select", asked, held, plan(3), pool)
        request = next(r for call in held.engine.calls for r in call.requests if is_selection(r.prompt))
        problem = next(p for p in asked if p.question in request.prompt)
        assert request.prompt == wording.select(problem, [a.completion.text for a in pool[problem.id]], PROMPTS)
        before = held.drawn
        run("select", asked, held, plan(3))
        assert held.drawn == before


def test_novel_and_unreadable_selections_are_counted(tmp_path):
    asked = problems(4)

    def respond(request, seed):
        if not is_selection(request.prompt):
            return says("A")
        return says({"0": "A", "1": "B", "2": None, "3": "C"}[request.prompt.split("number ")[1][0]])

    with sampler(tmp_path, respond) as held:
        outcomes = run("select", asked, held, plan(3))
    assert [o.credit for o in outcomes] == [0, 1, 0, 0]  # a novel answer may be right, and then it is credited
    assert [o.abstain for o in outcomes] == [0, 0, 1, 0]
    assert [o.calls[0].novel for o in outcomes] == [False, True, False, True]


def test_the_same_value_in_another_form_is_not_novel(tmp_path):
    def respond(request, seed):
        return "Answer: 0.33333333" if is_selection(request.prompt) else "Answer: 1/3"

    with sampler(tmp_path, respond) as held:
        [outcome] = run("select", [NUMBER], held, plan(2))
    assert outcome.credit == 1
    assert outcome.calls[0].answer in outcome.calls[0].shown  # in the form that most of them gave
    assert not outcome.calls[0].novel


def test_winner():
    likely, unlikely = made("B", logprob=-0.1), made("B", logprob=-0.9)
    other, silent = made("A", logprob=-0.2), made(None, logprob=-0.01)
    for group in ([unlikely, likely, other, silent], [silent, other, likely, unlikely]):
        assert select.winner(group, made("B")) is likely
        assert select.winner(group, made("A")) is other
        assert select.winner(group, made("D")) is likely  # nobody said D: the group's majority decides
        assert select.winner(group, made(None)) is likely
    assert select.winner([silent, made(None)], made("D")) is silent
    third = made("1/3", NUMBER)
    assert select.winner([made("7", NUMBER), third], made("0.33333333", NUMBER)) is third


@pytest.mark.parametrize(
    ("n", "most", "sizes"),
    [(10, 3, [2, 3, 2, 3]), (9, 3, [3, 3, 3]), (4, 3, [2, 2]), (3, 3, [3]), (1, 3, [1]), (7, 2, [1, 2, 2, 2])],
)
def test_even_groups(n, most, sizes):
    candidates = [made("A", tokens=k + 1) for k in range(n)]
    groups = select.even_groups(candidates, most)
    assert [len(group) for group in groups] == sizes
    assert [a for group in groups for a in group] == candidates


def test_tournament_rounds(tmp_path):
    """10 candidates in threes: 4 groups, then 2, then 1; the eventual winner was in every round."""
    with sampler(tmp_path, script("ACDABADCAD", knows), unit_rows=7) as held:
        outcomes = run("tournament", problems(8), held, plan(10))
    with_right = [o for o in outcomes if o.choices[0].n_right]
    assert with_right
    for outcome in outcomes:
        assert len(outcome.calls) == 4 + 2 + 1
        assert outcome.credit == float(outcome.choices[0].n_right > 0)


def test_distinct_candidates():
    first, likely, other, silent = made("A", logprob=-2), made("A", logprob=-1), made("C"), made(None, logprob=0)
    assert select.distinct([silent, first, other, likely]) == (other, likely)
    assert select.distinct([made(None, logprob=-1), silent]) == (silent,)
    assert select.distinct([first]) == (first,)


def test_one_distinct_answer_needs_no_call(tmp_path):
    with sampler(tmp_path, script("B", lambda shown: pytest.fail("asked"))) as held:
        for name in SELECTIONS:
            [outcome] = run(name, problems(1), held, plan(4, distinct=True, context_limit=WIDE))
            assert (outcome.credit, outcome.calls, outcome.cost.completions) == (1, (), 4)
    with sampler(tmp_path, script("AB"), weights="other") as held:
        outcomes = run("select", problems(20), held, plan(4, distinct=True))
    shown = {tuple(sorted(call.shown)) for o in outcomes for call in o.calls}
    assert shown == {("A", "B")}


def test_permutation_vote(tmp_path):
    """A selector that always takes the first place, asked in every order, is a fair draw: the vote is a tie."""
    asked = problems(12)
    with sampler(tmp_path, script("AB", lambda shown: shown[0])) as held:
        setting = plan(2, permutations=5)
        pool = draw_pool(asked, held, setting)
        outcomes = run("permuted", asked, held, setting, pool)
    mixed = [o for o in outcomes if o.choices[0].n_right == 1]
    assert mixed
    for outcome in mixed:
        assert len(outcome.calls) == 2  # two candidates have two orders, however many were asked for
        assert (outcome.choices[0].answers, outcome.credit) == (("A", "B"), 0.5)
        assert {call.shown for call in outcome.calls} == {("A", "B"), ("B", "A")}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(SELECTIONS))
def test_order_of_problems_changes_nothing(tmp_path_factory, random, name):
    asked = problems(4)
    setting = plan(3, pool=4, draws=3, context_limit=WIDE, permutations=2)
    with sampler(tmp_path_factory.mktemp("o"), script("ABCD", lambda shown: min(shown[:2]))) as held:
        one = {o.problem_id: o for o in run(name, asked, held, setting)}
        shuffled = random.sample(asked, len(asked))
        assert {o.problem_id: o for o in run(name, shuffled, held, setting)} == one


def test_select_at_n_over_subsets(tmp_path):
    """A selector that takes the first place gets mean@1 on average, and the stated error covers the difference."""
    asked = problems(40)
    setting = plan(2, pool=6, draws=6)
    with sampler(tmp_path, script("ABCB")) as held:
        pool = draw_pool(asked, held, setting)
        outcomes = run("select", asked, held, setting, pool)
        mean = run("mean", asked, held, setting, pool)
    # Six draws from a pool of six: every sample stands first exactly once, so here the mean is even exact.
    assert [o.credit for o in outcomes] == pytest.approx([o.credit for o in mean])
    for outcome in outcomes:
        assert len(outcome.choices) == len(outcome.calls) == 6
        credits = [choice.credit for choice in outcome.choices]
        spread = sum((c - outcome.credit) ** 2 for c in credits) / 5
        assert outcome.error == pytest.approx(math.sqrt(spread / 6))
        for place in (0, 1):
            assert sum(call.right[place] for call in outcome.calls) == sum(a.right for a in pool[outcome.problem_id])
        assert outcome.cost.completions == 3  # of one draw: two samples and a selection
    with sampler(tmp_path, script("ABCB")) as held:
        alone = run("select", asked[:2], held, replace(setting, draws=1))
        assert [o.error for o in alone] == [None, None]
        assert run("select", asked[:2], held, plan(2))[0].error == 0


@pytest.mark.slow
def test_the_stated_error_is_honest(tmp_path):
    """Over many seeds, the spread of select@n around its exact value is no larger than the error says."""
    asked = problems(1)

    def choose(shown):  # right only when B stands before A
        return "B" if "B" in shown and ("A" not in shown or shown.index("B") < shown.index("A")) else "A"

    with sampler(tmp_path, script("ABCDABCD", choose)) as held:
        setting = plan(2, pool=8, draws=4)
        pool = {"p0": [attempt(a.completion, asked[0]) for a in map(made, "ABBCADCB")]}
        pool["p0"] = [
            attempt(replace(a.completion, text=f"word{k} {a.completion.text}"), asked[0])
            for k, a in enumerate(pool["p0"])
        ]
        found = [run("select", asked, held, replace(setting, seed=seed), pool)[0] for seed in range(150)]
    rows = [(x, y) for i, x in enumerate("ABBCADCB") for j, y in enumerate("ABBCADCB") if i != j]
    exact = sum(choose(row) == "B" for row in rows) / len(rows)
    mean = sum(o.credit for o in found) / len(found)
    spread = math.sqrt(sum((o.credit - exact) ** 2 for o in found) / len(found))
    stated = math.sqrt(sum(o.error**2 for o in found) / len(found))
    assert mean == pytest.approx(exact, abs=4 * spread / math.sqrt(len(found)))
    assert spread <= 1.1 * stated


def test_recursive_takes_as_many_as_fit(tmp_path):
    question = len(wording.select(problems(1)[0], [], PROMPTS).split())
    each = 3 + len(says("A").split())  # "Prediction 2:" and the text, which begins with try...
    room = ContextLimit(question + 4 * each + 20, lambda prompt, image: len(prompt.split()))
    short = replace(SAMPLING, max_tokens=10)
    with sampler(tmp_path, script("ACDABADCAD", knows)) as held:
        outcomes = run("recursive", problems(5), held, plan(10, context_limit=room, sampling=short))
        with pytest.raises(ConfigError, match=r"does not fit: \d+ tokens of prompt \+ 20 of answer > \d+ positions"):
            run("select", problems(5), held, plan(10, context_limit=room, sampling=short))
        before = len(held.engine.calls)
        narrow = ContextLimit(question + each + 20, room.count)
        with pytest.raises(ConfigError, match=r"problem p0 \(and 4 more\) does not fit"):
            run("recursive", problems(5), held, plan(10, context_limit=narrow, sampling=short))
        assert len(held.engine.calls) == before
    for outcome in outcomes:
        assert [len(call.shown) for call in outcome.calls] == [4, 4, 2, 3]
        assert outcome.credit == float(outcome.choices[0].n_right > 0)


def test_the_longest_that_may_meet_must_fit(tmp_path):
    """Two long candidates meet in some round, whatever the first groups are: refused before the first of them."""
    long, short = made("A", tokens=40), made("B", tokens=3)
    long = replace(long, completion=replace(long.completion, text="word " * 38 + "Answer: A"))
    empty = len(wording.select(PROBLEM, [], PROMPTS).split())
    room = ContextLimit(empty + 20 + 70, lambda prompt, image: len(prompt.split()))
    setting = plan(4, context_limit=room, group=2)
    with sampler(tmp_path, lambda request, seed: says("B")) as held:
        for name in ("tournament", "recursive"):
            assert run(name, [PROBLEM], held, setting, {"q": [long, short, short, short]})[0].credit == 1
        before = len(held.engine.calls)
        for name in ("tournament", "recursive", "select"):
            with pytest.raises(ConfigError, match=r"problem q does not fit: \d+ tokens"):
                run(name, [PROBLEM], held, setting, {"q": [long, short, short, long]})
        assert len(held.engine.calls) == before


def test_what_cannot_fit_is_refused_before_sampling(tmp_path):
    with sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held:
        count = lambda prompt, image: len(prompt.split())  # noqa: E731
        cot = len(wording.cot(problems(1)[0], PROMPTS).split())
        with pytest.raises(ConfigError, match=f"{cot} tokens of prompt . 60 of answer > {cot + 59} positions"):
            run("majority", problems(2), held, plan(2, context_limit=ContextLimit(cot + 59, count)))
        with pytest.raises(ConfigError, match="with 30 empty candidates"):
            run("select", problems(2), held, plan(30, context_limit=ContextLimit(cot + 60, count)))


def test_the_reasoning_form(tmp_path):
    def respond(request, seed):
        if is_selection(request.prompt):
            assert request.prompt.endswith("\nWhich prediction is correct, and why?")
            return "Prediction 2 is correct. 180-160=20.\nAnswer: (B)"
        return says("AB"[seed % 2])

    with sampler(tmp_path, respond) as held:
        outcomes = run("select", problems(6), held, plan(2, form="reasoning"))
    assert {call.named for o in outcomes for call in o.calls} == {2}
    assert {o.credit for o in outcomes} == {1.0}


# ---- the rationale form ------------------------------------------------------------------------------------------


def derives(letter: str, k: int = 0) -> str:
    return f"<think>way {k} leads to {letter}</think>\nAnswer: ({letter})"


def rationale(n: int, **changes):
    return plan(n, form="rationale", **changes)


def asked_for(held) -> list[str]:
    return [r.prompt for call in held.engine.calls for r in call.requests if is_selection(r.prompt)]


def test_equal_texts_are_shown_once_with_their_number(tmp_path):
    """Samples A A B, of which the first two are one text: the vote is in the prompt."""

    def respond(request, seed):
        return derives("C") if is_selection(request.prompt) else derives("AAB"[seed % 3])

    one = problems(1)
    with sampler(tmp_path, respond) as held:
        (outcome,) = run("select", one, held, rationale(3))
        (prompt,) = asked_for(held)
    shown = Counter(a for a in outcome.calls[0].shown)
    drawn = [r for call in held.engine.calls for r in call.requests if not is_selection(r.prompt)]
    samples = [respond(request, seed) for request in drawn for seed in request.seeds]
    assert prompt == wording.select(one[0], samples, PROMPTS, "rationale")
    assert shown == Counter(dict.fromkeys({judge(text, PROBLEM).extracted for text in samples}, 1))
    assert outcome.choices[0].answers == ("C",)
    assert outcome.calls[0].novel, "an answer that no candidate gave counts"


@pytest.mark.parametrize(
    ("said", "answers", "named"),
    [
        (derives("D"), ("D",), None),  # judged by its derivation
        ("Prediction 1 is correct.\n" + derives("D"), ("D",), 1),  # also against what it names
        ("Prediction 2 is correct.", ("B",), 2),  # no answer: the candidate's that it names
        ("Prediction 7 is correct.", (), None),  # which was not shown
        ("All of them look fine.", (), None),  # unreadable
        ("", (), None),
    ],
)
@pytest.mark.parametrize("form", ["rationale", "reasoning"])
def test_how_a_selection_is_read(tmp_path, said, answers, named, form):
    """A named candidate stands for a missing answer in the rationale form alone; the others are read as ever."""
    one = problems(1)
    texts = [derives("A"), derives("B")]
    pool = {one[0].id: [attempt(Completion(text, (1, 2), 9, "stop", None), one[0]) for text in texts]}
    with sampler(tmp_path, lambda request, seed: said) as held:
        (outcome,) = run("select", one, held, plan(2, form=form), pool)
    if form == "reasoning" and said == "Prediction 2 is correct.":
        answers = ()
    assert outcome.choices[0].answers == answers
    assert outcome.abstain == (not answers)
    assert outcome.calls[0].named == named
    assert outcome.credit == (answers == ("B",))


def test_a_prompt_is_cut_to_what_was_trained(tmp_path):
    """Ten samples, at most three different texts, the most frequent ones; and no more characters than trained."""
    letters = "ABBCCCDDDD"

    def respond(request, seed):
        return derives("B") if is_selection(request.prompt) else pytest.fail("the pool is given")

    one = problems(1)
    pool = {one[0].id: [attempt(Completion(derives(a), (1, 2, 3), 9, "stop", None), one[0]) for a in letters]}
    for limit, kept in (
        (wording.ShowLimit(texts=3), "BCD"),
        (wording.ShowLimit(texts=3, characters=2 * len(derives("A"))), "CD"),
        (wording.ShowLimit(), "ABCD"),
    ):
        with sampler(tmp_path / kept, respond) as held:
            (outcome,) = run("select", one, held, rationale(10, limit=limit), pool)
            (prompt,) = asked_for(held)
        assert outcome.calls[0].shown == tuple(kept)
        assert [f"{derives(a)}" in prompt for a in "ABCD"] == [a in kept for a in "ABCD"]
        assert "x4: " in prompt
        assert outcome.choices[0].n_right == 2, "all candidates count for what could be chosen"


def test_one_text_alone_is_still_checked(tmp_path):
    one = problems(1)
    with sampler(tmp_path, lambda request, seed: derives("B" if is_selection(request.prompt) else "A")) as held:
        (outcome,) = run("select", one, held, rationale(3))
    assert outcome.credit == 1


def test_derivations_meet_in_the_next_round(tmp_path):
    """5 + 5 → 2: what the first round wrote is shown in the second, whether or not a candidate had that answer."""
    fused = iter([derives("C", 100), derives("B", 200), derives("B", 300)])

    def respond(request, seed):
        return next(fused) if is_selection(request.prompt) else derives("A", seed)

    with sampler(tmp_path, respond) as held:
        (outcome,) = run("tournament", problems(1), held, rationale(10, group=5))
        last = asked_for(held)[-1]
    assert [len(call.shown) for call in outcome.calls] == [5, 5, 2]
    assert derives("C", 100) in last
    assert derives("B", 200) in last
    assert outcome.credit == 1


def test_arithmetic_counts_the_longest_different_texts(tmp_path):
    """Many short different texts beside equal long ones: what is refused is what could be shown."""
    one = problems(1)
    long, short = derives("A " + "so " * 30), [derives("B", k) for k in range(3)]
    pool = {
        one[0].id: [
            attempt(Completion(text, tuple(range(len(text.split()))), 9, "stop", None), one[0])
            for text in [long, long, *short]
        ]
    }
    words = len(wording.select(one[0], [long, *short], PROMPTS, "rationale").split())
    for limit, fits in ((words + 20, True), (words + 19, False)):
        context = ContextLimit(limit, lambda prompt, image: len(prompt.split()))
        with sampler(tmp_path / str(limit), lambda request, seed: derives("B")) as held:
            if fits:
                run("select", one, held, rationale(5, context_limit=context), pool)
            else:
                with pytest.raises(ConfigError, match=r"tokens of prompt \+ 20 of answer"):
                    run("select", one, held, rationale(5, context_limit=context), pool)
                assert not held.engine.calls


# ---- what a prompt shows -------------------------------------------------------------------------------------------


def seen(held):
    """The texts that each selector's prompt showed."""
    return [predictions(r.prompt) for call in held.engine.calls for r in call.requests if is_selection(r.prompt)]


def test_forced_candidates_are_shown_by_their_last_derivation(tmp_path):
    """So a prompt with forced candidates is no longer than one with plain ones; the vote is over the same answers."""

    def respond(request, seed):
        return (
            says("B")
            if is_selection(request.prompt)
            else f"<think>step {seed % 7}</think>\nAnswer: ({'ABC'[seed % 3]})"
        )

    forced = replace(SAMPLING, max_tokens=60, budget=replace(TINY, num_ignore=2))
    with sampler(tmp_path, respond) as held:
        pool = draw_pool(problems(1), held, plan(3, sampling=forced))
        [one] = run("select", problems(1), held, plan(3, sampling=forced), pool)
        [shown] = seen(held)
    for text, candidate in zip(shown, pool["p0"], strict=True):
        assert candidate.completion.text.count(" Wait,") == 2
        assert " Wait," not in text
        assert text.startswith("<think>step")
        assert candidate.completion.text.endswith(text.removeprefix("<think>"))
        assert judge(text, PROBLEM).extracted == candidate.answer
    assert one.calls[0].shown == tuple(a.answer for a in pool["p0"])


def test_the_selectors_own_texts_go_on(tmp_path):
    """In the final of a fused tournament it meets what it wrote itself; in a plain one the candidates that it chose."""

    def respond(request, seed):
        if not is_selection(request.prompt):
            return f"try{seed} {says('ABCD'[seed % 4])}"
        return f"own words\n{says('B')}" if "try" in request.prompt else says("C")

    with sampler(tmp_path / "fused", respond) as held:
        [fused] = run("fused", problems(1), held, plan(6, group=3))
        *first, final = seen(held)
        assert [len(shown) for shown in first] == [3, 3]
        assert final == [f"own words\n{says('B')}"] * 2
    assert fused.choices[0].answers == ("C",)
    with sampler(tmp_path / "plain", respond) as held:
        run("tournament", problems(1), held, plan(6, group=3))
        assert all(text.startswith("try") for text in seen(held)[-1])


def test_an_unreadable_selection_does_not_go_on(tmp_path):
    def respond(request, seed):
        return says(None) if is_selection(request.prompt) else f"try{seed} {says('B')}"

    with sampler(tmp_path, respond) as held:
        run("fused", problems(1), held, plan(4, group=2))
        assert all(text.startswith("try") for text in seen(held)[-1])


# (texts by their letters, at most so many different texts, what is shown)
MOST_FREQUENT = [
    ("ABBCCC", 1, "C"),
    ("ABBCCC", 2, "BC"),
    ("ABBCCC", 3, "ABC"),
    ("ABC", 2, "AB"),  # of equals the first ones
    ("CBA", 2, "CB"),
    ("AAA", 2, "A"),
]


@pytest.mark.parametrize(("letters", "most", "shown"), MOST_FREQUENT)
def test_the_most_frequent_texts(letters, most, shown):
    candidates = [made(letter) for letter in letters]
    kept = select.fitted(PROBLEM, candidates, plan(len(letters), texts=most))
    assert "".join(a.answer for a in kept) == shown
    assert select.fitted(PROBLEM, candidates, plan(len(letters))) == candidates


@given(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=8), st.integers(0, 60))
def test_a_prompt_is_cut_to_the_length_of_training(letters, room):
    """Down to one text. Where all fit, all are shown."""
    candidates = [made(letter, tokens=5) for letter in letters]
    count = len(select.show(PROBLEM, [], plan(1)).split()) + room
    limit = ContextLimit(10_000, lambda prompt, image: len(prompt.split()), trained=count)
    setting = plan(len(letters), context_limit=limit)
    kept = select.fitted(PROBLEM, candidates, setting)
    fits = limit.count(select.show(PROBLEM, kept, setting), None) <= count
    assert fits or len({a.answer for a in kept}) == 1
    assert (kept == candidates) == (
        limit.count(select.show(PROBLEM, candidates, setting), None) <= count or len({*letters}) == 1
    )
    counts = {letter: letters.count(letter) for letter in letters}
    shown = {a.answer for a in kept}
    assert min(counts[a] for a in shown) >= max((counts[a] for a in counts if a not in shown), default=0)


@pytest.mark.parametrize("name", ["select", "tournament", "fused", "recursive", "permuted"])
def test_what_was_left_out_is_counted(tmp_path, name):
    """No prompt is longer than the limit, and shown and left out make up the group."""
    empty = len(select.show(problems(1)[0], [], plan(1)).split())
    limit = ContextLimit(10_000, lambda prompt, image: len(prompt.split()), trained=empty + 22)
    with sampler(tmp_path, script("ABCD")) as held:
        [one] = run(name, problems(1), held, plan(8, context_limit=limit, group=4, permutations=2))
        prompts = [r.prompt for call in held.engine.calls for r in call.requests if is_selection(r.prompt)]
    assert all(limit.count(prompt, None) <= empty + 22 for prompt in prompts)
    assert all(len(call.shown) + call.left_out <= 8 for call in one.calls)
    assert (max(call.left_out for call in one.calls) > 0) == (name != "recursive")


def test_a_limit_below_an_empty_candidate_is_refused():
    limit = ContextLimit(10_000, lambda prompt, image: len(prompt.split()), trained=5)
    with pytest.raises(ConfigError, match=r"one empty candidate has \d+ tokens of prompt, and the longest in .* had 5"):
        preflight(["select"], [PROBLEM], plan(3, context_limit=limit))
