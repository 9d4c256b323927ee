"""The records of this package: a judged attempt, a choice among several, what a strategy did with one question."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from data_process.judging import judge
from data_process.schema import Problem, Verdict
from selftrain import stats
from selftrain.engines.base import Completion
from selftrain.test_time.tokens import Spent, mean_spent


@dataclass(frozen=True)
class Attempt:
    """One completion with its verdict."""

    completion: Completion
    verdict: Verdict

    @property
    def answer(self) -> str | None:
        """Canonical, so equal for equivalent answers; None when nothing is readable."""
        return self.verdict.extracted

    @property
    def right(self) -> bool:
        return self.verdict.correct

    @property
    def logprob(self) -> float | None:
        """Mean over the tokens of ln p, at most 0; None where the engine gave none."""
        return self.completion.mean_logprob


def attempt(completion: Completion, problem: Problem) -> Attempt:
    return Attempt(completion, judge(completion.text, problem, truncated=completion.finish == "length"))


def most_likely(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt with the largest mean log-probability; the order of `attempts` does not matter.

    One whose log-probability is not known comes after all others; among such ones the text decides.
    """

    def rank(one: Attempt) -> tuple[float, str, tuple[int, ...]]:
        return (-math.inf if one.logprob is None else one.logprob, one.completion.text, one.completion.token_ids)

    return max(attempts, key=rank)


@dataclass(frozen=True)
class Choice:
    """What a rule settles on. `answers` are sorted and share first place; () when nothing was readable."""

    answers: tuple[str, ...]
    credit: float  # of a fair draw among `answers`, in [0, 1]
    n_right: int  # right ones among the candidates


def choice_of(answers: Iterable[str], attempts: Sequence[Attempt]) -> Choice:
    """The choice that consists of `answers`; the judge's verdict on `attempts` says which of them are right."""
    chosen = tuple(sorted(set(answers)))
    right = {a.answer for a in attempts if a.right}
    credit = len(right & set(chosen)) / len(chosen) if chosen else 0.0
    return Choice(chosen, credit, sum(a.right for a in attempts))


@dataclass(frozen=True)
class Pick:
    """One question put to a selector: what it was shown, in order, and what it said."""

    shown: tuple[str | None, ...]  # answers of the candidates; None is an unreadable candidate
    right: tuple[bool, ...]
    answer: str | None  # None: nothing readable was said
    correct: bool
    named: int | None = None  # the prediction that the text calls correct, from 1; only the reasoning form asks for it

    @property
    def novel(self) -> bool:
        """The selector gave an answer that no candidate gave. (Two right answers may be written differently.)"""
        return self.answer is not None and self.answer not in self.shown and not (self.correct and any(self.right))


@dataclass(frozen=True)
class Outcome:
    """What a strategy did with one problem."""

    problem_id: str
    credit: float  # in [0, 1]; a mean over draws or over all subsets where there are several
    unread: float  # share of draws in which nothing readable was chosen (credit 0)
    spent: Spent
    choices: tuple[Choice, ...] = ()  # one for each draw; () for an exact mean over all subsets
    error: float | None = 0.0  # Monte-Carlo standard error of `credit`; 0: nothing was drawn, None: one draw of many
    picks: tuple[Pick, ...] = ()  # every question put to a selector, in order
    path: tuple[Attempt, ...] = ()  # the attempts of a chain: rounds of refinement, tries of rejection sampling


def settled(problem: Problem, choice: Choice, spent: Spent, **more: Any) -> Outcome:
    """The outcome of a single draw."""
    return Outcome(problem.id, choice.credit, float(not choice.answers), spent, (choice,), **more)


def mean_outcome(draws: Sequence[Outcome], exhaustive: bool) -> Outcome:
    """Several draws for one problem as one outcome: means, every choice and pick kept.

    `exhaustive`: the draws are all there are, so nothing is left to chance. Otherwise `error` is s / sqrt(m) of m
    draws; draws with balanced positions differ more from each other than independent ones, so it is rather too large
    than too small. ValueError: no draws, or draws of different problems.
    """
    if len({draw.problem_id for draw in draws}) != 1:
        raise ValueError("a mean over draws needs draws of one problem")
    credit, error = mean_and_error([draw.credit for draw in draws], exhaustive)
    return Outcome(
        draws[0].problem_id,
        credit,
        math.fsum(draw.unread for draw in draws) / len(draws),
        mean_spent([draw.spent for draw in draws]),
        tuple(choice for draw in draws for choice in draw.choices),
        error,
        tuple(pick for draw in draws for pick in draw.picks),
        tuple(step for draw in draws for step in draw.path),
    )


def mean_and_error(credits: Sequence[float], exhaustive: bool) -> tuple[float, float | None]:
    """The mean of several draws and its standard error: 0 for all there are, None for one draw of many."""
    m = len(credits)
    credit = math.fsum(credits) / m
    if exhaustive:
        return credit, 0.0
    if m == 1:
        return credit, None
    return credit, math.sqrt(math.fsum((c - credit) ** 2 for c in credits) / (m - 1) / m)


def summary(outcomes: Sequence[Outcome], level: float = 0.95) -> dict[str, Any]:
    """Totals of one strategy over a split, JSON-able: a row of the table by total tokens.

    `accuracy`, `low`, `high`, `unread` are fractions, `tokens_per_problem` means; `drawing_error` is the standard error
    of the accuracy that the drawing of subsets leaves (it is part of no interval: those are over questions), None where
    some question had a single draw of many. ValueError without outcomes or with a problem that occurs twice.
    """
    n = len(outcomes)
    if not n:
        raise ValueError("a summary of no problems")
    if len({o.problem_id for o in outcomes}) < n:
        raise ValueError("a problem occurs twice in one summary")
    correct = min(math.fsum(o.credit for o in outcomes), float(n))  # thirds may add up to n and 1e-16
    low, high = stats.wilson(correct, n, level)
    errors = [o.error for o in outcomes]
    spent = mean_spent([o.spent for o in outcomes])
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "low": low,
        "high": high,
        "unread": math.fsum(o.unread for o in outcomes) / n,
        "drawing_error": None if None in errors else math.sqrt(math.fsum(e**2 for e in errors if e)) / n,
        "tokens_per_problem": {"generated": spent.generated, "prompt": spent.prompt, "total": spent.total},
        "completions_per_problem": spent.completions,
        "cut_per_problem": spent.cut,
    }


def credits(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Credit by problem id, as `stats.paired_test`, `stats.paired_bootstrap` and `stats.choose_on_dev` take it."""
    return {outcome.problem_id: outcome.credit for outcome in outcomes}
