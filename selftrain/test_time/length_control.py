"""s1's baselines for controlling how long a model thinks: conditions in the prompt, and rejection by length.

A condition is part of the plan, so it goes with every strategy; a budget is part of `plan.sampling`, so it goes with
both. Give `plan.sampling` a budget that has an `end` and nothing else where nothing is to be forced: it changes no
text, and the record of forcing tells thinking from answer; without one, all that was generated counts as thinking.
Whether thinking obeyed is measured by `stats.control` and `stats.sample_control` with the bounds given here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_process.schema import Problem
from selftrain.config import ConfigError
from selftrain.engines.base import Completion
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.stats.scaling import Bounds
from selftrain.test_time.records import Attempt, Outcome, attempt, choice_of, single_outcome
from selftrain.test_time.strategy_config import Condition, StrategyConfig
from selftrain.test_time.tokens import TokenCost, cost_of, generated_tokens, thinking_tokens

TOKENS_PER_STEP = 100  # what s1 allows an instructed step (arXiv 2501.19393, appendix on step-conditional control)


def bounds(condition: Condition, default_tokens: float | None = None) -> Bounds:
    """What thinking must keep to under a condition, in tokens.

    At most the instructed tokens, at most 100 for each instructed step; "short" at most and "long" at least what the
    same model used without a condition, `default_tokens`. ConfigError where that, or the limit, is missing.
    """
    if condition.name in ("short", "long"):
        if default_tokens is None:
            raise ConfigError(f"whether {condition.name!r} was obeyed needs the thinking tokens of a run without it")
        return (None, default_tokens) if condition.name == "short" else (default_tokens, None)
    if condition.limit is None:
        raise ConfigError(f"condition {condition.name!r} has no limit to keep to")
    return None, float(condition.limit * (TOKENS_PER_STEP if condition.name == "step" else 1))


def reject(problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig) -> list[Outcome]:
    """The first sample that thinks for at most `plan.rejection.limit` tokens, among at most `plan.rejection.tries`.

    `Outcome.texts` holds the tries, the accepted one last; a problem without one counts as an abstention. With
    `plan.rejection.last` there is none such: the last try comes to its own end within the limit, like any other, or is
    closed there and answers.
    Samples come from the bank's own stream of `plan.sampling`, so all that decodes with it reads the same ones: other
    limits, and votes. They are asked for in doubling numbers, so some lie beyond the accepted one: those stay in the
    bank and are not counted. A rejected try costs no more than limit + 1 tokens, since it can be stopped there.
    ConfigError without `plan.rejection` or at temperature 0, EngineError from the engine.
    """
    if plan.rejection is None:
        raise ConfigError("rejection sampling needs a limit of thinking tokens")
    if plan.sampling.temperature == 0:
        raise ConfigError("at temperature 0 every try is the same; raise the temperature")
    limit, last = plan.rejection.limit, plan.rejection.last
    most = plan.rejection.tries - (last is not None)  # tries that nothing is forced in
    by_id = {p.id: p for p in problems}
    paths: dict[str, list[Attempt]] = {p.id: [] for p in problems}
    waiting: list[Ask] = plan.asks(problems)
    n = 0
    while waiting and n < most:
        n = min(max(1, 2 * n), most)
        drawn = sampler.draw(waiting, plan.sampling, n)
        for ask in waiting:
            tries = drawn[ask.id]
            first = next((k for k, c in enumerate(tries) if _keeps_to(c, limit)), n - 1)
            paths[ask.id] = [attempt(c, by_id[ask.id]) for c in tries[: first + 1]]
        waiting = [ask for ask in waiting if not accepted(paths[ask.id], limit)]
    if waiting and last is not None:
        for ask_id, (completion,) in sampler.draw(waiting, last, 1).items():
            paths[ask_id].append(attempt(completion, by_id[ask_id]))
    outcomes = []
    for p in problems:
        path = paths[p.id]
        kept = path[-1:] if accepted(path, limit) else []
        choice = choice_of((a.answer for a in kept if a.answer is not None), path)
        outcomes.append(single_outcome(p, choice, _cost(path, limit), texts=path))
    return outcomes


def accepted(path: Sequence[Attempt], limit: int) -> bool:
    """Whether the last of the tries was short enough, and not merely the last one allowed."""
    return _keeps_to(path[-1].completion, limit)


def _keeps_to(completion: Completion, limit: int) -> bool:
    forcing = completion.forcing
    # A text that was truncated while it was thinking has not shown how long it would have been.
    ended = completion.finish != "length" if forcing is None else forcing.closed_by is not None
    return ended and thinking_tokens(completion) <= limit


@dataclass(frozen=True)
class Tries:
    """How often rejection sampling had to draw."""

    n: int  # problems
    mean: float  # tries, given-up problems included
    most: int
    exhausted: int  # problems without a sample of the wanted length
    forced: int  # problems whose last try got there by force


def tries(outcomes: Sequence[Outcome], limit: int) -> Tries:
    """Tries behind the outcomes of `reject`; ValueError when there are none."""
    if not outcomes:
        raise ValueError("the tries of no problems")
    counts = [len(outcome.texts) for outcome in outcomes]
    exhausted = sum(not accepted(outcome.texts, limit) for outcome in outcomes)
    records = [outcome.texts[-1].completion.forcing for outcome in outcomes]
    forced = sum(record is not None and record.status == "forced" for record in records)
    return Tries(len(counts), sum(counts) / len(counts), max(counts), exhausted, forced)


def _cost(path: Sequence[Attempt], limit: int) -> TokenCost:
    whole = cost_of([a.completion for a in path])
    lengths = [generated_tokens(a.completion) for a in path]
    rejected = lengths[:-1] if accepted(path, limit) else lengths
    saved = sum(max(0, length - limit - 1) for length in rejected)
    return replace(whole, generated=whole.generated - saved)
