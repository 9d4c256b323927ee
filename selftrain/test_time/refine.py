"""Self-refinement at test time: the model judges its attempt and refines it, for a number of rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from data_process import prompts as wording
from data_process.schema import Problem
from selftrain import stats
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.test_time.records import Choice, Outcome, attempt, ballots, choice_of, single_outcome
from selftrain.test_time.strategy_config import StrategyConfig
from selftrain.test_time.tokens import cost_of


def refine(
    problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, keep: Literal["last", "vote"] = "last"
) -> list[Outcome]:
    """A greedy attempt and `plan.rounds` greedy refinements of it; `Outcome.texts` is the whole chain, attempt first.

    `keep`: the answer of the last round, or the majority over the attempt and all rounds, a tie shared. Every round is
    made, and costs its own prompt in full, also when it repeats the attempt.
    ConfigError before a round whose prompt does not fit, EngineError from the engine.
    """
    drawn = sampler.draw(plan.asks(problems), plan.greedy, 1)
    chains = {p.id: [attempt(drawn[p.id][0], p)] for p in problems}
    for _ in range(plan.rounds):
        asks = [
            Ask(p.id, wording.refine(p, chains[p.id][-1].completion.text, plan.prompts), wording.images(p))
            for p in problems
        ]
        plan.check_fits(asks, plan.sampling.max_tokens, "lower max_tokens")
        drawn = sampler.draw(asks, plan.greedy, 1)
        for p in problems:
            chains[p.id].append(attempt(drawn[p.id][0], p))
    outcomes = []
    for p in problems:
        chain = chains[p.id]
        if keep == "vote":
            choice = choice_of(stats.majority(ballots(chain)), chain)
        else:
            last = chain[-1].answer
            choice = Choice(() if last is None else (last,), float(chain[-1].right), sum(a.right for a in chain))
        first, *rest = [cost_of([a.completion]) for a in chain]
        outcomes.append(single_outcome(p, choice, sum(rest, first), texts=chain))
    return outcomes
