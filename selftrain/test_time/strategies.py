"""The table of strategies. The loop, `scale` and `compare` all read it; a new strategy is added here, or registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain.config import ConfigError
from selftrain.sampling.sampler import Sampler
from selftrain.test_time import adaptive, length_control, refine, select, subsets, vote, weights
from selftrain.test_time.derivations import checked
from selftrain.test_time.records import Attempt, Outcome, attempt, choice_of, mean_and_error, single_outcome
from selftrain.test_time.strategy_config import Pool, StrategyConfig, pool_of, rated
from selftrain.test_time.tokens import TokenCost, cost_of, mean_cost

# Subsets behind a weighted vote@n, which has no closed form: all of them for 10 samples (at most 252), and for more
# samples so many that drawing leaves at most 0.016 of uncertainty on one problem and a thousandth on a split of 250.
VOTE_SUBSETS = 1000

# "average" and "oracle" describe samples; all others are ways to answer.
Family = Literal["single", "average", "vote", "best", "select", "refine", "reject", "oracle"]
RunStrategy = Callable[[Sequence[Problem], Sampler, StrategyConfig, Pool | None], list[Outcome]]
Rule = Callable[[Problem, Sequence[Attempt], StrategyConfig], Outcome]


@dataclass(frozen=True)
class Strategy:
    """`run(problems, sampler, plan, pool)` gives one outcome for each problem; without a pool it draws its own."""

    about: str
    family: Family
    run: RunStrategy
    shown: Callable[[StrategyConfig], int] | None = None  # candidates in a selector's prompt at least: see `preflight`
    needs_pool: bool = True
    needs_reward: bool = False
    needs_context_limit: bool = False

    @property
    def answers(self) -> bool:
        """Whether it gives an answer, so that two systems can be compared by it."""
        return self.family not in ("average", "oracle")


def register_strategy(name: str, strategy: Strategy) -> None:
    """Add a strategy to the table, as a module from outside the package does when it is imported.

    `evaluation.strategies` can then name it, and `scale` measures it. ConfigError if the name is taken.
    """
    if name in STRATEGIES:
        raise ConfigError(f"there is a strategy {name!r} already; register this one under another name")
    STRATEGIES[name] = strategy


def preflight(names: Sequence[str], problems: Sequence[Problem], plan: StrategyConfig) -> None:
    """Refuse what cannot work before anything is sampled.

    ConfigError: an unknown strategy, a plan that lacks what one needs, no problems, an id that occurs twice, or a
    prompt that does not fit (with the arithmetic, when the plan has a context limit).
    """
    if not problems:
        raise ConfigError("there is no problem to answer")
    if len({problem.id for problem in problems}) < len(problems):
        raise ConfigError("ids of problems must be unique; outcomes are joined by them")
    plan.asks(problems)
    for name in names:
        if name not in STRATEGIES:
            raise ConfigError(f"there is no strategy {name!r}; known: {', '.join(STRATEGIES)}")
        strategy = STRATEGIES[name]
        if strategy.needs_reward and plan.rate is None:
            other = "" if strategy.family == "oracle" else f", or use {name.split('_')[0]}_logprob"
            raise ConfigError(
                f"strategy {name} needs a reward; set reward.model to a folder that `selftrain reward` made{other}"
            )
        if strategy.family == "reject" and plan.rejection is None:
            raise ConfigError(f"strategy {name} needs a rejection limit in thinking tokens")
        if strategy.needs_context_limit and plan.context_limit is None:
            raise ConfigError(
                f"strategy {name} needs a context limit: the model's positions and a way to count a prompt's tokens"
            )
        if strategy.shown is not None and not plan.distinct and plan.texts is None:  # which may be fewer
            select.preflight(problems, plan, strategy.shown(plan))


def run(
    name: str, problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, pool: Pool | None = None
) -> list[Outcome]:
    """One strategy of the table on `problems`.

    ConfigError as in `preflight`, and for samples that lack what the strategy weighs them by; EngineError from the
    engine.
    """
    preflight([name], problems, plan)
    strategy = STRATEGIES[name]
    samples = pool_of(problems, sampler, plan, pool) if strategy.needs_pool else {}
    if strategy.needs_reward and plan.rate is not None:
        samples = rated(problems, samples, plan.rate)
    outcomes = strategy.run(problems, sampler, plan, samples if strategy.needs_pool else pool)
    if strategy.family == "oracle":  # it chooses by the gold answer, so a right derivation says nothing of it
        return outcomes
    return [checked(one, one.samples or samples.get(p.id, ())) for one, p in zip(outcomes, problems, strict=True)]


def per_problem(rule: Rule) -> RunStrategy:
    """The strategy that makes an outcome of each problem's samples, which are the first `plan.size` of the pool."""

    def apply(problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, pool: Pool | None) -> list[Outcome]:
        samples = pool_of(problems, sampler, plan, pool)
        return [rule(problem, samples[problem.id], plan) for problem in problems]

    return apply


