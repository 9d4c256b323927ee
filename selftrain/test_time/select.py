"""The model chooses among its own attempts: all at once, in a tournament, or several times in other orders.

The picture stays in the prompt. A selector's answer is judged as an answer to the problem; nothing asks whether it
names a candidate, but an answer that no candidate gave is counted (`Pick.novel`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise

from data_process import prompts as wording
from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain import stats
from selftrain.config import ConfigError
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.test_time import subsets
from selftrain.test_time.records import (
    Attempt,
    Choice,
    Outcome,
    Pick,
    attempt,
    choice_of,
    mean_outcome,
    most_likely,
    settled,
)
from selftrain.test_time.strategy_config import Plan, Pool
from selftrain.test_time.tokens import Spent, spent_on


@dataclass(frozen=True)
class Contest:
    """Candidates of one problem in the order in which they are shown."""

    key: str  # unique; holds the problem's id
    problem: Problem
    candidates: tuple[Attempt, ...]


Choose = Callable[[Sequence[Contest], Sampler, Plan], list[Outcome]]  # one outcome for each contest, in order
Split = Callable[[Problem, Sequence[Attempt]], list[list[Attempt]]]


def select(choose: Choose, problems: Sequence[Problem], sampler: Sampler, plan: Plan, pool: Pool) -> list[Outcome]:
    """Run `choose` on every problem: on its n samples as sampled, or on `draws` balanced ordered subsets of the pool.

    The mean over subsets keeps every choice and pick; `Outcome.error` is what the drawing leaves uncertain.
    """
    contests: list[Contest] = []
    for problem in problems:
        samples = pool[problem.id]
        if plan.whole:
            contests.append(Contest(problem.id, problem, tuple(samples)))
            continue
        seed = seed_for(plan.seed, problem.id, "subsets", plan.size, plan.n)
        for k, chosen in enumerate(subsets.ordered(plan.size, plan.n, plan.draws, seed)):
            contests.append(Contest(f"{problem.id}/draw{k}", problem, tuple(samples[i] for i in chosen)))
    found = choose(contests, sampler, plan)
    if plan.whole:
        return found
    return [
        mean_outcome(found[start : start + plan.draws], exhaustive=False) for start in range(0, len(found), plan.draws)
    ]


def flat(contests: Sequence[Contest], sampler: Sampler, plan: Plan) -> list[Outcome]:
    """All candidates in one prompt. A single candidate is the answer without a call."""
    return _outcomes(contests, _play(contests, sampler, plan, lambda problem, shown: [list(shown)], plan.n))


def tournament(contests: Sequence[Contest], sampler: Sampler, plan: Plan) -> list[Outcome]:
    """Groups of at most `plan.group`, of even sizes; winners go on until one group is left, whose answer counts."""
    played = _play(contests, sampler, plan, lambda problem, shown: even_groups(shown, plan.group), plan.group)
    return _outcomes(contests, played)


def recursive(contests: Sequence[Contest], sampler: Sampler, plan: Plan) -> list[Outcome]:
    """As many candidates in a prompt as fit; where not all do, winners go on as in a tournament.

    ConfigError without `plan.room`, or when not even two candidates fit.
    """
    if plan.room is None:
        raise ConfigError("recursive selection needs room: the model's positions and a way to count a prompt's tokens")
    return _outcomes(contests, _play(contests, sampler, plan, lambda problem, shown: _packed(problem, shown, plan), 2))


def permuted(contests: Sequence[Contest], sampler: Sampler, plan: Plan) -> list[Outcome]:
    """Each contest in `plan.permutations` different orders; the majority of the selected answers, a tie shared."""
    shuffled: list[Contest] = []
    sizes = []
    for contest in contests:
        shown = distinct(contest.candidates) if plan.distinct else contest.candidates
        seed = seed_for(plan.seed, contest.key, "orders", len(shown))
        rows = subsets.orders(len(shown), plan.permutations, seed)
        sizes.append(len(rows))
        shuffled += [
            Contest(f"{contest.key}/order{k}", contest.problem, tuple(shown[i] for i in row))
            for k, row in enumerate(rows)
        ]
    found = iter(_play(shuffled, sampler, plan, lambda problem, shown: [list(shown)], plan.n))
    outcomes = []
    for contest, size in zip(contests, sizes, strict=True):
        parts = [next(found) for _ in range(size)]
        finals = [part.final for part in parts]
        choice = choice_of(stats.majority([final.answer for final in finals]).answers, finals)
        spent = sum((part.spent for part in parts), spent_on([a.completion for a in contest.candidates]))
        picks = tuple(pick for part in parts for pick in part.picks)
        n_right = sum(a.right for a in contest.candidates)
        outcomes.append(settled(contest.problem, replace(choice, n_right=n_right), spent, picks=picks))
    return outcomes


def distinct(candidates: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """One candidate for each answer, the most likely one, in the order in which they stand.

    Unreadable ones are left out, unless there is nothing else: then the most likely of them stays.
    """
    answers = {a.answer for a in candidates if a.answer is not None} or {None}
    kept = [most_likely([a for a in candidates if a.answer == answer]) for answer in answers]
    places = sorted(next(i for i, a in enumerate(candidates) if a is one) for one in kept)
    return tuple(candidates[i] for i in places)


def even_groups(candidates: Sequence[Attempt], most: int) -> list[list[Attempt]]:
    """Neighbours in as few groups of at most `most` as possible, of sizes that differ by one at most."""
    k = math.ceil(len(candidates) / most)
    ends = [len(candidates) * i // k for i in range(k + 1)]
    return [list(candidates[start:end]) for start, end in pairwise(ends)]


def preflight(problems: Sequence[Problem], plan: Plan, shown: int) -> None:
    """Before anything is sampled: ConfigError if a prompt with `shown` empty candidates already does not fit."""
    asks = [Ask(p.id, wording.select(p, [""] * shown, plan.prompts, plan.form), p.image) for p in problems]
    plan.check_room(asks, plan.selecting.max_tokens, f"that is with {shown} empty candidates; show fewer of them")


def show(problem: Problem, candidates: Sequence[Attempt], plan: Plan) -> str:
    """The selector's prompt."""
    return wording.select(problem, [a.completion.text for a in candidates], plan.prompts, plan.form)


