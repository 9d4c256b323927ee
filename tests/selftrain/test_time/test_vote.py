"""Choosing without the model: order-free, and exact over subsets by comparison with all of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.schema import Problem
from selftrain.test_time import vote
from selftrain.test_time.records import Choice, ballots, most_likely
from tests.selftrain.test_time.helpers import NUMBER, attempts, made

fast = settings(max_examples=60, deadline=None)
weights_for = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]), min_size=7, max_size=7)


def test_majority_counts_equivalent_answers_and_shares_ties():
    choice = vote.majority([made("B"), made("(b)"), made("A"), made(None)])
    assert (choice.answers, choice.credit, choice.n_right) == (("B",), 1.0, 2)
    assert vote.majority([made("A"), made("B")]).credit == 0.5
    assert vote.majority([made(None)]).answers == ()
    # 0.5, 1/2 and 50% are one answer, and so are 1/3 and 0.33333333.
    halves = vote.majority([made(text, NUMBER) for text in ("0.5", "1/2", "1/3")])
    assert (len(halves.answers), halves.credit) == (1, 0.0)
    both = [made("1/3", NUMBER), made("0.33333333", NUMBER), made("7", NUMBER)]
    assert vote.majority(both).credit == 1
    assert vote.majority_at_n(both, 3) == 1


ROOT = Problem("root", "How long is AB?", "2\\sqrt{3}", answer_type="expression")
FORMS = ("2√3", "3.46", "3.464", "5", "5")  # three forms of the right answer against two equal wrong ones


def test_answers_that_the_judge_holds_equal_are_one_vote():
    cast = [made(text, ROOT) for text in FORMS]
    assert ballots(cast) == ["2*sqrt(3)"] * 3 + ["5"] * 2
    assert vote.majority(cast) == vote.majority(cast[::-1]) == Choice(("2*sqrt(3)",), 1.0, 3)
    assert vote.majority_at_n(cast, 5) == 1
    weights = [1.0, 1.0, 1.0, 1.4, 1.4]  # 3.0 against 2.8; split, each form would lose
    assert vote.weighted(cast, weights).credit == 1
    assert vote.weighted_credits(cast, weights, [(0, 1, 3), (0, 3), (1, 2, 3)]) == [1, 0, 1]
    assert vote.best_of(cast, [1.0, 1.0, 1.0, 0.0, 0.0]) == Choice(("2*sqrt(3)",), 1.0, 3)


def test_equality_of_votes_is_transitive_and_needs_no_gold_answer():
    """3.46 and 3.464 are two numbers, but 2√3 rounds to both; without it they are two votes."""
    apart = [made(text, ROOT) for text in ("3.46", "3.464")]
    assert len(set(ballots(apart))) == 2
    for gold in ("7", "2\\sqrt{3}"):
        problem = replace(ROOT, answer=gold)
        assert len(set(ballots([made(text, problem) for text in FORMS]))) == 2
    most = [made(text, ROOT) for text in ("3.46", "3.46", "2√3", "3.464")]
    assert set(ballots(most)) == {"3.46"}  # the form that most of them gave
    assert ballots([made(None), made("A"), made("(a)")]) == [None, "A", "A"]


@pytest.mark.parametrize(
    ("logprobs", "answers", "credit"),
    [
        ((-0.1, -2.0, -2.0), ("A",), 0.0),  # e^-0.1 = 0.90 > 2 e^-2 = 0.27
        ((-1.0, -1.0, -1.0), ("B",), 1.0),
        ((math.log(0.6), math.log(0.4), math.log(0.3)), ("B",), 1.0),  # the likeliest sample is outvoted
        ((math.log(0.5), math.log(0.25), math.log(0.25)), ("A", "B"), 0.5),
    ],
)
def test_weighted_vote(logprobs, answers, credit):
    cast = [made(answer, logprob=p) for answer, p in zip("ABB", logprobs, strict=True)]
    choice = vote.weighted(cast, [vote.likelihood(a) for a in cast])
    assert (choice.answers, choice.credit) == (answers, credit)


def test_an_unknown_likelihood_is_none():
    """Not e: the placeholder in the bank would weigh three times as much as certainty."""
    known, unknown = made("A", logprob=-3.0), made("B", logprob=None)
    assert (known.logprob, unknown.logprob) == (-3.0, None)
    with pytest.raises(ValueError, match="no log-probabilities"):
        vote.likelihood(unknown)
    assert most_likely([unknown, known]) is known
    other = made("A", logprob=None)
    assert most_likely([unknown, other]) is most_likely([other, unknown])


@fast
@given(attempts, weights_for, st.randoms(use_true_random=False))
def test_no_order_changes_a_choice(cast, weights, random):
    weights = weights[: len(cast)]
    order = random.sample(range(len(cast)), len(cast))
    other, other_weights = [cast[i] for i in order], [weights[i] for i in order]
    assert vote.majority(other) == vote.majority(cast)
    assert vote.weighted(other, other_weights) == vote.weighted(cast, weights)
    assert vote.best_of(other, other_weights) == vote.best_of(cast, weights)
    for n in range(1, len(cast) + 1):
        assert vote.majority_at_n(other, n) == vote.majority_at_n(cast, n)
        assert vote.best_of_at_n(other, other_weights, n) == pytest.approx(vote.best_of_at_n(cast, weights, n))


@fast
@given(attempts, weights_for)
def test_equal_weights_are_a_majority(cast, weights):
    assert vote.weighted(cast, [weights[0] or 0.7] * len(cast)) == vote.majority(cast)


@fast
@given(attempts, weights_for, st.data())
def test_at_n_is_the_mean_over_all_subsets(cast, weights, data):
    n = data.draw(st.integers(1, len(cast)))
    rows = list(itertools.combinations(range(len(cast)), n))

    def over_subsets(credit):
        return pytest.approx(sum(credit([cast[i] for i in row], [weights[i] for i in row]) for row in rows) / len(rows))

    assert vote.majority_at_n(cast, n) == over_subsets(lambda few, w: vote.majority(few).credit)
    assert vote.best_of_at_n(cast, weights[: len(cast)], n) == over_subsets(lambda few, w: vote.best_of(few, w).credit)
    assert vote.pass_at_n(cast, n) == over_subsets(lambda few, w: float(any(a.right for a in few)))
    assert vote.no_answer_rate(cast, n) == over_subsets(lambda few, w: float(all(a.answer is None for a in few)))


@fast
@given(attempts, weights_for)
def test_the_oracle_grows_and_bounds_every_choice(cast, weights):
    weights = weights[: len(cast)]
    bounds = [vote.pass_at_n(cast, n) for n in range(1, len(cast) + 1)]
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(vote.mean(cast))
    for n, bound in enumerate(bounds, start=1):
        assert vote.majority_at_n(cast, n) <= bound + 1e-12
        assert vote.best_of_at_n(cast, weights, n) <= bound + 1e-12
    assert vote.weighted(cast, weights).credit <= bounds[-1]


def test_best_of():
    cast = [made("A", logprob=-0.2), made("B", logprob=-0.2), made(None, logprob=-0.1), made("B", logprob=-0.2)]
    choice = vote.best_of(cast, [a.logprob for a in cast])
    # The unreadable sample is the most likely and does not win; the fair draw is among samples, not among answers.
    assert (choice.answers, choice.credit) == (("A", "B"), pytest.approx(2 / 3))
    assert vote.best_of([made(None)], [1.0]).answers == ()


def test_refusals():
    cast = [made("A"), made("B")]
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weighs"):
            vote.weighted(cast, [1.0, bad])
    with pytest.raises(ValueError, match="finite"):
        vote.best_of(cast, [1.0, math.nan])
    for n in (0, 3):
        for function in (vote.majority_at_n, vote.pass_at_n, lambda a, n: vote.best_of_at_n(a, [1, 2], n)):
            with pytest.raises(ValueError, match="between 1 and"):
                function(cast, n)
            with pytest.raises(ValueError, match="between 1 and"):
                function([made("C"), made("C")], n)  # no right answer: still not a number
    with pytest.raises(ValueError, match="no samples"):
        vote.mean([])


@pytest.mark.slow
@settings(max_examples=150)
@given(attempts, st.data())
def test_reward_pass(samples, data):
    """Against all subsets and all orders of samples that tie; golden: pass@n if all may be looked at, else less."""
    scores = data.draw(st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=len(samples), max_size=len(samples)))
    n = data.draw(st.integers(1, min(4, len(samples))))
    top = data.draw(st.integers(1, 5))
    hits = []
    for few in itertools.combinations(range(len(samples)), n):
        for lots in itertools.permutations(few):
            best = sorted(lots, key=lambda i: (samples[i].answer is None, -scores[i]))[:top]
            hits.append(any(samples[i].right for i in best))
    found = vote.top_has_right_at_n(samples, scores, n, top)
    assert found == pytest.approx(sum(hits) / len(hits))
    assert found <= vote.pass_at_n(samples, n) + 1e-12
    if top >= n:
        assert found == pytest.approx(vote.pass_at_n(samples, n))
    if top == 1:
        assert found == pytest.approx(vote.best_of_at_n(samples, scores, n))
