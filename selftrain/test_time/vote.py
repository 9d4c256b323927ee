"""Choosing among judged samples without another look at the problem: votes, best-of-N, and their exact means.

Pure functions of the samples of one problem; no order of the samples changes a result, and an unreadable sample never
votes or wins. The `..._at_n` functions are exact means over all subsets of n samples, not "the first n".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from selftrain import stats
from selftrain.test_time.records import Attempt, Choice, ballots, choice_of

TIE = 1e-12  # relative: weights that differ by less share a place; rounding must not break a tie


def majority(attempts: Sequence[Attempt]) -> Choice:
    """The most frequent answer, in any of its forms; a tie is shared."""
    return choice_of(stats.majority(ballots(attempts)), attempts)


def likelihood(attempt: Attempt) -> float:
    """exp of the mean log-probability: the geometric mean of the tokens' probabilities, in (0, 1].

    A mean, so that a long sample does not weigh less for being long. What a budget forced is in it as the engine
    documents for `Completion.mean_logprob`. ValueError for an attempt whose log-probability is not known.
    """
    if attempt.logprob is None:
        raise ValueError("the server gave no log-probabilities for this sample, so its likelihood is not known")
    return math.exp(attempt.logprob)


def weighted(attempts: Sequence[Attempt], weights: Sequence[float]) -> Choice:
    """The answer whose samples have the largest total weight; a tie is shared. Equal weights make it `majority`.

    ValueError: a weight that is negative or not finite, or not one for each attempt.
    """
    _check_weights(weights)
    return choice_of(heaviest(ballots(attempts), weights), attempts)


def weighted_credits(
    attempts: Sequence[Attempt], weights: Sequence[float], subsets: Iterable[Sequence[int]]
) -> list[float]:
    """The credit of `weighted` on each of `subsets`, which hold indices into `attempts`. ValueError as there."""
    _check_weights(weights)
    answers = ballots(attempts)
    right = {a.answer for a in attempts if a.right}
    credits = []
    for subset in subsets:
        leaders = heaviest([answers[i] for i in subset], [weights[i] for i in subset]) if right else ()
        credits.append(sum(answer in right for answer in leaders) / len(leaders) if leaders else 0.0)
    return credits


def heaviest(answers: Sequence[str | None], weights: Sequence[float]) -> list[str]:
    """The answers of the largest total weight, several if they tie; None has no vote."""
    parts: dict[str, list[float]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            parts.setdefault(answer, []).append(weight)
    totals = {answer: math.fsum(several) for answer, several in parts.items()}  # exact, so in any order
    most = max(totals.values(), default=0.0)
    return [answer for answer, total in totals.items() if total >= most * (1 - TIE)]


def _check_weights(weights: Sequence[float]) -> None:
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise ValueError(f"a vote weighs something finite and not negative, not {weight}")


def best_of(attempts: Sequence[Attempt], scores: Sequence[float]) -> Choice:
    """The answer of the readable sample with the highest score; samples that tie share it, each with its own answer.

    The credit is that of a fair draw among the tied samples. ValueError: a score that is not finite, or not one each.
    """
    ranked = _ranked(attempts, scores)
    if not ranked:
        return choice_of((), attempts)
    first = [a for a, score in ranked if score == ranked[0][1]]
    choice = choice_of((answer for answer in ballots(first) if answer is not None), attempts)
    return Choice(choice.answers, sum(a.right for a in first) / len(first), choice.n_right)


def mean(attempts: Sequence[Attempt]) -> float:
    """The expected credit of one sample: mean@1. ValueError without samples."""
    if not attempts:
        raise ValueError("the mean credit of no samples")
    return sum(a.right for a in attempts) / len(attempts)


def pass_at_n(attempts: Sequence[Attempt], n: int) -> float:
    """Chance that n of the samples contain a right one (unbiased pass@n): what a perfect selector would get."""
    return stats.pass_at_k(len(attempts), sum(a.right for a in attempts), n)


def majority_at_n(attempts: Sequence[Attempt], n: int) -> float:
    """Mean credit of `majority` over all subsets of n. Several right forms each earn their share."""
    answers = ballots(attempts)
    correct = {a.answer for a in attempts if a.right}
    right = sorted({answer for answer in answers if answer is not None and answer in correct})
    if not right:
        _check_n(attempts, n)
    return math.fsum(stats.vote_at_n(answers, form, n) for form in right)


def best_of_at_n(attempts: Sequence[Attempt], scores: Sequence[float], n: int) -> float:
    """Mean credit of `best_of` over all subsets of n.

    A subset's best score is s when it has no sample above s and one with s. Samples of equal score are exchangeable, so
    the draw among those of them that are in the subset is right as often as they are.
    """
    _check_n(attempts, n)
    ranked = _ranked(attempts, scores)
    ways, above, credit = math.comb(len(attempts), n), 0, []
    while above < len(ranked):
        level = [a for a, score in ranked[above:] if score == ranked[above][1]]
        has_best = math.comb(len(attempts) - above, n) - math.comb(len(attempts) - above - len(level), n)
        credit.append(has_best / ways * sum(a.right for a in level) / len(level))
        above += len(level)
    return math.fsum(credit)


def top_has_right_at_n(attempts: Sequence[Attempt], scores: Sequence[float], n: int, top: int) -> float:
    """Chance that a right sample is among the `top` of n with the highest scores: Reward-Pass@top (arXiv 2412.17451).

    The mean over all subsets of n; samples that tie for the last places draw lots. With `top` n it is pass@n, with 1
    `best_of_at_n`. An unreadable sample comes after all others.

    The top of a subset is all wrong when no right sample of a level above its last place is in it, and the lots for the
    last places fall on wrong ones. Samples of a level are exchangeable, so the lot of some of those in the subset is
    one of as many of the whole level.
    """
    _check_n(attempts, n)
    ranked = _ranked(attempts, scores)
    rest = [a for a in attempts if a.answer is None]
    levels = [[a for a, s in ranked if s == score] for score in sorted({s for _, s in ranked}, reverse=True)]
    top, above, above_wrong, failures = min(top, n), 0, 0, Fraction(0)
    for level in [*levels, rest] if rest else levels:
        size, wrong = len(level), sum(not a.right for a in level)
        below = len(attempts) - above - size
        for better in range(min(top - 1, above_wrong) + 1):  # wrong samples above this level, which fill first places
            places = top - better
            here = sum(math.comb(size, k) * math.comb(below, n - better - k) for k in range(places, n - better + 1))
            lots = Fraction(math.comb(wrong, places), math.comb(size, places)) if places <= size else Fraction(0)
            failures += math.comb(above_wrong, better) * here * lots
        above, above_wrong = above + size, above_wrong + wrong
    return float(1 - failures / math.comb(len(attempts), n))


def no_answer_rate(attempts: Sequence[Attempt], n: int) -> float:
    """Chance that n of the samples contain nothing readable."""
    if n == 1:
        return sum(a.answer is None for a in attempts) / len(attempts)  # not a rounding error away from it
    return 1 - stats.pass_at_k(len(attempts), sum(a.answer is not None for a in attempts), n)


def _ranked(attempts: Sequence[Attempt], scores: Sequence[float]) -> list[tuple[Attempt, float]]:
    """The readable attempts with their scores, best first."""
    for score in scores:
        if not math.isfinite(score):
            raise ValueError(f"a score is a finite number, not {score}")
    readable = [(a, score) for a, score in zip(attempts, scores, strict=True) if a.answer is not None]
    return sorted(readable, key=lambda pair: -pair[1])


def _check_n(attempts: Sequence[Attempt], n: int) -> None:
    if not 1 <= n <= len(attempts):
        raise ValueError(f"a choice among {n} needs between 1 and {len(attempts)} samples; sample more or lower n")