def winner(group: Sequence[Attempt], said: Attempt) -> Attempt:
    """The member of `group` that goes on after the selector `said` something: the most likely one with that answer.

    After an answer that nobody gave, or none, the group's own majority decides and then its most likely member.
    """
    members = [a for a in group if a.answer is not None and a.answer == said.answer]
    if not members and said.right:
        members = [a for a in group if a.right]  # the same value in another form
    if not members:
        leaders = stats.majority([a.answer for a in group]).answers
        members = [a for a in group if a.answer in leaders] or list(group)
    return most_likely(members)


@dataclass(frozen=True)
class _Played:
    """A contest that is over; `spent` is the selector's calls alone."""

    final: Attempt  # the last selector's answer, or the only candidate
    picks: tuple[Pick, ...]
    spent: Spent


def _play(contests: Sequence[Contest], sampler: Sampler, plan: Plan, split: Split, at_once: int) -> list[_Played]:
    """Every round of all contests goes to the sampler together. At most the `at_once` longest meet in one prompt."""
    standing = [list(distinct(c.candidates) if plan.distinct else c.candidates) for c in contests]
    longest = [sorted(shown, key=lambda a: -len(a.completion.token_ids))[:at_once] for shown in standing]
    plan.check_room(
        [Ask(c.key, show(c.problem, shown, plan), c.problem.image) for c, shown in zip(contests, longest, strict=True)],
        plan.selecting.max_tokens,
        "show fewer candidates at once: recursive selection takes as many as fit, a tournament groups of a size",
    )
    final: list[Attempt | None] = [None] * len(contests)
    picks: list[list[Pick]] = [[] for _ in contests]
    spent = [Spent() for _ in contests]
    playing = list(range(len(contests)))
    for turn in count():
        groups = {i: split(contests[i].problem, standing[i]) for i in playing}
        asks = [
            Ask(
                f"{contests[i].key}/select{turn}.{k}", show(contests[i].problem, group, plan), contests[i].problem.image
            )
            for i, several in groups.items()
            for k, group in enumerate(several)
            if len(group) > 1
        ]
        drawn = sampler.draw(asks, plan.selecting, 1) if asks else {}
        for i, several in groups.items():
            winners = []
            for k, group in enumerate(several):
                if len(group) == 1:
                    winners.append(group[0])
                    if len(several) == 1:
                        final[i] = group[0]
                    continue
                (completion,) = drawn[f"{contests[i].key}/select{turn}.{k}"]
                said = attempt(completion, contests[i].problem)
                picks[i].append(_pick(group, said))
                spent[i] += spent_on([completion])
                winners.append(winner(group, said))
                if len(several) == 1:
                    final[i] = said
            standing[i] = winners
        playing = [i for i in playing if final[i] is None]
        if not playing:
            break
    return [
        _Played(one, tuple(several), cost)
        for one, several, cost in zip(final, picks, spent, strict=True)
        if one is not None
    ]


def _pick(group: Sequence[Attempt], said: Attempt) -> Pick:
    return Pick(
        tuple(a.answer for a in group),
        tuple(a.right for a in group),
        said.answer,
        said.right,
        wording.named_prediction(said.completion.text, len(group)),
    )


def _packed(problem: Problem, candidates: Sequence[Attempt], plan: Plan) -> list[list[Attempt]]:
    """Neighbours in groups that fit. Any two fit, as `_play` has seen to, so every round has fewer candidates."""
    assert plan.room is not None
    groups: list[list[Attempt]] = [[]]
    for candidate in candidates:
        longer = [*groups[-1], candidate]
        fits = plan.room.lacking(show(problem, longer, plan), problem.image, plan.selecting.max_tokens) is None
        if len(longer) > 2 and not fits:
            groups.append([candidate])
        else:
            groups[-1] = longer
    return groups


def _outcomes(contests: Sequence[Contest], played: Sequence[_Played]) -> list[Outcome]:
    outcomes = []
    for contest, one in zip(contests, played, strict=True):
        answers = () if one.final.answer is None else (one.final.answer,)
        choice = Choice(answers, float(one.final.right), sum(a.right for a in contest.candidates))
        spent = spent_on([a.completion for a in contest.candidates]) + one.spent
        outcomes.append(settled(contest.problem, choice, spent, picks=one.picks))
    return outcomes
