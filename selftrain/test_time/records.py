"""The records of this package: a judged attempt, a choice among several, what a strategy did with one problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data_process.derivations import RIGHT, derivation_of
from data_process.judging import judge, same_answer
from data_process.schema import Problem, Verdict
from selftrain.engines.base import Completion
from selftrain.test_time.tokens import NOTHING, TokenCost, mean_cost


@dataclass(frozen=True)
class Rating:
    """What a reward model makes of a response. No gold answer has a part in it."""

    score: float  # the least of `steps`: the higher, the better
    steps: tuple[float, ...] = ()  # of each step in order
    cost: TokenCost = NOTHING  # of rating this response by itself


@dataclass(frozen=True)
class Attempt:
    """One completion with its verdict."""

    completion: Completion
    verdict: Verdict
    derivation: str | None = None  # "right", or its first fault; None where the data set has no such measure
    rating: Rating | None = None  # None: no reward model has looked at it

    @property
    def honest(self) -> bool:
        """The answer is right, and so is every step to it."""
        return self.right and self.derivation == RIGHT

    @property
    def answer(self) -> str | None:
        """Canonical; None when the judge could not read one. `ballots` brings different forms of one value together."""
        return self.verdict.extracted

    @property
    def right(self) -> bool:
        return self.verdict.correct

    @property
    def logprob(self) -> float | None:
        """Mean over the tokens of ln p, at most 0; None where the engine gave none."""
        return self.completion.mean_logprob


def attempt(completion: Completion, problem: Problem) -> Attempt:
    verdict = judge(completion.text, problem, truncated=completion.finish == "length")
    return Attempt(completion, verdict, derivation_of(completion.text, verdict, problem))


def ballots(attempts: Sequence[Attempt]) -> list[str | None]:
    """The answer that each attempt votes for: one text for all answers that the judge holds equal, None for none.

    Equality is that of pairs, made transitive; the gold answer has no part in it. The text is the form that most of
    them gave; among equals the one that is not a rounded decimal, then the first in the alphabet.
    """
    return equal_answers([a.verdict for a in attempts])


def equal_answers(verdicts: Sequence[Verdict]) -> list[str | None]:
    """`ballots` of responses that are known by their verdicts alone."""
    counts = Counter(v.extracted for v in verdicts)
    forms = list({v.extracted: v for v in verdicts if v.extracted is not None}.values())
    classes: list[list[Verdict]] = []
    for form in forms:
        equal = [c for c in classes if any(same_answer(form, other) for other in c)]
        classes = [c for c in classes if c not in equal] + [[form, *(other for c in equal for other in c)]]

    def rank(answer: str) -> tuple[int, bool, str]:
        return -counts[answer], "." in answer, answer

    names: dict[str | None, str | None] = {None: None}
    for several in classes:
        answers = [v.extracted for v in several if v.extracted is not None]
        names.update(dict.fromkeys(answers, min(answers, key=rank)))
    return [names[v.extracted] for v in verdicts]


def most_likely(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt with the largest mean log-probability; the order of `attempts` does not matter.

    Attempts without a log-probability come after all others; among these the text decides.
    """

    def rank(one: Attempt) -> tuple[float, str, tuple[int, ...]]:
        return (-math.inf if one.logprob is None else one.logprob, one.completion.text, one.completion.token_ids)

    return max(attempts, key=rank)


@dataclass(frozen=True)
class Choice:
    """What a rule chose. `answers` are sorted and share first place; () when no candidate was readable."""

    answers: tuple[str, ...]
    credit: float  # of a fair draw among `answers`, in [0, 1]
    n_right: int  # correct ones among the candidates


def choice_of(answers: Iterable[str], attempts: Sequence[Attempt]) -> Choice:
    """The choice that consists of `answers`; the judge's verdict on `attempts` says which of them are correct."""
    chosen = tuple(sorted(set(answers)))
    right = {a.answer for a in attempts if a.right}
    credit = len(right & set(chosen)) / len(chosen) if chosen else 0.0
    return Choice(chosen, credit, sum(a.right for a in attempts))


