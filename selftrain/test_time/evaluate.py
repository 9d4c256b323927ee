"""The loop's evaluation: every configured strategy of the table, on one set of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_process.prompts import PromptSet
from data_process.schema import Problem
from selftrain.config import EvaluationConfig
from selftrain.engines.base import SamplingParams
from selftrain.sampling.sampler import Sampler
from selftrain.test_time.results import EvaluatedProblem, JudgedText, SplitResult, StrategyResult, score
from selftrain.test_time.strategies import STRATEGIES, preflight, run
from selftrain.test_time.strategy_config import ANSWER_FORM, Pool, SelectionForm, StrategyConfig, draw_pool
from selftrain.test_time.variants import plans_of


@dataclass(frozen=True)
class Evaluation:
    """The totals, and a record for each problem, in order."""

    split: SplitResult
    rows: list[EvaluatedProblem]


def check_strategies(
    config: EvaluationConfig,
    problems: Sequence[Problem],
    prompts: PromptSet,
    seed: int = 0,
    selection: SelectionForm = ANSWER_FORM,
) -> None:
    """ConfigError, before anything is sampled, for a strategy that is unknown or needs what the loop does not give."""
    for strategy, plan in plans_of(config, prompts, seed, selection).values():
        preflight([strategy], problems, plan)


def evaluate(
    problems: Sequence[Problem], sampler: Sampler, config: EvaluationConfig, prompts: PromptSet, iteration: int,
    seed: int = 0, selection: SelectionForm = ANSWER_FORM,
) -> Evaluation:  # fmt: skip
    """Run every strategy of `config.strategies` on `problems` with the sampler's weights.

    `selection`: what selections answer with.
    Strategies that decode alike share their samples: each reads the first n of them. `seed` is used by strategies that
    shuffle. Raises as `check_strategies` does, EngineError from the engine.
    """
    check_strategies(config, problems, prompts, seed, selection)
    plans = plans_of(config, prompts, seed, selection)
    pools = _pools(problems, sampler, plans.values())
    outcomes = {
        name: run(key, problems, sampler, plan, pools.get(plan.sampling)) for name, (key, plan) in plans.items()
    }
    rows = []
    for k, problem in enumerate(problems):
        of_problem = {name: several[k] for name, several in outcomes.items()}
        samples: dict[str, tuple[JudgedText, ...]] = {}
        for name, (_, plan) in plans.items():
            # An adaptive strategy may have drawn more samples than the others need.
            pooled = pools[plan.sampling][problem.id] if plan.sampling in pools else ()
            known = max(pooled, of_problem[name].samples, key=len)
            waits = plan.sampling.budget.num_ignore if plan.sampling.budget is not None else 0
            if len(known) > len(samples.get(f"+{waits}", ())):
                samples[f"+{waits}"] = tuple(map(JudgedText.of, known))
        rows.append(
            EvaluatedProblem(
                id=problem.id,
                gold=problem.answer,
                iteration=iteration,
                samples=samples.pop("+0", ()),
                strategies={name: StrategyResult.of(outcome) for name, outcome in of_problem.items()},
                forced=samples,
            )
        )
    scores = {name: score(several) for name, several in outcomes.items()}
    return Evaluation(SplitResult(n=len(problems), n_samples=config.n, strategies=scores), rows)


def _pools(
    problems: Sequence[Problem], sampler: Sampler, plans: Iterable[tuple[str, StrategyConfig]]
) -> dict[SamplingParams, Pool]:
    """Judged samples by how they are decoded, as many as the largest strategy needs that cannot draw for itself."""
    largest: dict[SamplingParams, StrategyConfig] = {}
    for strategy, plan in plans:
        known = largest.get(plan.sampling)
        if STRATEGIES[strategy].needs_pool and (known is None or plan.size > known.size):
            largest[plan.sampling] = plan
    return {sampling: draw_pool(problems, sampler, plan) for sampling, plan in largest.items()}
