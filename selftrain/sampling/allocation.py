"""How many samples each training problem gets: equally many, or more where earlier samples failed (head-tail).

Self-improvement favours problems that are solved already: they fill the training rows, and the others starve
(arXiv 2510.26474). `head_tail` gives no sample to a problem whose earlier samples were all right, and to each other
problem a number in proportion to its failure rate, from 1 to `most` x `sampling.n`.

**Policies are compared at equal cost in sampled tokens.** The budget is what `sampling.n` samples of each problem would
cost, and a sample is expected to cost what the problem's earlier ones did on average (a problem without any: the mean
of all). Texts on hard problems are longer, so equal numbers of samples would favour head-tail. The allocation spends
the budget up to less than one sample. Only where every problem has its maximum is more of it left, which
`allocation.json` of the stage shows. Guided samples are charged like others, also for a beginning that they are given.
`candidates.jsonl` has the tokens that were really sampled.

Samples keep their places in the bank: a problem with 5 samples has the first 5 that a uniform 16 would draw, so only
missing ones are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data_process.schema import Candidate, Judged
from data_process.steps import prefixes, split_steps


@dataclass
class Seen:
    """What earlier iterations sampled of one problem without guidance."""

    samples: int = 0
    right: int = 0
    tokens: int = 0  # generated
    wrong: list[Candidate] = field(default_factory=list)  # the newest wrong ones, newest first
    solutions: list[Candidate] = field(default_factory=list)  # the newest right ones, guided ones included

    @property
    def pass_rate(self) -> float:
        return self.right / self.samples


def look_back(judged: Iterable[Judged], attempts: int) -> dict[str, Seen]:
    """Earlier samples by problem id. Guided ones do not count: they say nothing of what is solved without help.

    `attempts`: how many wrong candidates of a problem are kept, and how many right ones, with different texts;
    truncated and unreadable ones are not.
    """
    found: dict[str, Seen] = {}
    for item in judged:
        candidate = item.candidate
        seen = found.setdefault(candidate.problem_id, Seen())
        if attempts and item.verdict.correct and candidate.finish == "stop":
            _keep_newest(seen.solutions, candidate, attempts)
        if candidate.guide is not None:
            continue
        seen.samples += 1
        seen.right += item.verdict.correct
        seen.tokens += candidate.n_tokens
        if attempts and item.verdict.status == "wrong" and candidate.finish == "stop":
            _keep_newest(seen.wrong, candidate, attempts)
    for seen in found.values():
        seen.wrong.sort(key=lambda c: c.age_key, reverse=True)
        seen.solutions.sort(key=lambda c: c.age_key, reverse=True)
    return found


def _keep_newest(kept: list[Candidate], candidate: Candidate, most: int) -> None:
    """Add a candidate to those with other texts; of equal texts, and beyond `most`, the oldest goes."""
    same = [c for c in kept if c.text == candidate.text]
    kept.append(candidate)
    if same or len(kept) > most:
        kept.remove(min([*same, candidate] if same else kept, key=lambda c: c.age_key))


@dataclass(frozen=True)
class Allocation:
    """Samples of each problem, and what they are expected to cost in tokens."""

    samples: dict[str, int]  # by problem id, in the order of the problems
    expected: float
    budget: float


def allocate(problems: Sequence[str], seen: Mapping[str, Seen], n: int, most: int) -> Allocation:
    """Samples of each problem, by its failure rate, for the expected tokens of `n` samples of each.

    A problem without earlier samples counts as one of mean failure rate and mean cost. Where all failure rates are
    equal and above 0, each gets `n`. Where all are 0, none gets any.
    """
    seen = {problem: one for problem, one in seen.items() if one.samples}
    known = [seen[problem] for problem in problems if problem in seen]
    total = sum(s.samples for s in known)
    if not total:
        return Allocation(dict.fromkeys(problems, n), 0.0, 0.0)
    failing, cost = 1 - sum(s.right for s in known) / total, max(sum(s.tokens for s in known) / total, 1.0)
    weight = {p: 1 - seen[p].pass_rate if p in seen else failing for p in problems}
    price = {p: max(seen[p].tokens / seen[p].samples, 1.0) if p in seen else cost for p in problems}
    budget = n * sum(price.values())
    open_ones = [p for p in problems if weight[p] > 0]
    cap = n * most

    def shares(scale: float) -> dict[str, float]:
        return {p: min(max(scale * weight[p], 1.0), float(cap)) for p in open_ones}

    low, high = 0.0, cap / min((weight[p] for p in open_ones), default=1.0)
    for _ in range(60):  # bisection to the precision of a float
        middle = (low + high) / 2
        if sum(share * price[p] for p, share in shares(middle).items()) > budget:
            high = middle
        else:
            low = middle
    # Bisection ends a little below: whole numbers must not be rounded down.
    share = {p: value + 1e-9 for p, value in shares(low).items()}
    samples = {p: int(share.get(p, 0.0)) for p in problems}
    spent = sum(samples[p] * price[p] for p in problems)
    for p in sorted(open_ones, key=lambda p: (samples[p] - share[p], p)):  # the largest remainders first
        if samples[p] < cap and spent + price[p] <= budget + 1e-6:
            samples[p] += 1
            spent += price[p]
    return Allocation(samples, spent, budget)


@dataclass(frozen=True)
class Guide:
    """What guides samples of a problem: an earlier candidate, to be refined or, from `prefix` on, to be continued."""

    candidate: Candidate
    prefix: str = ""  # the candidate's first steps; "": it is refined

    @property
    def name(self) -> str:
        return f"{'prefix' if self.prefix else 'refine'}/{self.candidate.id}"


def guides(seen: Seen | None, prefix_share: float | None) -> list[Guide]:
    """What can guide a problem, newest first: its wrong attempts; or with `prefix_share` its right solutions.

    A solution gives the first so large a share of its steps, at least one step and never all. A problem without a
    solution of two steps or more is guided by its wrong attempts.
    """
    if seen is None:
        return []
    begun: dict[str, Guide] = {}
    for candidate in seen.solutions if prefix_share is not None else ():
        parts = prefixes(split_steps(candidate.text))
        if len(parts) > 1:
            size = min(max(int((prefix_share or 0) * len(parts)), 1), len(parts) - 1)
            begun.setdefault(parts[size - 1], Guide(candidate, parts[size - 1]))
    return [*begun.values()] or [Guide(candidate) for candidate in seen.wrong]


def guided_samples(samples: int, seen: Seen | None, hard: float, share: float, by: Sequence[Guide]) -> int:
    """How many of a problem's samples are guided: a share, where its pass rate is at most `hard`."""
    if seen is None or not seen.samples or not by or seen.pass_rate > hard:
        return 0
    return int(share * samples)


def counts(allocation: Allocation, guided: Mapping[str, int]) -> dict[str, object]:
    """What `allocation.json` says."""
    numbers = Counter(allocation.samples.values())
    return {
        "problems_by_samples": {str(number): numbers[number] for number in sorted(numbers)},
        "samples": sum(allocation.samples.values()),
        "guided_samples": sum(guided.values()),
        "expected_tokens": round(allocation.expected),
        "budget_tokens": round(allocation.budget),
    }
