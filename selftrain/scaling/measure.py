"""Every setting on every problem, through the bank; what each cost, and what its budget did."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from data_process.schema import Problem
from selftrain.engines.base import Completion
from selftrain.sampling.sampler import Sampler
from selftrain.scaling.grid import Setting
from selftrain.scaling.records import RawResult, SettingResult, Thinking
from selftrain.test_time import (
    STRATEGIES,
    Outcome,
    Pool,
    Score,
    SelectorCall,
    audit,
    credits,
    draw_pool,
    run,
    thinking_tokens,
)
from selftrain.test_time.results import score
from selftrain.test_time.strategies import preflight

OnSetting = Callable[[int, int, str], None]  # settings done, settings in all, how far the current one is


@dataclass(frozen=True)
class Measured:
    """One setting on one split."""

    setting: Setting
    outcomes: tuple[Outcome, ...]  # in the order of the problems
    totals: Score
    thinking: Thinking
    lengths: tuple[int, ...]  # thinking tokens of every attempt

    @property
    def credits(self) -> dict[str, float]:
        return credits(self.outcomes)

    @property
    def calls(self) -> list[SelectorCall]:
        """Every selector call, where the selection itself is measured: not on forced candidates."""
        return audit.calls_of(self.outcomes) if self.setting.family == "select" else []

    @property
    def cost(self) -> float:
        """Tokens per problem, generated and prompt together."""
        return self.totals.tokens_per_problem.total

    @property
    def accuracy(self) -> float:
        return self.totals.accuracy

    @property
    def record(self) -> SettingResult:
        return SettingResult.of(self.setting, self.totals, self.thinking)


def measure(
    settings: Sequence[Setting],
    problems: Sequence[Problem],
    sampler: Sampler,
    on_setting: OnSetting = lambda done, total, note: None,
) -> list[Measured]:
    """All settings, in order. What cannot work is refused before anything is sampled.

    `on_setting` is called for every setting and, while it is sampled, with the samples present and wanted.
    ConfigError as `strategies.preflight`, EngineError from the engine: samples drawn before it stay in the bank.
    """
    for setting in settings:
        preflight([setting.strategy], problems, setting.plan)
    pools: dict[Hashable, Pool] = {}
    measured = []
    for k, setting in enumerate(settings):
        on_setting(k, len(settings), setting.name)
        sampler.on_progress = partial(_report, on_setting, k, len(settings), setting.name)
        key = (setting.plan.sampling, setting.plan.condition)
        if key not in pools and STRATEGIES[setting.strategy].needs_pool:
            pools[key] = draw_pool(problems, sampler, setting.plan)
        pool = pools.get(key)
        outcomes = run(setting.strategy, problems, sampler, setting.plan, pool)
        texts = _texts(setting, problems, sampler, pool, outcomes)
        lengths = tuple(thinking_tokens(completion) for completion in texts)
        measured.append(Measured(setting, tuple(outcomes), score(outcomes), thinking_of(texts, setting), lengths))
    on_setting(len(settings), len(settings), "")
    return measured


def _report(on_setting: OnSetting, done: int, total: int, name: str, samples: int, wanted: int) -> None:
    on_setting(done, total, f"{name}: {samples}/{wanted} samples")


def _texts(
    setting: Setting, problems: Sequence[Problem], sampler: Sampler, pool: Pool | None, outcomes: Sequence[Outcome]
) -> list[Completion]:
    """The attempts behind a setting, for its lengths; what was refined or selected afterwards is left out."""
    if pool is not None and STRATEGIES[setting.strategy].needs_pool:
        return [attempt.completion for attempts in pool.values() for attempt in attempts]
    if any(outcome.samples for outcome in outcomes):
        return [attempt.completion for outcome in outcomes for attempt in outcome.samples]
    if setting.strategy == "reject":
        return [attempt.completion for outcome in outcomes for attempt in outcome.texts]
    plan = setting.plan if setting.counted is None else replace(setting.plan, sampling=setting.counted)
    drawn = sampler.draw(plan.asks(problems), plan.greedy, 1)  # without `counted` they are in the bank
    return [completion for completions in drawn.values() for completion in completions]


def thinking_of(completions: Sequence[Completion], setting: Setting) -> Thinking:
    """How long the completions thought, and what a budget did to them."""
    lengths = sorted(thinking_tokens(completion) for completion in completions)
    status: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    ignores = 0
    for completion in completions:
        forcing = completion.forcing
        status[forcing.status if forcing else "plain"] += 1
        if forcing:
            closed[forcing.closed_by or "truncated"] += 1
            ignores += forcing.ignores
    acted = [setting.acts_on(c.forcing) for c in completions if c.forcing is not None and setting.strategy != "reject"]
    p95 = lengths[round(0.95 * (len(lengths) - 1))]
    return Thinking(
        completions=len(completions), mean=statistics.fmean(lengths), median=statistics.median(lengths), p95=p95,
        max=lengths[-1], status=dict(status), closed_by=dict(closed), ignores=ignores,
        truncated=sum(completion.finish == "length" for completion in completions),
        idle=None if not acted or None in acted else acted.count(False),
    )  # fmt: skip


def rows(measured: Sequence[Measured], subject: str, split: str) -> list[RawResult]:
    """One record per setting and problem: the raw results."""
    return [RawResult.of(outcome, subject, split, m.setting.name) for m in measured for outcome in m.outcomes]