def _greedy(problems: Sequence[Problem], sampler: Sampler, plan: StrategyConfig, pool: Pool | None) -> list[Outcome]:
    drawn = sampler.draw(plan.asks(problems), plan.greedy, 1)
    outcomes = []
    for problem in problems:
        one = [attempt(drawn[problem.id][0], problem)]
        choice = choice_of((a.answer for a in one if a.answer is not None), one)
        outcomes.append(single_outcome(problem, choice, cost_of(drawn[problem.id]), texts=one))
    return outcomes


def _mean(problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
    return Outcome(problem.id, vote.mean(samples), vote.no_answer_rate(samples, 1), _cost(samples, 1))


def _pass(problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
    return _exact(problem, samples, plan, vote.pass_at_n(samples, plan.n))


def _majority(problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
    if plan.size > plan.n:
        return _exact(problem, samples, plan, vote.majority_at_n(samples, plan.n))
    return single_outcome(problem, vote.majority(samples), _cost(samples, plan.n))


def _best(score: weights.Weigh) -> RunStrategy:
    def rule(problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
        scores = score(problem, samples, plan)
        if plan.size > plan.n:
            return _exact(problem, samples, plan, vote.best_of_at_n(samples, scores, plan.n))
        return single_outcome(problem, vote.best_of(samples, scores), _cost(samples, plan.n))

    return _by_reward(rule) if score is weights.rewards else per_problem(rule)


def _reward_pass(problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
    scores = weights.rewards(problem, samples, plan)
    return _exact(problem, samples, plan, vote.top_has_right_at_n(samples, scores, plan.n, plan.top))


def _by_reward(rule: Rule) -> RunStrategy:
    """As `per_problem`, for a rule that needs a reward of each sample, which is paid for."""

    def charged(problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
        outcome = rule(problem, samples, plan)
        ratings = mean_cost([a.rating.cost for a in samples if a.rating is not None])
        return replace(outcome, cost=outcome.cost + ratings.times(plan.n))

    return per_problem(charged)


def _weighted(weigh: weights.Weigh) -> RunStrategy:
    def rule(problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig) -> Outcome:
        cast = weigh(problem, samples, plan)
        if plan.size == plan.n:
            return single_outcome(problem, vote.weighted(samples, cast), _cost(samples, plan.n))
        seed = seed_for(plan.seed, problem.id, "weighted", plan.size, plan.n)
        chosen, every = subsets.unordered(plan.size, plan.n, VOTE_SUBSETS, seed)
        credit, error = mean_and_error(vote.weighted_credits(samples, cast, chosen), every)
        return _exact(problem, samples, plan, credit, error)

    return _by_reward(rule) if weigh is weights.reward_weights else per_problem(rule)


def _exact(
    problem: Problem, samples: Sequence[Attempt], plan: StrategyConfig, credit: float, error: float | None = 0.0
) -> Outcome:
    """A mean over subsets of n: no single draw, so no choices."""
    silent = vote.no_answer_rate(samples, plan.n)
    return Outcome(problem.id, credit, silent, _cost(samples, plan.n), error=error)


def _select(choose: select.Choose) -> RunStrategy:
    return lambda problems, sampler, plan, pool: select.select(
        choose, problems, sampler, plan, pool_of(problems, sampler, plan, pool)
    )


def _refine(keep: Literal["last", "vote"]) -> RunStrategy:
    return lambda problems, sampler, plan, pool: refine.refine(problems, sampler, plan, keep)


def _cost(samples: Sequence[Attempt], n: int) -> TokenCost:
    """Mean cost of n of the samples: one prompt, and n / pool of what was generated."""
    whole, share = cost_of([a.completion for a in samples]), n / len(samples)
    return TokenCost(whole.generated * share, whole.prompt, whole.completions * share, whole.truncated * share)


def _adaptive(stop: adaptive.Stop) -> RunStrategy:
    return lambda problems, sampler, plan, pool: adaptive.run(stop, problems, sampler, plan, pool)


STRATEGIES: dict[str, Strategy] = {
    "greedy": Strategy("one answer at temperature 0", "single", _greedy, needs_pool=False),
    "mean": Strategy("one sample, on average over the pool", "average", per_problem(_mean)),
    "majority": Strategy(
        "majority of n over equivalent answers, a tie shared; exact over subsets", "vote", per_problem(_majority)
    ),
    "vote_consistent": Strategy(
        "vote in which an attempt that contradicts itself weighs less", "vote", _weighted(weights.consistent)
    ),
    "vote_consistent_logprob": Strategy(
        "the same, weighted by exp(mean log-probability) as well", "vote", _weighted(weights.consistent_likelihoods)
    ),
    "adaptive": Strategy(
        "majority of at most n, drawn until the samples left cannot change it",
        "vote",
        _adaptive(adaptive.Stop(weights.equal)),
        needs_pool=False,
    ),
    "adaptive_posterior": Strategy(
        "majority of at most n, drawn until the leader is ahead with a stated probability",
        "vote",
        _adaptive(adaptive.Stop(weights.equal, posterior=True)),
        needs_pool=False,
    ),
    "adaptive_consistent": Strategy(
        "vote_consistent of at most n, drawn until the samples left cannot change it",
        "vote",
        _adaptive(adaptive.Stop(weights.consistent)),
        needs_pool=False,
    ),
    "adaptive_consistent_posterior": Strategy(
        "vote_consistent of at most n, drawn until the leader is ahead with a stated probability",
        "vote",
        _adaptive(adaptive.Stop(weights.consistent, posterior=True)),
        needs_pool=False,
    ),
    "vote_logprob": Strategy("vote weighted by exp(mean log-probability)", "vote", _weighted(weights.likelihoods)),
    "vote_reward": Strategy("vote weighted by a reward", "vote", _weighted(weights.reward_weights), needs_reward=True),
    "best_logprob": Strategy("the most likely of n; exact over subsets", "best", _best(weights.likelihoods)),
    "best_reward": Strategy(
        "the highest reward of n; exact over subsets", "best", _best(weights.rewards), needs_reward=True
    ),
    "select": Strategy("the model chooses among n in one prompt", "select", _select(select.flat), lambda plan: plan.n),
    "tournament": Strategy(
        "the model chooses in groups; the winners meet in the next round",
        "select",
        _select(select.tournament),
        lambda plan: min(plan.n, plan.group),
    ),
    "fused": Strategy(
        "a tournament in which the selector's own texts go on",
        "select",
        _select(select.fused),
        lambda plan: min(plan.n, plan.group),
    ),
    "recursive": Strategy(
        "the model chooses among as many as fit; the winners meet in the next round",
        "select",
        _select(select.recursive),
        lambda plan: min(plan.n, 2),
        needs_context_limit=True,
    ),
    "permuted": Strategy(
        "the model chooses in several orders, the majority of its choices counts",
        "select",
        _select(select.permuted),
        lambda plan: plan.n,
    ),
    "refine": Strategy(
        "a greedy attempt, judged and refined in rounds; the last counts", "refine", _refine("last"), needs_pool=False
    ),
    "refine_vote": Strategy(
        "a greedy attempt, refined in rounds; the majority of all counts",
        "refine",
        _refine("vote"),
        needs_pool=False,
    ),
    "reject": Strategy(
        "the first sample that thinks no longer than a limit, in a bounded number of tries",
        "reject",
        lambda problems, sampler, plan, pool: length_control.reject(problems, sampler, plan),
        needs_pool=False,
    ),
    "reward_pass": Strategy(
        "a perfect choice among the few of n with the highest rewards: Reward-Pass@k",
        "oracle",
        _by_reward(_reward_pass),
        needs_reward=True,
    ),
    "pass": Strategy(
        "a perfect choice among n: the bound of every choice (unbiased pass@n)", "oracle", per_problem(_pass)
    ),
}
