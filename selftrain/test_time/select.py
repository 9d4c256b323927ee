"""The model chooses among its own attempts: all at once, in a tournament, or several times in other orders.

The image stays in the prompt. A selector's answer is judged as an answer to the problem; nothing asks whether it
names a candidate, but an answer that no candidate gave is counted (`SelectorCall.novel`). In the rationale form the
answer is that of the derivation that the selector writes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise

from data_process import prompts as wording
from data_process.judging import same_answer
from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain import stats
from selftrain.config import ConfigError
from selftrain.engines.base import Completion
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.test_time import records, subsets
from selftrain.test_time.last_derivation import last_derivation
from selftrain.test_time.records import Attempt, Choice, Outcome, SelectorCall, attempt, ballots, choice_of
from selftrain.test_time.strategy_config import Pool, StrategyConfig
from selftrain.test_time.tokens import TokenCost, cost_of


@dataclass(frozen=True)
class SelectionTask:
    """Candidates of one problem in the order in which they are shown."""

    key: str  # unique; holds the problem's id
    problem: Problem
    candidates: tuple[Attempt, ...]


# One outcome for each task, in order.
Choose = Callable[[Sequence[SelectionTask], Sampler, StrategyConfig], list[Outcome]]
Split = Callable[[Problem, Sequence[Attempt]], list[list[Attempt]]]


def select(
    choose: Choose, problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, pool: Pool
) -> list[Outcome]:
    """Run `choose` on every problem: on its n samples as sampled, or on `draws` balanced ordered subsets of the pool.

    The mean over subsets keeps every choice and call; `Outcome.error` is what the drawing leaves uncertain.
    """
    tasks: list[SelectionTask] = []
    for problem in problems:
        samples = pool[problem.id]
        if plan.whole:
            tasks.append(SelectionTask(problem.id, problem, tuple(samples)))
            continue
        seed = seed_for(plan.seed, problem.id, "subsets", plan.size, plan.n)
        for k, chosen in enumerate(subsets.ordered(plan.size, plan.n, plan.draws, seed)):
            tasks.append(SelectionTask(f"{problem.id}/draw{k}", problem, tuple(samples[i] for i in chosen)))
    found = choose(tasks, sampler, plan)
    if plan.whole:
        return found
    starts = range(0, len(found), plan.draws)
    return [records.mean_outcome(found[start : start + plan.draws], exhaustive=False) for start in starts]


def flat(tasks: Sequence[SelectionTask], sampler: Sampler, plan: StrategyConfig) -> list[Outcome]:
    """All candidates in one prompt. A single candidate is the answer without a call."""
    return _outcomes(tasks, _play(tasks, sampler, plan, lambda problem, shown: [list(shown)], plan.n))


def tournament(tasks: Sequence[SelectionTask], sampler: Sampler, plan: StrategyConfig) -> list[Outcome]:
    """Even groups of at most `plan.group`; winners meet again until one group is left, whose answer counts."""
    played = _play(tasks, sampler, plan, lambda problem, shown: even_groups(shown, plan.group), plan.group)
    return _outcomes(tasks, played)


def fused(tasks: Sequence[SelectionTask], sampler: Sampler, plan: StrategyConfig) -> list[Outcome]:
    """A tournament in which the selector's own texts go on, and not the candidates that they agree with.

    It pays where a selector answers with a derivation. A text without an answer is replaced by the candidate that
    would have gone on.
    """
    split: Split = lambda problem, shown: even_groups(shown, plan.group)  # noqa: E731
    return _outcomes(tasks, _play(tasks, sampler, plan, split, plan.group, fuse=True))


def recursive(tasks: Sequence[SelectionTask], sampler: Sampler, plan: StrategyConfig) -> list[Outcome]:
    """As many candidates in a prompt as fit; where not all do, winners meet again as in a tournament.

    ConfigError without `plan.context_limit`, or when not even two candidates fit.
    """
    if plan.context_limit is None:
        raise ConfigError("recursive selection needs a context limit; give the plan one")
    return _outcomes(tasks, _play(tasks, sampler, plan, lambda problem, shown: _packed(problem, shown, plan), 2))


def permuted(tasks: Sequence[SelectionTask], sampler: Sampler, plan: StrategyConfig) -> list[Outcome]:
    """Each task in `plan.permutations` different orders; the majority of the selected answers, a tie shared."""
    shuffled: list[SelectionTask] = []
    sizes = []
    for task in tasks:
        shown = distinct(task.candidates) if plan.distinct else task.candidates
        seed = seed_for(plan.seed, task.key, "orders", len(shown))
        rows = subsets.orders(len(shown), plan.permutations, seed)
        sizes.append(len(rows))
        shuffled += [
            SelectionTask(f"{task.key}/order{k}", task.problem, tuple(shown[i] for i in row))
            for k, row in enumerate(rows)
        ]
    found = iter(_play(shuffled, sampler, plan, lambda problem, shown: [list(shown)], plan.n))
    outcomes = []
    for task, size in zip(tasks, sizes, strict=True):
        parts = [next(found) for _ in range(size)]
        finals = [part.final for part in parts]
        choice = choice_of(stats.majority(ballots(finals)), finals)
        cost = sum((part.cost for part in parts), cost_of([a.completion for a in task.candidates]))
        calls = [call for part in parts for call in part.calls]
        texts = [text for part in parts for text in part.texts]
        choice = replace(choice, n_right=sum(a.right for a in task.candidates))
        outcomes.append(records.single_outcome(task.problem, choice, cost, calls=calls, texts=texts))
    return outcomes


def distinct(candidates: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """One candidate for each answer, the most likely one, in the order in which they stand.

    Unreadable ones are left out, unless there is nothing else: then the most likely of them stays.
    """
    votes = ballots(candidates)
    answers: set[str | None] = set(votes) - {None} or {None}
    kept = [
        records.most_likely([a for a, vote in zip(candidates, votes, strict=True) if vote == answer])
        for answer in answers
    ]
    places = sorted(next(i for i, a in enumerate(candidates) if a is one) for one in kept)
    return tuple(candidates[i] for i in places)


def even_groups(candidates: Sequence[Attempt], most: int) -> list[list[Attempt]]:
    """Neighbours in as few groups of at most `most` as possible, of sizes that differ by one at most."""
    k = math.ceil(len(candidates) / most)
    ends = [len(candidates) * i // k for i in range(k + 1)]
    return [list(candidates[start:end]) for start, end in pairwise(ends)]


def preflight(problems: Sequence[Problem], plan: StrategyConfig, shown: int) -> None:
    """Before anything is sampled: ConfigError if a prompt with `shown` empty candidates already does not fit."""
    # For the rationale form no two of them are equal: it shows equal ones once.
    texts = [" " * k if plan.form == "rationale" else "" for k in range(shown)]
    asks = [
        Ask(p.id, wording.select(p, texts, plan.prompts, plan.form, limit=plan.limit), wording.images(p))
        for p in problems
    ]
    plan.check_fits(asks, plan.selecting.max_tokens, f"that is with {shown} empty candidates; show fewer of them")
    limit = plan.context_limit
    if limit is not None and limit.trained is not None:
        lengths = {
            p.id: limit.count(wording.select(p, [""], plan.prompts, plan.form), wording.images(p)) for p in problems
        }
        longest = max(lengths, key=lengths.__getitem__)
        if lengths[longest] > limit.trained:
            raise ConfigError(
                f"problem {longest}: a selection with one empty candidate has {lengths[longest]} tokens of prompt, and "
                f"the longest in training had {limit.trained}; train on longer prompts, or leave selection out"
            )


def show(problem: Problem, candidates: Sequence[Attempt], plan: StrategyConfig) -> str:
    """The selector's prompt: of each candidate the last derivation. The rationale form shows `displayed` ones alone."""
    return wording.select(problem, _texts(problem, candidates, plan), plan.prompts, plan.form, limit=plan.limit)


