"""Names of strategies with their numbers: "majority@5", "greedy+1", "tournament@10/5", "select@3+1".

`evaluation.strategies` and the results of a run use them; `scale` has a grid of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from data_process.prompts import PromptSet
from selftrain.config import ConfigError, EvaluationConfig
from selftrain.engines.base import SamplingParams
from selftrain.sampling.engine_factory import sampling_params
from selftrain.test_time.strategies import STRATEGIES, Strategy
from selftrain.test_time.strategy_config import ANSWER_FORM, Rate, SelectionForm, StrategyConfig, selecting_params

_NAME = re.compile(
    r"(?P<strategy>[^@/+]+)(?:@(?P<n>[1-9][0-9]{0,3}))?(?:/(?P<group>[1-9][0-9]?))?(?:\+(?P<waits>[1-9][0-9]?))?"
)


@dataclass(frozen=True)
class Variant:
    """A strategy of the table and its numbers; None or 0 is what the evaluation has for all."""

    strategy: str
    n: int | None = None  # samples at most; of `refine` and `refine_vote` the rounds
    group: int | None = None  # candidates in one prompt of a tournament; of `reward_pass` the highest rewards
    waits: int = 0  # ends of thinking that a budget replaces, in every attempt


def variant(name: str) -> Variant | None:
    """What a name stands for; None for one that names no strategy of the table."""
    if name in STRATEGIES:
        return Variant(name)
    found = _NAME.fullmatch(name)
    if found is None or found["strategy"] not in STRATEGIES:
        return None
    n, group = (int(found[part]) if found[part] else None for part in ("n", "group"))
    return Variant(found["strategy"], n, group, int(found["waits"] or 0))


def strategy_of(name: str) -> Strategy | None:
    found = variant(name)
    return None if found is None else STRATEGIES[found.strategy]


def plans_of(
    config: EvaluationConfig,
    prompts: PromptSet,
    seed: int,
    selection: SelectionForm = ANSWER_FORM,
    rate: Rate | None = None,
) -> dict[str, tuple[str, StrategyConfig]]:
    """Of each of `config.strategies` the key of the table and what it runs with.

    ConfigError for a name that means nothing, or with a number that its strategy does not have.
    """
    base = StrategyConfig(
        prompts,
        sampling_params(config),
        selecting_params(config),
        n=config.n,
        seed=seed,
        form=selection.form,
        limit=selection.limit,
        rate=rate,
    )
    return {name: _plan(name, config, base) for name in config.strategies}


def _plan(name: str, config: EvaluationConfig, base: StrategyConfig) -> tuple[str, StrategyConfig]:
    found = variant(name)
    if found is None:
        raise ConfigError(
            f"there is no strategy {name!r}; known: {', '.join(STRATEGIES)}. Numbers follow a name: majority@5 has "
            "five samples, tournament@10/5 groups of five, reward_pass@10/2 the two "
            "highest rewards, greedy+1 one forced ignore string, refine@1 one round"
        )
    family = STRATEGIES[found.strategy].family
    plan = base
    if found.n is not None:
        if family in ("single", "reject"):
            raise ConfigError(f"strategy {name!r}: {found.strategy} has no number of samples; leave out @{found.n}")
        plan = replace(plan, rounds=found.n) if family == "refine" else replace(plan, n=found.n)
    if found.group is not None:
        if found.strategy == "reward_pass":
            plan = replace(plan, top=found.group)
        elif found.strategy in ("tournament", "fused"):
            plan = replace(plan, group=found.group)
        else:
            raise ConfigError(f"strategy {name!r}: only a tournament has groups; leave out /{found.group}")
    if found.waits:
        plan = replace(plan, sampling=_forced(config, plan.sampling, found.waits))
    return found.strategy, plan


def _forced(config: EvaluationConfig, plain: SamplingParams, waits: int) -> SamplingParams:
    try:
        budget = config.budget.budget(num_ignore=waits)
    except ValueError as error:
        raise ConfigError(f"evaluation.budget {config.budget}: {error}") from error
    return replace(plain, max_tokens=max(plain.max_tokens, config.forced_max_tokens), budget=budget)
