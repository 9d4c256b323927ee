"""Which settings are tried: a table from a few numbers, one `Setting` for every point of every curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from data_process.prompts import PromptSet, SelectFormat
from selftrain.config import ConfigError, build_section, parse_override, read_yaml, set_value
from selftrain.engine_settings import Positive, Section
from selftrain.engine_settings.budget import BudgetSettings
from selftrain.engines.base import SamplingParams
from selftrain.engines.budget import Budget, ForcingRecord
from selftrain.test_time import STRATEGIES, Condition, ContextLimit, Rejection, StrategyConfig
from selftrain.test_time.length_control import TOKENS_PER_STEP
from selftrain.test_time.strategy_config import ANSWER_FORM, Rate, SelectionForm

# What a setting belongs to: the best of each family is chosen on dev. "oracle" is a bound, not a way to answer.
Family = Literal["single", "think", "vote", "select", "refine", "combined", "control", "oracle"]
FAMILIES: dict[Family, str] = {
    "single": "one answer",
    "think": "think longer or shorter (budget forcing)",
    "vote": "sample more and vote",
    "select": "sample more and let the model choose",
    "refine": "judge and refine the own answer",
    "combined": "think longer, and vote or choose",
    "control": "ask for a length, or reject by length",
    "oracle": "a perfect choice (bound)",
}
# Strategies that the grid places itself, as far as its settings ask for them.
# fmt: off
PLACED = frozenset({
    "greedy", "mean", "majority", "vote_logprob", "vote_reward", "best_logprob", "best_reward", "select", "tournament",
    "recursive", "permuted", "fused", "vote_consistent", "vote_consistent_logprob", "adaptive", "adaptive_posterior",
    "adaptive_consistent", "adaptive_consistent_posterior", "refine", "refine_vote", "reject", "pass",
})
# fmt: on
FAMILY_OF: dict[str, Family] = {
    "single": "single",
    "vote": "vote",
    "best": "vote",
    "select": "select",
    "refine": "refine",
}  # fmt: skip
Count = Annotated[int, Field(ge=0)]


class ScaleConfig(Section):
    """The grid. Every list may be empty, which leaves that part out."""

    n: Positive = 10  # samples per problem behind every vote and selection
    sizes: tuple[Positive, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)  # N of the curves
    select_sizes: tuple[Positive, ...] = (2, 3, 4, 5, 6, 7, 8, 9, 10)
    select_format: SelectFormat | None = None  # what selections answer with; None: as the run's settings say
    draws: Positive = 1  # ordered subsets per problem over which selection is averaged
    permutations: Positive = 3  # orders of a permutation vote, among `audit_size` candidates
    audit_size: Positive = 5  # candidates of the permutation vote, the tournament and the distinct selection
    variants: bool = True  # of selection: each answer once, several orders, tournament, recursive
    groups: tuple[Annotated[int, Field(ge=2)], ...] = (3, 5)  # candidates in one prompt of a tournament
    texts: tuple[Positive, ...] = (3, 5)  # of all candidates so many different texts, the most frequent, in one prompt
    # Tokens of the longest selection prompt that the model was trained on: longer ones are cut to the most frequent
    # texts. None: as in the run's training rows; without a run there is no such limit.
    trained_prompt: Positive | None = None
    doubts: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.5)  # vote of a candidate that contradicts itself
    adaptive_sizes: tuple[Positive, ...] | None = None  # samples at most, drawn until the vote is decided; None: n
    confidences: tuple[Annotated[float, Field(gt=0.5, le=1)], ...] = (0.95,)  # of the leader, where drawing stops
    rounds: Count = 2  # of self-refinement
    # Delimiters, ignore strings, answer cue: a preset, or fields of selftrain/engine_settings/budget.py.
    budget: BudgetSettings = BudgetSettings(preset="tiny")
    ignores: tuple[Count, ...] = (0, 1, 2, 3, 4, 5, 6, 7)  # ends of thinking that are replaced
    limits: tuple[Positive, ...] = (8, 16, 24, 32, 48, 64)  # thinking tokens at most
    min_tokens: tuple[Positive, ...] = ()  # thinking tokens at least; ends of thinking before them are replaced
    max_tokens: Positive = 256  # of a forced text; the budget keeps its answer's share free
    combine_ignores: tuple[Positive, ...] = (1, 2)  # of candidates that are voted on and chosen among
    combine_sizes: tuple[Positive, ...] = (3, 5)
    conditions: tuple[Literal["token", "step", "short", "long"], ...] = ("token", "step", "short", "long")
    condition_tokens: tuple[Positive, ...] = (16, 32, 64)
    condition_steps: tuple[Positive, ...] = (1, 2, 3)
    condition_short: tuple[Positive, ...] = (24,)  # thinking tokens at most, where "short" is forced
    condition_long: tuple[Positive, ...] = (48,)  # thinking tokens at least, where "long" is forced
    reject: tuple[Positive, ...] = (24, 32, 48)  # thinking tokens at most
    reject_tries: Positive = 10  # forced: the last of them is closed at the limit
    problems: Positive | None = None  # use the first so many problems of each split
    quick: bool = False  # fewer of the lengths that the grid itself chooses; see scaling/fit.py

    @model_validator(mode="before")
    @classmethod
    def _before_there_were_several_groups(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "group" in values:
            values = {**values, "groups": (values["group"],)}
            del values["group"]
        return values

    @model_validator(mode="after")
    def _fits(self) -> ScaleConfig:
        for name in ("sizes", "select_sizes", "adaptive_sizes", *(("combine_sizes",) if self.combine_ignores else ())):
            largest = max(getattr(self, name) or (), default=1)
            if largest > self.n:
                raise ValueError(f"{name} asks for {largest} of {self.n} samples; raise n or lower it")
        if self.audit_size > self.n:
            raise ValueError(f"audit_size is {self.audit_size} of {self.n} samples; raise n or lower it")
        return self

    @field_validator("budget")
    @classmethod
    def _nothing_twice(cls, budget: BudgetSettings) -> BudgetSettings:
        return budget.refuse({"num_ignore": "the grid's `ignores`", "min_tokens": "the grid's `min_tokens`"})


# What --quick changes: fewer problems and settings.
QUICK: dict[str, Any] = {
    "problems": 120, "sizes": [1, 2, 3, 5, 8], "select_sizes": [2, 3, 5, 8], "n": 8, "ignores": [0, 1, 2, 4],
    "texts": [5], "groups": [5], "doubts": [0.0],
    "quick": True, "combine_ignores": [1], "combine_sizes": [3, 5], "conditions": [], "rounds": 1,
}  # fmt: skip


def load_scale_config(path: Path | None, overrides: list[str], quick: bool) -> ScaleConfig:
    """Defaults, then `--quick`, then the file, then `--set`; raises ConfigError."""
    values: dict[str, Any] = {**(QUICK if quick else {}), **(read_yaml(path) if path else {})}
    for text in overrides:
        values = set_value(values, *parse_override(text))
    return build_section(ScaleConfig, values, str(path) if path else "settings of scale")


@dataclass(frozen=True)
class Setting:
    """One point: how the problems are answered, and where it stands in the curves."""

    name: str  # unique
    family: Family
    strategy: str  # a key of test_time.STRATEGIES
    plan: StrategyConfig
    num_ignore: int | None = None  # ends of thinking replaced; None: nothing is forced
    limit: int | None = None  # thinking tokens at most
    least: int | None = None  # thinking tokens at least
    # The same texts with a record of their thinking, drawn for their lengths; None: `plan` has it, or it is not needed.
    counted: SamplingParams | None = None

    @property
    def n(self) -> int:
        return self.plan.n

    @property
    def forced(self) -> bool:
        """Whether a budget may change the texts; one that only counts does not."""
        rejection, budget = self.plan.rejection, self.plan.sampling.budget
        return (rejection is not None and rejection.last is not None) or (budget is not None and budget.acts)

    def acts_on(self, forcing: ForcingRecord) -> bool | None:
        """Whether what this setting asks for changed a sample; None if it asks for nothing."""
        if self.num_ignore or self.least:
            return forcing.ignores > 0
        return None if self.limit is None else forcing.closed_by == "budget"

    @property
    def decodings(self) -> list[SamplingParams]:
        """Of everything that is drawn as an attempt or for its length."""
        last = self.plan.rejection.last if self.plan.rejection is not None else None
        return [params for params in (self.plan.sampling, last, self.counted) if params is not None]


def grid(
    config: ScaleConfig,
    plain: SamplingParams,
    selecting: SamplingParams,
    prompts: PromptSet,
    context_limit: ContextLimit | None = None,
    seed: int = 0,
    selection: SelectionForm = ANSWER_FORM,
    rate: Rate | None = None,
) -> list[Setting]:
    """Every setting, in the order of the report. `plain` is how samples are drawn without a budget.

    `rate`: a reward model, for the settings that need one.
    """
    base = StrategyConfig(
        prompts=prompts, sampling=plain, selecting=selecting, seed=seed, context_limit=context_limit,
        permutations=config.permutations, form=selection.form, limit=selection.limit, rate=rate,
    )  # fmt: skip
    many = replace(base, pool=config.n)
    # "short" and "long" are measured against the thinking of a run that is not asked for a length.
    counted = counting_params(config, plain) if {"short", "long"} & set(config.conditions) else None
    settings = [Setting("greedy", "single", "greedy", base, counted=counted), Setting("mean@1", "single", "mean", many)]
    settings += _think(config, base)
    for n in config.sizes:
        if n > 1:
            settings.append(Setting(f"vote@{n}", "vote", "majority", replace(many, n=n)))
    settings += _free_votes(config, many)
    for n in config.select_sizes:
        settings.append(Setting(f"select@{n}", "select", "select", replace(many, n=n, draws=config.draws)))
    if config.variants:
        settings += _variants(config, many)
    for rounds in range(1, config.rounds + 1):
        plan = replace(base, rounds=rounds)
        settings.append(Setting(f"refine x{rounds}", "refine", "refine", plan))
        if rounds > 1:
            settings.append(Setting(f"refine x{rounds}, vote", "refine", "refine_vote", plan))
    for k in config.combine_ignores:
        forced = replace(many, sampling=forced_params(config, plain, num_ignore=k))
        settings.append(Setting(f"mean@1 +{k}", "think", "mean", forced, num_ignore=k))
        settings += _combined(config, forced, k)
    settings += _control(config, base)
    settings += _others(many)
    settings += [Setting(f"pass@{n}", "oracle", "pass", replace(many, n=n)) for n in config.sizes if n > 1]
    names = [setting.name for setting in settings]
    if len(set(names)) < len(names):
        raise ConfigError("a setting stands twice; give every list of the scale settings different numbers")
    return settings


def _others(many: StrategyConfig) -> list[Setting]:
    """Strategies of the table that the grid has no curve for, among all samples: one setting for each."""
    found = {name: s for name, s in STRATEGIES.items() if name not in PLACED and s.answers and s.family != "reject"}
    settings = []
    for name, strategy in found.items():
        if not (strategy.needs_reward or (strategy.needs_context_limit and many.context_limit is None)):
            plan = replace(many, n=many.size)
            settings.append(Setting(f"{name}@{plan.n}", FAMILY_OF[strategy.family], name, plan))
    return settings


def _free_votes(config: ScaleConfig, many: StrategyConfig) -> list[Setting]:
    """Votes that weigh what the samples themselves give, and votes that stop early."""
    settings = []
    for n in config.sizes:
        for doubt in config.doubts if n > 1 else ():
            if doubt and n not in (config.audit_size, config.n):
                continue
            weight = f", contradictions at {doubt:g}" if doubt else ""
            plan = replace(many, n=n, doubt=doubt)
            settings.append(Setting(f"consistent vote@{n}{weight}", "vote", "vote_consistent", plan))
    for n in sorted({config.audit_size, config.n}):
        plan = replace(many, n=n)
        settings.append(Setting(f"likelihood-weighted vote@{n}", "vote", "vote_logprob", plan))
        settings.append(Setting(f"consistent, likelihood-weighted vote@{n}", "vote", "vote_consistent_logprob", plan))
        settings.append(Setting(f"most likely of {n}", "vote", "best_logprob", plan))
        if many.rate is not None:
            settings.append(Setting(f"reward-weighted vote@{n}", "vote", "vote_reward", plan))
            settings.append(Setting(f"highest reward of {n}", "vote", "best_reward", plan))
            settings.append(Setting(f"Reward-Pass@{plan.top} of {n}", "oracle", "reward_pass", plan))
    for n in (config.n,) if config.adaptive_sizes is None else config.adaptive_sizes:
        settings += [Setting(*named) for named in _adaptive(config, many, n, "vote", "")]
    return settings


def _adaptive(
    config: ScaleConfig, many: StrategyConfig, n: int, family: Family, suffix: str
) -> list[tuple[str, Family, str, StrategyConfig]]:
    """Adaptive votes of at most n: by the exact rule, and by each posterior bound; plain and consistent."""
    # Among all samples they are drawn one after another, so that what no strategy needs is never drawn.
    plan = replace(many, n=n, pool=None if n == config.n else config.n)
    found: list[tuple[str, Family, str, StrategyConfig]] = []
    for kind, strategy in (("adaptive vote", "adaptive"), ("adaptive consistent vote", "adaptive_consistent")):
        found.append((f"{kind}@{n}{suffix}", family, strategy, plan))
        for confidence in config.confidences:
            sure = replace(plan, confidence=confidence)
            found.append((f"{kind}@{n}{suffix}, {100 * confidence:g}%", family, f"{strategy}_posterior", sure))
    return found


def _combined(config: ScaleConfig, forced: StrategyConfig, k: int) -> list[Setting]:
    """Candidates with k ignore strings each, then a vote or a selection over their last derivations."""
    settings = []
    for n in config.combine_sizes:
        plan = replace(forced, n=n)
        for name, strategy in (("vote", "majority"), ("consistent vote", "vote_consistent"), ("select", "select")):
            settings.append(Setting(f"{name}@{n} +{k}", "combined", strategy, plan, num_ignore=k))
    if config.variants and config.combine_sizes:
        n = max(config.combine_sizes)
        settings += [Setting(*named, num_ignore=k) for named in _adaptive(config, forced, n, "combined", f" +{k}")]
        for group in config.groups:
            if group < n:
                plan = replace(forced, n=n, group=group)
                name = f"fused tournament@{n} +{k} in groups of {group}"
                settings.append(Setting(name, "combined", "fused", plan, num_ignore=k))
    return settings


def _variants(config: ScaleConfig, many: StrategyConfig) -> list[Setting]:
    """Other ways to let the model choose."""
    some = replace(many, n=config.audit_size, draws=1)
    every = replace(many, n=config.n)
    settings = [
        Setting(f"select@{some.n}, each answer once", "select", "select", replace(some, distinct=True)),
        Setting(f"select@{some.n} in {config.permutations} orders", "select", "permuted", some),
    ]
    for texts in (k for k in config.texts if k < every.n):
        plan = replace(every, texts=texts)
        settings.append(Setting(f"select@{every.n}, the {texts} most frequent texts", "select", "select", plan))
    for group in (k for k in config.groups if k < every.n):
        plan = replace(every, group=group)
        settings.append(Setting(f"tournament@{every.n} in groups of {group}", "select", "tournament", plan))
        settings.append(Setting(f"fused tournament@{every.n} in groups of {group}", "select", "fused", plan))
    if many.context_limit is not None:
        settings.append(Setting(f"recursive@{every.n}", "select", "recursive", every))
    return settings


def forced_params(
    config: ScaleConfig, plain: SamplingParams, num_ignore: int = 0, limit: int | None = None, least: int | None = None
) -> SamplingParams:
    """`plain` with the configured budget. ConfigError, with the arithmetic, for a budget that cannot be."""
    try:
        if limit is None and "max_tokens" in config.budget.given:  # a preset's own is not taken over
            limit = config.budget.max_tokens
        budget = config.budget.budget(num_ignore=num_ignore, max_tokens=limit, min_tokens=least or 0)
        return replace(plain, max_tokens=max(plain.max_tokens, config.max_tokens), budget=budget)
    except ValueError as error:
        bounds = f"num_ignore {num_ignore}, limit {limit}, least {least}"
        raise ConfigError(f"budget {config.budget} with {bounds}: {error}") from error


def ignores_of(settings: Sequence[Setting]) -> set[str]:
    """The ignore strings that some of the settings put into texts."""
    budgets = [params.budget for setting in settings for params in setting.decodings if params.budget is not None]
    return {text for budget in budgets if budget.num_ignore or budget.min_tokens for text in budget.ignore}


def counting_params(config: ScaleConfig, plain: SamplingParams) -> SamplingParams:
    """`plain` with a budget that changes no text: it records what is thinking and what is answer."""
    return replace(plain, budget=Budget(end=config.budget.budget().end))


def _think(config: ScaleConfig, base: StrategyConfig) -> list[Setting]:
    settings = []
    for k in config.ignores:
        plan = replace(base, sampling=forced_params(config, base.sampling, num_ignore=k))
        settings.append(Setting(f"greedy +{k}", "think", "greedy", plan, num_ignore=k))
    for limit in config.limits:
        plan = replace(base, sampling=forced_params(config, base.sampling, limit=limit))
        settings.append(Setting(f"greedy, at most {limit}", "think", "greedy", plan, num_ignore=0, limit=limit))
    for least in config.min_tokens:
        plan = replace(base, sampling=forced_params(config, base.sampling, least=least))
        settings.append(Setting(f"greedy, at least {least}", "think", "greedy", plan, num_ignore=0, least=least))
    return settings


def _control(config: ScaleConfig, base: StrategyConfig) -> list[Setting]:
    """What s1 compares budget forcing with, each with and without it. Without, thinking is only counted."""
    counted = replace(base, sampling=counting_params(config, base.sampling))
    settings = []
    for name in config.conditions:
        for asked in _asked(config, name):
            label = f"asked: {name}" + (f" {asked}" if asked else "")
            plan = replace(counted, condition=Condition(name, asked))
            settings.append(Setting(label, "control", "greedy", plan))
            for suffix, limit, least in _held_to(config, name, asked):
                forced = replace(plan, sampling=forced_params(config, base.sampling, limit=limit, least=least))
                name_held = f"{label}, {suffix}"
                settings.append(Setting(name_held, "control", "greedy", forced, num_ignore=0, limit=limit, least=least))
    for limit in config.reject:
        rejection = Rejection(limit, config.reject_tries)
        closing = replace(rejection, last=forced_params(config, base.sampling, limit=limit))
        label = f"reject above {limit}"
        free, forced = replace(counted, rejection=rejection), replace(counted, rejection=closing)
        settings.append(Setting(label, "control", "reject", free, limit=limit))
        settings.append(Setting(f"{label}, forced", "control", "reject", forced, num_ignore=0, limit=limit))
    return settings


def _asked(config: ScaleConfig, name: str) -> tuple[int | None, ...]:
    """The numbers that a condition is asked with; "short" and "long" have none."""
    return {"token": config.condition_tokens, "step": config.condition_steps}.get(name, (None,))


def _held_to(config: ScaleConfig, name: str, asked: int | None) -> list[tuple[str, int | None, int | None]]:
    """How a condition is forced: (what the setting is called, thinking tokens at most, at least).

    What has a limit is held to it, as by s1, whose steps have 100 tokens each. A class has none; what its forcing
    means is ours: "short" is closed at a length, and "long" continues up to one.
    """
    if asked is not None:
        return [("forced", asked * (TOKENS_PER_STEP if name == "step" else 1), None)]
    if name == "short":
        return [(f"forced to at most {tokens}", tokens, None) for tokens in config.condition_short]
    return [(f"forced to at least {tokens}", None, tokens) for tokens in config.condition_long]