def _texts(problem: Problem, candidates: Sequence[Attempt], plan: StrategyConfig) -> list[str]:
    return [last_derivation(a, problem, plan.sampling.budget) for a in candidates]


def fitted(problem: Problem, candidates: Sequence[Attempt], plan: StrategyConfig) -> list[Attempt]:
    """The candidates that a prompt shows: all, or those with the most frequent texts.

    At most `plan.texts` different texts stay, and as many as make a prompt no longer than the ones that the model was
    trained on (`ContextLimit.trained`). Among texts that equally many candidates share, the first ones stay. One text
    always does.
    """
    if plan.texts is None and (plan.context_limit is None or plan.context_limit.trained is None):
        return list(candidates)
    texts = _texts(problem, candidates, plan)
    counts = Counter(texts)
    ranked = sorted(counts, key=lambda text: (-counts[text], texts.index(text)))[: plan.texts]
    for most in range(len(ranked), 0, -1):
        kept = [a for a, text in zip(candidates, texts, strict=True) if text in ranked[:most]]
        if plan.texts is not None and plan.form != "rationale":  # which shows equal texts once, with a count
            kept = [candidates[k] for k in sorted(texts.index(text) for text in ranked[:most])]
        limit = plan.context_limit
        if (
            limit is None
            or limit.trained is None
            or limit.count(show(problem, kept, plan), wording.images(problem)) <= limit.trained
        ):
            break
    return kept


