"""What a vote weighs: consistency, likelihood, a reward. No gold answer has a part in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data_process.judging.consistency import contradictions
from data_process.schema import Problem
from selftrain.config import ConfigError
from selftrain.test_time import vote
from selftrain.test_time.last_derivation import last_derivation
from selftrain.test_time.records import Attempt
from selftrain.test_time.strategy_config import StrategyConfig

Weigh = Callable[[Problem, Sequence[Attempt], StrategyConfig], list[float]]  # one weight for each attempt

# Of a self-contradicting candidate that shall not count. Not 0: it then still breaks ties between consistent ones, and
# votes where all contradict themselves. A million of them weigh as much as one consistent candidate.
LEAST = 1e-6


def equal(problem: Problem, attempts: Sequence[Attempt], plan: StrategyConfig) -> list[float]:
    return [1.0] * len(attempts)


def consistent(problem: Problem, attempts: Sequence[Attempt], plan: StrategyConfig) -> list[float]:
    """1, or `plan.doubt` for an attempt whose last derivation contradicts itself."""
    doubtful = max(plan.doubt, LEAST)
    return [doubtful if contradicts_itself(problem, a, plan) else 1.0 for a in attempts]


def contradicts_itself(problem: Problem, attempt: Attempt, plan: StrategyConfig) -> bool:
    return bool(contradictions(last_derivation(attempt, problem, plan.sampling.budget), problem, attempt.verdict))


def likelihoods(problem: Problem, attempts: Sequence[Attempt], plan: StrategyConfig) -> list[float]:
    """exp of the mean log-probability; ConfigError where samples have none."""
    unknown = sum(a.logprob is None for a in attempts)
    if unknown:
        raise ConfigError(
            f"vote_logprob and best_logprob need log-probabilities, and {unknown} of {len(attempts)} samples of "
            f"problem {problem.id} were drawn without; leave these two out, or set engine.logprobs to true and `bank` "
            "to another file: what is stored stays without"
        )
    return [vote.likelihood(a) for a in attempts]


def consistent_likelihoods(problem: Problem, attempts: Sequence[Attempt], plan: StrategyConfig) -> list[float]:
    pairs = zip(consistent(problem, attempts, plan), likelihoods(problem, attempts, plan), strict=True)
    return [weight * likelihood for weight, likelihood in pairs]


def rewards(problem: Problem, attempts: Sequence[Attempt], plan: StrategyConfig) -> list[float]:
    """The score that a reward model gives to each attempt; `strategy_config.rated` asks it."""
    found = [a.rating.score for a in attempts if a.rating is not None]
    assert len(found) == len(attempts)
    return found


def reward_weights(problem: Problem, attempts: Sequence[Attempt], plan: StrategyConfig) -> list[float]:
    found = rewards(problem, attempts, plan)
    if min(found) < 0:
        raise ConfigError(f"a reward at problem {problem.id} is negative and cannot weigh a vote; use best_reward")
    return found
