"""The loop's evaluation: every configured strategy of the table, on one set of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_process.prompts import PromptSet
from data_process.schema import Problem
from selftrain.config import EvaluationConfig
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.sampler import Sampler
from selftrain.test_time.results import EvaluatedProblem, JudgedText, SplitResult, StrategyResult, score
from selftrain.test_time.strategies import STRATEGIES, preflight, run
from selftrain.test_time.strategy_config import ANSWER_FORM, SelectionForm, StrategyConfig, draw_pool, selecting_params


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
    preflight(config.strategies, problems, _strategy_config(config, prompts, seed, selection))


def _strategy_config(
    config: EvaluationConfig, prompts: PromptSet, seed: int, selection: SelectionForm
) -> StrategyConfig:
    return StrategyConfig(
        prompts, sampling_params(config), selecting_params(config), n=config.n, seed=seed, form=selection.form,
        limit=selection.limit,
    )  # fmt: skip


def evaluate(
    problems: Sequence[Problem], sampler: Sampler, config: EvaluationConfig, prompts: PromptSet, iteration: int,
    seed: int = 0, selection: SelectionForm = ANSWER_FORM,
) -> Evaluation:  # fmt: skip
    """Run every strategy of `config` on `problems` with the sampler's weights.

    `selection`: what selections answer with. `seed` is used by strategies that shuffle.
    Raises as `check_strategies` does, EngineError from the engine.
    """
    check_strategies(config, problems, prompts, seed, selection)
    plan = _strategy_config(config, prompts, seed, selection)
    pool = draw_pool(problems, sampler, plan) if any(STRATEGIES[s].needs_pool for s in config.strategies) else None
    outcomes = {name: run(name, problems, sampler, plan, pool) for name in config.strategies}
    rows = [
        EvaluatedProblem(
            id=problem.id,
            gold=problem.answer,
            iteration=iteration,
            samples=tuple(map(JudgedText.of, pool[problem.id])) if pool is not None else (),
            strategies={name: StrategyResult.of(several[k]) for name, several in outcomes.items()},
        )
        for k, problem in enumerate(problems)
    ]
    scores = {name: score(several) for name, several in outcomes.items()}
    return Evaluation(SplitResult(n=len(problems), n_samples=config.n, strategies=scores), rows)