def displayed(problem: Problem, candidates: Sequence[Attempt], plan: StrategyConfig) -> list[Attempt]:
    """The candidates that stand in the prompt: in the rationale form the first of each text, as `plan.limit` admits."""
    if plan.form != "rationale":
        return list(candidates)
    shown = wording.shown_texts(_texts(problem, candidates, plan), plan.limit)
    return [candidates[index] for index, _ in shown]


def read(completion: Completion, problem: Problem, group: Sequence[Attempt], plan: StrategyConfig) -> Attempt:
    """A selector's text with its verdict.

    In the rationale form, a text without an answer that calls a prediction correct has that candidate's answer. One
    that names none either is unreadable.
    """
    said = attempt(completion, problem)
    if plan.form != "rationale" or said.answer is not None:
        return said
    shown = displayed(problem, group, plan)
    named = wording.named_prediction(completion.text, len(shown))
    return said if named is None else Attempt(completion, replace(shown[named - 1].verdict, rule="named_prediction"))


def winner(group: Sequence[Attempt], said: Attempt) -> Attempt:
    """The member of `group` that wins after the selector `said` something: the most likely one with that answer.

    After an answer that nobody gave, or none, the group's own majority decides and then its most likely member.
    """
    members = [a for a in group if same_answer(a.verdict, said.verdict)]
    if not members:
        votes = ballots(group)
        leaders = stats.majority(votes)
        members = [a for a, vote in zip(group, votes, strict=True) if vote in leaders] or list(group)
    return records.most_likely(members)


@dataclass(frozen=True)
class _Played:
    """A task that is over; `cost` is the selector's calls alone."""

    final: Attempt  # the last selector's answer, or the only candidate
    calls: tuple[SelectorCall, ...]
    texts: tuple[Attempt, ...]  # of the calls
    cost: TokenCost


