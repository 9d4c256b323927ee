"""What a strategy runs with: prompts, decoding, numbers of samples, and what single strategies need besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_process import prompts as wording
from data_process.prompts import SHOW_ALL, PromptSet, SelectFormat, ShowLimit
from data_process.schema import Problem
from selftrain.config import ConfigError, EvaluationConfig
from selftrain.engines.base import Completion, SamplingParams
from selftrain.files import read_json
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.test_time.records import Attempt, Rating, attempt
from selftrain.test_time.tokens import ContextLimit, refuse

Pool = Mapping[str, Sequence[Attempt]]  # problem id -> its judged samples, sample 0 first
# One rating for each response, in order; responses are rated together because another model must be loaded for it.
Rate = Callable[[Sequence[tuple[Problem, Completion]]], Sequence[Rating]]


@dataclass(frozen=True)
class SelectionForm:
    """What a selection answers with, and how much it is shown (rationale form only)."""

    form: SelectFormat = "answer"
    limit: ShowLimit = SHOW_ALL


ANSWER_FORM = SelectionForm()


def trained_limit(run: Path, limit: ShowLimit, iterations: Iterable[int]) -> ShowLimit:
    """`limit` with the length of the longest selection prompt that these iterations of a run were trained on.

    RunError for a counts file that cannot be read. Unchanged if no iteration built such rows.
    """
    files = [run / f"iter{k}/build/counts.json" for k in iterations]
    lengths = [read_json(file).get("select_characters") or 0 for file in files if file.is_file()]
    return replace(limit, characters=max(lengths)) if any(lengths) else limit


@dataclass(frozen=True)
class Condition:
    """One of `data_process.prompts.CONDITIONS`, asked for in the prompt of every attempt."""

    name: str
    limit: int | None = None  # tokens or steps


@dataclass(frozen=True)
class Rejection:
    """Draw until an attempt thinks for at most `limit` tokens, `tries` times at most.

    With forcing the last try is decoded as `last`, whose budget closes its thinking at `limit`; without, a problem
    whose tries were all too long has no answer.
    """

    limit: int
    tries: int = 32
    last: SamplingParams | None = None

    def check(self) -> None:
        """ConfigError for what can accept nothing."""
        if self.limit < 1 or self.tries < 1:
            raise ConfigError(f"{self} can accept nothing; limit and tries are at least 1")
        if self.last is not None and (self.last.budget is None or self.last.budget.max_tokens != self.limit):
            raise ConfigError(
                f"the last try of rejection above {self.limit} must be closed there; give `last` a budget with "
                f"max_tokens {self.limit}"
            )


@dataclass(frozen=True)
class StrategyConfig:
    """How a strategy runs. `sampling` may hold a budget: then every attempt is forced, whatever chooses among them."""

    prompts: PromptSet
    sampling: SamplingParams  # of the attempts; `greedy` and `refine` take it at temperature 0
    selecting: SamplingParams  # of a selector's answer; temperature 0 gives one selection per prompt
    n: int = 1  # attempts to choose among
    pool: int | None = None  # samples per problem of which subsets of n are averaged over; None is n: no averaging
    draws: int = 1  # subsets per problem for strategies that call the model on each, in balanced orders
    seed: int = 0  # of subsets and orders
    form: SelectFormat = "answer"
    limit: ShowLimit = SHOW_ALL  # of what a selection in the rationale form shows
    distinct: bool = False  # show each answer once: its most likely attempt, no unreadable one beside a readable one
    texts: int | None = None  # different texts that a selection shows, the most frequent ones; None: all
    group: int = 3  # candidates per prompt of a tournament
    permutations: int = 5  # orders of a permutation vote
    rounds: int = 2  # of self-refinement
    condition: Condition | None = None
    rejection: Rejection | None = None
    doubt: float = 0.0  # weight of an attempt that contradicts itself, beside 1 for the others
    confidence: float = 0.95  # posterior probability of the leader at which an adaptive vote stops drawing
    rate: Rate | None = None  # by a reward model; scores are not negative where they weigh votes
    top: int = 2  # attempts with the highest rewards that `reward_pass` looks at
    context_limit: ContextLimit | None = None  # None: no prompt is checked before the engine is asked

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("draws", 1), ("group", 2), ("permutations", 1), ("rounds", 1), ("top", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is at least {least}")
        if self.texts is not None and self.texts < 1:
            raise ConfigError(f"texts is {self.texts}; a selection shows at least 1 text")
        if not (0 <= self.doubt <= 1 and 0.5 < self.confidence <= 1):
            raise ConfigError(
                f"doubt is {self.doubt} and confidence {self.confidence}; they lie in [0, 1] and in (0.5, 1]"
            )
        if self.size < self.n:
            raise ConfigError(f"{self.n} attempts cannot be chosen from a pool of {self.size}; raise pool or lower n")
        if self.size > 1 and self.sampling.temperature == 0:
            raise ConfigError("at temperature 0 all attempts are the same; raise the temperature or set n to 1")
        if self.rejection is not None:
            self.rejection.check()

    @property
    def size(self) -> int:
        """Samples drawn per problem."""
        return self.n if self.pool is None else self.pool

    @property
    def whole(self) -> bool:
        """One draw, and it is the whole pool in the order in which it was sampled: nothing is left to chance."""
        return self.size == self.n and self.draws == 1

    @property
    def greedy(self) -> SamplingParams:
        return greedy(self.sampling)

    def prompt(self, problem: Problem) -> str:
        """The prompt of an attempt."""
        if self.condition is None:
            return wording.cot(problem, self.prompts)
        return wording.conditioned(problem, self.prompts, self.condition.name, self.condition.limit)

    def asks(self, problems: Sequence[Problem]) -> list[Ask]:
        """One for each problem. ConfigError, before anything is generated, if a prompt does not fit."""
        asks = [Ask(p.id, self.prompt(p), wording.images(p)) for p in problems]
        last = self.rejection.last if self.rejection is not None else None
        longest = max(self.sampling.max_tokens, last.max_tokens if last is not None else 0)
        self.check_fits(asks, longest, "lower max_tokens or take a model with more positions")
        return asks

    def check_fits(self, asks: Sequence[Ask], max_tokens: int, advice: str) -> None:
        """ConfigError with the arithmetic if one of `asks` does not fit with an answer of `max_tokens`."""
        if self.context_limit is not None:
            limit = self.context_limit
            refuse(((ask.id, limit.lacking(ask.prompt, ask.images, max_tokens)) for ask in asks), advice)


def greedy(params: SamplingParams) -> SamplingParams:
    """The same decoding at temperature 0."""
    return replace(params, temperature=0.0, top_p=1.0, top_k=0)


def selecting_params(config: EvaluationConfig) -> SamplingParams:
    """How a selector's answer is decoded."""
    return replace(greedy(sampling_params(config)), max_tokens=config.select_max_tokens)


