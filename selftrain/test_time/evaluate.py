"""The loop's evaluation: every configured strategy of the table, on one set of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_process.prompts import PromptSet, prompt_set
from data_process.schema import Problem
from selftrain.config import Config, ConfigError, EvaluationConfig
from selftrain.engines.base import SamplingParams
from selftrain.engines.budget_forcing.tags import refuse_letters
from selftrain.sampling import budgets
from selftrain.sampling.sampler import Sampler
from selftrain.test_time.records import Outcome
from selftrain.test_time.results import Calibration, EvaluatedProblem, JudgedText, SplitResult, StrategyResult, score
from selftrain.test_time.strategies import STRATEGIES, preflight, run
from selftrain.test_time.strategy_config import ANSWER_FORM, Pool, Rate, SelectionForm, StrategyConfig, draw_pool, rated
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
    rate: Rate | None = None,
) -> None:
    """ConfigError, before anything is sampled, for a strategy that is unknown or needs what the loop does not give."""
    for strategy, plan in plans_of(config, prompts, seed, selection, rate).values():
        preflight([strategy], problems, plan)


def check_budgets(config: Config, problems: Sequence[Problem]) -> None:
    """ConfigError, before anything is sampled, for a budget that the model or the problems do not allow.

    It looks at every strategy that a run measures.
    """
    plans = plans_of(config.evaluation.on("test"), prompt_set(config.prompts), config.seed).values()
    decodings = [plan.sampling for _, plan in plans if plan.sampling.budget is not None]
    for params in decodings:
        try:
            refuse_letters(params.budget, [problem.choices for problem in problems])
        except ValueError as error:
            raise ConfigError(f"evaluation.budget {config.evaluation.budget}: {error}") from error
    if decodings and (processor := budgets.processor_of(config)) is not None:
        what = f"evaluation: this model cannot keep the budget {config.evaluation.budget}"
        budgets.check(what, decodings, processor)


def evaluate(
    problems: Sequence[Problem], sampler: Sampler, config: EvaluationConfig, prompts: PromptSet, iteration: int,
    seed: int = 0, selection: SelectionForm = ANSWER_FORM, rate: Rate | None = None,
) -> Evaluation:  # fmt: skip
    """Run every strategy of `config.strategies` on `problems` with the sampler's weights.

    `selection`: what selections answer with. `rate`: a reward model, for the strategies that need one.
    Strategies that decode alike share their samples: each reads the first n of them. `seed` is used by strategies that
    shuffle. Raises as `check_strategies` does, EngineError from the engine.
    """
    check_strategies(config, problems, prompts, seed, selection, rate)
    plans = plans_of(config, prompts, seed, selection, rate)
    pools = _pools(problems, sampler, plans.values())
    found: dict[str, list[Outcome]] = {}
    # Those that need a reward come last: its model takes the place of the one that samples.
    for name, (key, plan) in sorted(plans.items(), key=lambda item: STRATEGIES[item[1][0]].needs_reward):
        if rate is not None and STRATEGIES[key].needs_reward:
            pools[plan.sampling] = rated(problems, pools[plan.sampling], rate)
        found[name] = run(key, problems, sampler, plan, pools.get(plan.sampling))
    outcomes = {name: found[name] for name in plans}
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
        plain = samples.pop("+0", ())
        rows.append(
            EvaluatedProblem(
                id=problem.id,
                question=problem.full_question,
                choices=problem.choices,
                gold=problem.answer,
                iteration=iteration,
                samples=plain,
                strategies={name: StrategyResult.of(outcome, plain) for name, outcome in of_problem.items()},
                forced=samples,
            )
        )
    scores = {name: score(several) for name, several in outcomes.items()}
    for name, (key, plan) in plans.items():
        if plan.sampling.budget is not None:
            pool = pools[plan.sampling] if STRATEGIES[key].needs_pool else {}
            idle = _idle_share(outcomes[name], pool, plan.size)
            scores[name] = scores[name].model_copy(update={"idle": idle})
    # Of the samples that nothing was forced upon: these are what a reward model was trained on.
    judged = [[(s.reward, s.verdict.correct) for s in row.samples if s.reward is not None] for row in rows]
    calibration = Calibration.of(judged) if any(judged) else None
    split = SplitResult(n=len(problems), n_samples=config.n, strategies=scores, calibration=calibration)
    return Evaluation(split, rows)


def _idle_share(outcomes: Sequence[Outcome], pool: Pool, n: int) -> float | None:
    """Share of the attempts behind a forced strategy that no ignore string was put into; None if none was forced."""
    attempts = [a for o in outcomes for a in (pool.get(o.problem_id, ())[:n] or o.samples or o.texts)]
    records = [a.completion.forcing for a in attempts if a.completion.forcing is not None]
    return sum(not record.ignores for record in records) / len(records) if records else None


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