@dataclass(frozen=True)
class SelectorCall:
    """One call of a selector: the candidates it was shown, in order, and what it answered."""

    shown: tuple[str | None, ...]  # answers of the candidates; None is an unreadable candidate
    right: tuple[bool, ...]
    answer: str | None  # None: the selector's text holds no readable answer
    correct: bool
    named: int | None = None  # the prediction that the text calls correct, from 1; only the reasoning form asks for it
    left_out: int = 0  # candidates that the prompt had no room for
    prompt: str = ""

    @property
    def novel(self) -> bool:
        """The selector gave an answer that no candidate gave. (Two correct answers may be written differently.)"""
        return self.answer is not None and self.answer not in self.shown and not (self.correct and any(self.right))


@dataclass(frozen=True)
class Outcome:
    """What a strategy did with one problem."""

    problem_id: str
    credit: float  # in [0, 1]; a mean over draws or over all subsets where there are several
    abstain: float  # share of draws without a readable answer (credit 0)
    cost: TokenCost
    choices: tuple[Choice, ...] = ()  # one for each draw; () for an exact mean over all subsets
    error: float | None = 0.0  # Monte-Carlo standard error of `credit`; 0: nothing was drawn, None: one draw of many
    calls: tuple[SelectorCall, ...] = ()  # every selector call, in order
    # What the model wrote for this problem besides its samples, in order: a greedy answer, rounds of refinement, tries
    # of rejection sampling, a selector's answers.
    texts: tuple[Attempt, ...] = ()
    # The part of `credit` that is derived rightly, and the shares of wrong answers by the fault of their derivation;
    # None and {} where the data set has no such measure. `derivations.checked` fills them in.
    honest: float | None = None
    faults: Mapping[str, float] = field(default_factory=dict)
    # What an adaptive strategy drew by itself, in order.
    samples: tuple[Attempt, ...] = field(default=(), compare=False)


def single_outcome(
    problem: Problem, choice: Choice, cost: TokenCost, calls: Sequence[SelectorCall] = (), texts: Sequence[Attempt] = ()
) -> Outcome:
    """The outcome of a single draw."""
    abstain = float(not choice.answers)
    return Outcome(problem.id, choice.credit, abstain, cost, (choice,), calls=tuple(calls), texts=tuple(texts))


def mean_outcome(draws: Sequence[Outcome], exhaustive: bool) -> Outcome:
    """Several draws for one problem as one outcome: means; every choice, call and text is kept.

    `exhaustive`: the draws are all there are, so nothing is left to chance. Otherwise `error` is s / sqrt(m) of m
    draws; draws with balanced positions differ more from each other than independent ones, so it is rather too large
    than too small. ValueError: no draws, or draws of different problems.
    """
    if len({draw.problem_id for draw in draws}) != 1:
        raise ValueError("a mean over draws needs draws of one problem")
    credit, error = mean_and_error([draw.credit for draw in draws], exhaustive)
    abstain, cost = math.fsum(draw.abstain for draw in draws) / len(draws), mean_cost([draw.cost for draw in draws])
    choices = tuple(choice for draw in draws for choice in draw.choices)
    calls = tuple(call for draw in draws for call in draw.calls)
    texts = tuple(text for draw in draws for text in draw.texts)
    return Outcome(draws[0].problem_id, credit, abstain, cost, choices, error, calls, texts)


def mean_and_error(credits: Sequence[float], exhaustive: bool) -> tuple[float, float | None]:
    """The mean of several draws and its standard error: 0 for all there are, None for one draw of many."""
    m = len(credits)
    credit = math.fsum(credits) / m
    if exhaustive:
        return credit, 0.0
    if m == 1:
        return credit, None
    return credit, math.sqrt(math.fsum((c - credit) ** 2 for c in credits) / (m - 1) / m)


def credits(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Credit by problem id, as `stats.paired_test`, `stats.paired_bootstrap` and `stats.choose_on_dev` take it."""
    return {outcome.problem_id: outcome.credit for outcome in outcomes}