def draw_pool(problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig) -> dict[str, list[Attempt]]:
    """`plan.size` judged samples of every problem, through the bank. Draw it once and give it to every strategy.

    ConfigError if a prompt does not fit, EngineError from the engine.
    """
    drawn = sampler.draw(plan.asks(problems), plan.sampling, plan.size)
    return {p.id: [attempt(completion, p) for completion in drawn[p.id]] for p in problems}


def pool_of(
    problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, pool: Pool | None
) -> dict[str, list[Attempt]]:
    """The first `plan.size` samples of each problem: of `pool`, which may hold more, or drawn.

    ConfigError if `pool` lacks a problem or holds fewer samples.
    """
    if pool is None:
        return draw_pool(problems, sampler, plan)
    for problem in problems:
        if len(pool.get(problem.id, ())) < plan.size:
            raise ConfigError(
                f"the pool holds {len(pool.get(problem.id, ()))} of {plan.size} samples of problem {problem.id}; "
                "draw it with this plan, or lower n"
            )
    return {p.id: list(pool[p.id][: plan.size]) for p in problems}


def rated(problems: Sequence[Problem], pool: Pool, rate: Rate) -> dict[str, list[Attempt]]:
    """The pool's samples of these problems, all of them with a rating.

    ConfigError for a score that is not finite, EngineError from the reward model's engine.
    """
    unrated = [(p, a.completion) for p in problems for a in pool[p.id] if a.rating is None]
    ratings = iter(rate(unrated) if unrated else ())
    found = {
        p.id: [a if a.rating is not None else replace(a, rating=next(ratings)) for a in pool[p.id]] for p in problems
    }
    for name, attempts in found.items():
        if not all(a.rating is not None and math.isfinite(a.rating.score) for a in attempts):
            raise ConfigError(f"the reward of an attempt at problem {name} is not finite; the reward model is damaged")
    return found