def _play(
    tasks: Sequence[SelectionTask],
    sampler: Sampler,
    plan: StrategyConfig,
    split: Split,
    at_once: int,
    fuse: bool = False,
) -> list[_Played]:
    """Every round of all tasks goes to the sampler together. At most the `at_once` longest meet in one prompt.

    `fuse`: a selector's readable text goes on in place of a candidate.
    """
    standing = [list(distinct(c.candidates) if plan.distinct else c.candidates) for c in tasks]
    apart = [list({a.completion.text: a for a in shown}.values()) for shown in standing]
    of_prompt = apart if plan.form == "rationale" else standing
    longest = [sorted(shown, key=lambda a: -len(a.completion.token_ids))[:at_once] for shown in of_prompt]
    plan.check_fits(
        [
            Ask(c.key, show(c.problem, fitted(c.problem, shown, plan), plan), wording.images(c.problem))
            for c, shown in zip(tasks, longest, strict=True)
        ],
        plan.selecting.max_tokens,
        "show fewer candidates at once: recursive selection takes as many as fit, a tournament groups of a size",
    )
    final: list[Attempt | None] = [None] * len(tasks)
    calls: list[list[SelectorCall]] = [[] for _ in tasks]
    texts: list[list[Attempt]] = [[] for _ in tasks]
    costs = [TokenCost() for _ in tasks]
    playing = list(range(len(tasks)))
    for turn in count():
        groups = {
            i: [(fitted(tasks[i].problem, group, plan), len(group)) for group in split(tasks[i].problem, standing[i])]
            for i in playing
        }
        asks = [
            Ask(
                f"{tasks[i].key}/select{turn}.{k}",
                show(tasks[i].problem, group, plan),
                wording.images(tasks[i].problem),
            )
            for i, several in groups.items()
            for k, (group, size) in enumerate(several)
            if size > 1
        ]
        drawn = sampler.draw(asks, plan.selecting, 1) if asks else {}
        for i, several in groups.items():
            winners = []
            for k, (group, size) in enumerate(several):
                if size == 1:
                    winners.append(group[0])
                    if len(several) == 1:
                        final[i] = group[0]
                    continue
                (completion,) = drawn[f"{tasks[i].key}/select{turn}.{k}"]
                said = read(completion, tasks[i].problem, group, plan)
                prompt = show(tasks[i].problem, group, plan)
                calls[i].append(_call(displayed(tasks[i].problem, group, plan), said, size - len(group), prompt))
                texts[i].append(said)
                costs[i] += cost_of([completion])
                # A whole derivation meets the others in the next round, whether or not it is one of the candidates.
                derived = (fuse or plan.form == "rationale") and said.answer is not None
                winners.append(said if derived else winner(group, said))
                if len(several) == 1:
                    final[i] = said
            standing[i] = winners
        playing = [i for i in playing if final[i] is None]
        if not playing:
            break
    return [
        _Played(one, tuple(several), tuple(said), cost)
        for one, several, said, cost in zip(final, calls, texts, costs, strict=True)
        if one is not None
    ]


def _call(group: Sequence[Attempt], said: Attempt, left_out: int, prompt: str) -> SelectorCall:
    *shown, answer = ballots([*group, said])
    named = wording.named_prediction(said.completion.text, len(group))
    return SelectorCall(tuple(shown), tuple(a.right for a in group), answer, said.right, named, left_out, prompt)


def _packed(problem: Problem, candidates: Sequence[Attempt], plan: StrategyConfig) -> list[list[Attempt]]:
    """Neighbours in groups that fit. Any two fit, as `_play` has seen to, so every round has fewer candidates."""
    assert plan.context_limit is not None
    groups: list[list[Attempt]] = [[]]
    for candidate in candidates:
        longer = [*groups[-1], candidate]
        fits = plan.context_limit.fits(show(problem, longer, plan), wording.images(problem), plan.selecting.max_tokens)
        if len(longer) > 2 and not fits:
            groups.append([candidate])
        else:
            groups[-1] = longer
    return groups


def _outcomes(tasks: Sequence[SelectionTask], played: Sequence[_Played]) -> list[Outcome]:
    outcomes = []
    for task, one in zip(tasks, played, strict=True):
        answers = () if one.final.answer is None else (one.final.answer,)
        choice = Choice(answers, float(one.final.right), sum(a.right for a in task.candidates))
        cost = cost_of([a.completion for a in task.candidates]) + one.cost
        outcomes.append(records.single_outcome(task.problem, choice, cost, calls=one.calls, texts=one.texts))
    return outcomes
