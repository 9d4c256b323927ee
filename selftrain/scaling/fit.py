"""The grid of a model that nobody made one for: from the tags that it thinks between, how long it usually thinks, and
the problems. Whatever a file or `--set` gives stays; the demo's model keeps the grid of `ScaleConfig`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_process import prompts as wording
from data_process.prompts import PromptSet
from data_process.schema import LETTERS, Problem
from selftrain.config import Config, build_section
from selftrain.engine_settings.budget import S1_M, BudgetSettings
from selftrain.engines.base import Completion, SamplingParams
from selftrain.engines.budget_forcing.tags import ThinkingTags, asked_tags, thinking_tags
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.scaling.grid import ScaleConfig
from selftrain.shipped import ROOT
from selftrain.test_time import ContextLimit
from selftrain.test_time.strategy_config import greedy

DEMO_MODEL = ROOT / "models/tiny-qwen2vl"
DEMO_LENGTH = 32  # tokens: what the grid of `ScaleConfig` is made for
# Lengths of the grid, as shares of the usual length; those of a quick grid. Steps count 100 tokens each, as in s1.
SHARES: dict[str, tuple[float, ...]] = {
    "limits": (0.25, 0.5, 0.75, 1, 1.5, 2), "min_tokens": (1, 2), "condition_tokens": (0.5, 1, 2),
    "condition_short": (0.75,), "condition_long": (1.5,), "reject": (0.75, 1, 1.5),
}  # fmt: skip
QUICK_SHARES = {**SHARES, "limits": (0.5, 1, 2), "min_tokens": (2,), "reject": (1,)}
LONGEST = 8  # usual lengths that a forced text may have: there are up to 7 ignore strings
STEP = 100
SPARE = 64  # tokens kept free for delimiters, ignore strings and the wording of a condition
UNTAGGED = BudgetSettings(
    end="\nFinal answer:", ignore=("\nWait,", "\nLet me check again,"), answer_tokens=S1_M.answer_tokens, loop_repeats=4
)


@dataclass(frozen=True)
class Fit:
    """A grid, and what it was made from; None: nothing was chosen for this model."""

    settings: ScaleConfig
    made_from: str | None = None


def missing(settings: ScaleConfig) -> list[str]:
    """The settings that the grid chooses itself: those that neither a file nor `--set` gives."""
    return [n for n in ("budget", "max_tokens", "condition_steps", *SHARES) if n not in settings.model_fields_set]


def is_demo(config: Config) -> bool:
    """Whether the model is the demo's, which the budget `tiny` is for: it has that tokenizer, whatever was trained.

    A rehearsal, whose answers are made up, counts as one.
    """
    own, shipped = config.model.path / "tokenizer.json", DEMO_MODEL / "tokenizer.json"
    if not config.engine.has_model:
        return True
    return own.is_file() and shipped.is_file() and own.read_bytes() == shipped.read_bytes()


def demo_grid(settings: ScaleConfig, config: Config, choices: Sequence[Sequence[str]]) -> ScaleConfig:
    """The built-in grid, with a quick one's lengths and the run's own budget.

    Letters are not forced where some problem has no choices.
    """
    values: dict[str, Any] = {}
    if settings.quick:
        names = [name for name in ("limits", "reject") if name not in settings.model_fields_set]
        values = {name: _lengths(QUICK_SHARES[name], DEMO_LENGTH) for name in names}
    own = own_budget(config)
    if "budget" not in settings.model_fields_set and own is not None:
        values["budget"] = own
    elif "budget" not in settings.model_fields_set and not all(choices):
        values["budget"] = {"preset": "tiny", "answers": [], "answer_cue": "\nAnswer:", "answer_tokens": 12}
    return _with(settings, values)


def fit(
    settings: ScaleConfig,
    config: Config,
    plain: SamplingParams,
    prompts: PromptSet,
    dev: Sequence[Problem],
    everything: Sequence[Problem],
    sampler: Sampler,
    processor: Any,
    limit: ContextLimit | None,
) -> Fit:
    """The settings that are missing, chosen for this model: greedy answers on dev say how long it usually thinks.

    Those answers are the ones of the setting `greedy`, so that nothing is drawn twice. EngineError from the engine,
    ConfigError for settings that do not go together.
    """
    wanted = missing(settings)
    about, budget = _budget(settings, config, prompts, everything, processor)
    drawn = sampler.draw([Ask(p.id, wording.cot(p, prompts), wording.images(p)) for p in dev], greedy(plain), 1)
    answers = [completions[0] for completions in drawn.values()]
    usual = usual_length(answers, budget.budget().end)
    values: dict[str, Any] = {"budget": budget} if "budget" in wanted else {}
    chosen = lengths(usual, QUICK_SHARES if settings.quick else SHARES)
    values |= {name: chosen[name] for name in chosen if name in wanted}
    if "max_tokens" in wanted:
        longest = max([LONGEST * usual, plain.max_tokens, *_given_lengths(settings)])
        values["max_tokens"] = longest + budget.budget().answer_tokens + SPARE
        if limit is not None:
            prompt = max(limit.count(wording.cot(p, prompts), wording.images(p)) for p in everything)
            values["max_tokens"] = max(min(values["max_tokens"], limit.limit - prompt - SPARE), 1)
        room = values["max_tokens"] - budget.budget().answer_tokens - SPARE
        for name in (n for n in SHARES if n in values):
            values[name] = tuple(tokens for tokens in values[name] if tokens < room)
    truncated = sum(answer.finish == "length" for answer in answers)
    cut = f", {truncated} of them truncated at {plain.max_tokens} tokens" if truncated else ""
    measured = f"a usual length of {usual} tokens (median of {len(answers)} greedy answers on dev{cut})"
    return Fit(_with(settings, values), f"{measured} and {about}")


def usual_length(answers: Sequence[Completion], end: str) -> int:
    """Median number of tokens before `end`, all where it is not written; to two digits.

    Of a text with `end` it is the share of the characters before it.
    """
    thoughts = []
    for answer in answers:
        thought, found, _ = answer.text.partition(end)
        share = len(thought) / len(answer.text) if found else 1.0
        thoughts.append(share * len(answer.token_ids))
    return max(_two_digits(statistics.median(thoughts)), 1)


def lengths(usual: int, shares: Mapping[str, Sequence[float]]) -> dict[str, tuple[int, ...]]:
    """Every list of lengths of the grid for one usual length in tokens."""
    found = {name: _lengths(several, usual) for name, several in shares.items()}
    steps = max(2, round(usual / STEP))
    return {**found, "condition_steps": _lengths(shares["condition_tokens"], steps)}


def _lengths(shares: Sequence[float], usual: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(share * usual)) for share in shares}))


def _two_digits(tokens: float) -> int:
    whole = round(tokens)
    return round(whole, min(2 - len(str(whole)), 0))


def _given_lengths(settings: ScaleConfig) -> list[int]:
    names = [name for name in SHARES if name in settings.model_fields_set]
    return [2 * tokens for name in names for tokens in getattr(settings, name)]


def _budget(
    settings: ScaleConfig, config: Config, prompts: PromptSet, problems: Sequence[Problem], processor: Any
) -> tuple[str, BudgetSettings]:
    """The budget and where it is from: the grid's, the run's own, or one for the model's tags."""
    if "budget" in settings.model_fields_set:
        return "the given budget", settings.budget
    if (own := own_budget(config)) is not None:
        return "the budget of the run's evaluation", own
    choices = [problem.choices for problem in problems]
    letters = LETTERS[: max(map(len, choices))] if all(choices) else ""
    forced = f"; forced answers are letters up to {letters[-1]}" if letters else ""
    tags, source = (None if processor is None else thinking_tags(processor)), "of the checkpoint"
    if tags is None:
        tags, source = asked_tags(prompts.of(problems[0]).cot), "that the prompts ask for"
    if tags is None:
        answers = [f" {letter}" for letter in letters]
        untagged = BudgetSettings.model_validate({**UNTAGGED.model_dump(mode="json"), "answers": answers})
        return f"no thinking tags: the end of a response is the end of thinking{forced}", untagged
    return f"the thinking tags {tags.start} {tags.end} {source}{forced}", tagged(tags, letters)


def own_budget(config: Config) -> BudgetSettings | None:
    """The budget that a run's evaluation is given; None if it is `tiny`, which every configuration has by default."""
    own = config.evaluation.budget
    if str(own) == "tiny":
        return None
    # A least length is an axis of the grid, and belongs to no setting of its own.
    return BudgetSettings.model_validate({name: getattr(own, name) for name in own.model_fields_set - {"min_tokens"}})


def tagged(tags: ThinkingTags, letters: str) -> BudgetSettings:
    """s1-m's procedure with these tags. What the chat template does not open is opened by force, so that it acts."""
    return BudgetSettings(
        preset="s1-m", start="" if tags.opened else tags.start, end=tags.end, opener="", answers=tuple(letters)
    )


def _with(settings: ScaleConfig, values: Mapping[str, Any]) -> ScaleConfig:
    given = {**settings.model_dump(exclude_unset=True), **values}
    return build_section(ScaleConfig, given, "the grid made for this model")
