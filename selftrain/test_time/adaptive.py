"""Adaptive N: samples are drawn until the vote is decided.

Two rules stop the drawing. Both look at the samples in the order in which they were drawn, so a bank replays them.

- Exact: the samples left cannot change the winner, whatever they say. The answer is that of the vote among all n.
- Posterior: the leader is ahead of the next answer with a probability of at least `plan.confidence` (adaptive
  consistency, arXiv 2305.11860, the Beta criterion). The answer may differ from the full vote's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby

from data_process.judging import has_other_forms
from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain.sampling.sampler import Sampler
from selftrain.test_time import subsets, vote, weights
from selftrain.test_time.records import Attempt, Outcome, attempt, ballots, mean_and_error, single_outcome
from selftrain.test_time.strategy_config import Pool, StrategyConfig, pool_of
from selftrain.test_time.tokens import cost_of, mean_cost

ORDERS = 100  # of a pool that is larger than n, over which an outcome is averaged
Ballot = tuple[Attempt, float]  # with its weight
SLACK = 1e-9  # sums of weights are exact to far less


@dataclass(frozen=True)
class Stop:
    """When drawing stops. `weigh` gives weights in [0, 1]; `posterior`: by the posterior bound as well."""

    weigh: weights.Weigh
    posterior: bool = False

    def missing(self, ballots: Sequence[Ballot], plan: StrategyConfig) -> int:
        """The fewest further samples after which the vote may be decided; 0 when it is, or `plan.n` are drawn.

        None of so many samples would be drawn in vain.
        """
        lead, rival, most = _standing(ballots)
        left = plan.n - len(ballots)
        for further in range(left):
            # The best case: all further samples are for the leader.
            exact = lead + further - most > left - further + SLACK
            if exact or (self.posterior and leads(lead + further, rival) >= plan.confidence):
                return further
        return left

    def cast(self, problem: Problem, attempts: Sequence[Attempt], plan: StrategyConfig) -> list[Ballot]:
        return list(zip(attempts, self.weigh(problem, attempts, plan), strict=True))

    def counted(self, ballots: Sequence[Ballot], plan: StrategyConfig) -> Sequence[Ballot]:
        """The ballots up to the stop."""
        k = 0
        while further := self.missing(ballots[:k], plan):
            k += further
        return ballots[:k]


def leads(leader: float, rival: float) -> float:
    """The posterior probability that the leader of two answers with so many votes is the more frequent one.

    A uniform prior on the leader's share of their votes makes the posterior Beta(leader + 1, rival + 1), and this is
    its mass above 1/2.
    """
    if leader == int(leader) and rival == int(rival):
        n = int(leader + rival) + 1  # the same in whole numbers: at most `leader` heads in n fair throws
        return float(Fraction(sum(math.comb(n, heads) for heads in range(int(leader) + 1)), 2**n))
    from scipy.special import betainc

    return float(betainc(rival + 1, leader + 1, 0.5))


def _standing(cast: Sequence[Ballot]) -> tuple[float, float, float]:
    """Weights of the leading answer and of the next one, and the most that an answer beside the leader may have.

    The last two differ where a sample still to come could show that two answers are one: if 1.4142 and 1.41421 both
    equal √2, for instance.
    """
    totals: dict[str, list[float]] = {}
    loose = set()
    for name, (one, weight) in zip(ballots([one for one, _ in cast]), cast, strict=True):
        if name is not None:
            totals.setdefault(name, []).append(weight)
            if has_other_forms(one.verdict):
                loose.add(name)
    ranked = sorted(((math.fsum(several), name) for name, several in totals.items()), reverse=True)
    if not ranked:
        return 0.0, 0.0, 0.0
    others = ranked[1:]
    rival = others[0][0] if others else 0.0
    joined = math.fsum(weight for weight, name in others if name in loose)
    return ranked[0][0], rival, max(rival, joined)


def run(
    stop: Stop, problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, pool: Pool | None
) -> list[Outcome]:
    """The vote among the samples up to the stop, at most `plan.n`, and the cost of these alone.

    Without a pool only these are sampled: each round asks for as many as the rule needs at least. With a pool larger
    than n the outcome is a mean over ORDERS seeded orders of n of its samples.
    ConfigError if a prompt does not fit, EngineError from the engine.
    """
    if plan.size > plan.n:
        samples = pool_of(problems, sampler, plan, pool)
        return [_averaged(stop, problem, samples[problem.id], plan) for problem in problems]
    # A pool that others share may hold fewer samples than n; the bank then has those, and the rest are drawn.
    if pool is not None and all(len(pool.get(p.id, ())) >= plan.n for p in problems):
        cast = {p.id: list(stop.counted(stop.cast(p, pool[p.id][: plan.n], plan), plan)) for p in problems}
    else:
        cast = _lazily(stop, problems, sampler, plan)
    return [_outcome(problem, cast[problem.id]) for problem in problems]


def _lazily(stop: Stop, problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig) -> dict[str, list[Ballot]]:
    """Ballots of each problem up to the stop. Problems that need equally many share a call of the sampler."""
    by_id = {p.id: p for p in problems}
    asks = {ask.id: ask for ask in plan.asks(problems)}
    cast: dict[str, list[Ballot]] = {p.id: [] for p in problems}
    waiting = list(by_id)
    while waiting:
        wanted = {i: len(cast[i]) + stop.missing(cast[i], plan) for i in waiting}
        waiting = [i for i in waiting if wanted[i] > len(cast[i])]
        for n, several in groupby(sorted(waiting, key=wanted.__getitem__), wanted.__getitem__):
            for i, found in sampler.draw([asks[i] for i in several], plan.sampling, n).items():
                new = [attempt(completion, by_id[i]) for completion in found[len(cast[i]) :]]
                cast[i] += stop.cast(by_id[i], new, plan)
    return cast


def _outcome(problem: Problem, cast: Sequence[Ballot]) -> Outcome:
    attempts = [one for one, _ in cast]
    choice = vote.weighted(attempts, [weight for _, weight in cast])
    outcome = single_outcome(problem, choice, cost_of([a.completion for a in attempts]))
    return replace(outcome, samples=tuple(attempts))


def _averaged(stop: Stop, problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
    cast = stop.cast(problem, samples, plan)
    seed = seed_for(plan.seed, problem.id, "adaptive", plan.size, plan.n)
    orders = subsets.ordered(plan.size, plan.n, ORDERS, seed)
    outcomes = [_outcome(problem, stop.counted([cast[i] for i in order], plan)) for order in orders]
    credit, error = mean_and_error([o.credit for o in outcomes], exhaustive=False)
    abstain = math.fsum(o.abstain for o in outcomes) / len(outcomes)
    cost = mean_cost([o.cost for o in outcomes])
    return Outcome(problem.id, credit, abstain, cost, error=error, samples=tuple(samples))
