"""Every setting on every question, through the bank; what each cost, and what its budget did."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_process.schema import Problem
from selftrain.engines.base import Completion
from selftrain.sampling import Sampler
from selftrain.scale.settings import Setting
from selftrain.test_time import STRATEGIES, Outcome, Plan, Pool, draw_pool, run, summary, thinking_tokens
from selftrain.test_time.strategies import preflight

Told = Callable[[int, int], None]  # settings done, settings in all


@dataclass(frozen=True)
class Measured:
    """One setting on one split."""

    setting: Setting
    outcomes: tuple[Outcome, ...]  # in the order of the problems
    totals: dict[str, Any]  # test_time.summary
    thinking: dict[str, Any]  # `thinking_of`
    lengths: tuple[int, ...]  # thinking tokens of every attempt

    @property
    def credits(self) -> dict[str, float]:
        return {outcome.problem_id: outcome.credit for outcome in self.outcomes}

    @property
    def cost(self) -> float:
        """Tokens per question, generated and prompt together."""
        return float(self.totals["tokens_per_problem"]["total"])

    @property
    def accuracy(self) -> float:
        return float(self.totals["accuracy"])


def measure(
    settings: Sequence[Setting], problems: Sequence[Problem], sampler: Sampler, told: Told = lambda done, total: None
) -> list[Measured]:
    """All settings, in order. What cannot work is refused before anything is sampled.

    ConfigError as `strategies.preflight`, EngineError from the engine: samples drawn before it stay in the bank.
    """
    for setting in settings:
        preflight([setting.strategy], problems, setting.plan)
    pools: dict[Any, Pool] = {}
    measured = []
    for k, setting in enumerate(settings):
        told(k, len(settings))
        pool = None
        if STRATEGIES[setting.strategy].needs_pool:
            key = (setting.plan.sampling, setting.plan.condition)
            if key not in pools:
                pools[key] = draw_pool(problems, sampler, setting.plan)
            pool = pools[key]
        outcomes = run(setting.strategy, problems, sampler, setting.plan, pool)
        texts = _texts(setting, problems, sampler, pool)
        lengths = tuple(thinking_tokens(completion) for completion in texts)
        measured.append(Measured(setting, tuple(outcomes), summary(outcomes), thinking_of(texts), lengths))
    told(len(settings), len(settings))
    return measured


def _texts(setting: Setting, problems: Sequence[Problem], sampler: Sampler, pool: Pool | None) -> list[Completion]:
    """The attempts behind a setting, for its lengths; what was refined or selected afterwards is left out."""
    if pool is not None:
        return [attempt.completion for attempts in pool.values() for attempt in attempts]
    plan: Plan = setting.plan
    params = plan.sampling if setting.strategy == "reject" else plan.greedy
    drawn = sampler.draw(plan.asks(problems), params, 1)  # they are in the bank
    return [completion for completions in drawn.values() for completion in completions]


def thinking_of(completions: Sequence[Completion]) -> dict[str, Any]:
    """Lengths of thinking in tokens, and what a budget did: counts that add up to `completions`.

    `forced`: ignore strings put in, or closed by a limit or a loop. `unforced`: there was a budget and nothing to do.
    `no_delimiter`: the model never wrote the end of thinking, and nothing was done about it. `plain`: no budget.
    """
    lengths = sorted(thinking_tokens(completion) for completion in completions)
    status: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    ignores = 0
    for completion in completions:
        forcing = completion.forcing
        status[forcing.status if forcing else "plain"] += 1
        if forcing:
            closed[forcing.closed_by or "cut"] += 1
            ignores += forcing.ignores
    return {
        "completions": len(completions),
        "mean": statistics.fmean(lengths),
        "median": statistics.median(lengths),
        "p95": lengths[min(len(lengths) - 1, round(0.95 * (len(lengths) - 1)))],
        "max": lengths[-1],
        "status": dict(status),
        "closed_by": dict(closed),
        "ignores": ignores,
        "cut": sum(completion.finish == "length" for completion in completions),
    }


def rows(measured: Sequence[Measured], subject: str, split: str) -> list[Mapping[str, Any]]:
    """One record per setting and question: the raw results."""
    return [
        {
            "subject": subject,
            "split": split,
            "setting": m.setting.name,
            "id": outcome.problem_id,
            "credit": outcome.credit,
            "unread": outcome.unread,
            "answers": [list(choice.answers) for choice in outcome.choices],
            "generated": outcome.spent.generated,
            "prompt": outcome.spent.prompt,
        }
        for m in measured
        for outcome in m.outcomes
    ]
