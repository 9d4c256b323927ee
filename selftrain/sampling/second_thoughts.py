"""Second thoughts for training: samples that are made to go on, and selections among a problem's own candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from data_process import prompts as wording
from data_process.building.second_thoughts import Selection, Trace, cut_trace
from data_process.judging import judge
from data_process.prompts import prompt_set
from data_process.schema import Candidate, Judged, Problem
from data_process.seeds import seed_for
from selftrain import stats
from selftrain.config import Config, ConfigError
from selftrain.engines.base import Completion, SamplingParams
from selftrain.sampling import budgets
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.test_time.records import Attempt, ballots


def forced_params(config: Config, ignores: int) -> SamplingParams:
    """How a trace with so many ignore strings is sampled. ConfigError if `rethink` names no budget that can be."""
    settings, plain = config.rethink, sampling_params(config.sampling)
    try:
        budget = settings.budget.budget(num_ignore=ignores)
        return replace(plain, max_tokens=max(settings.max_tokens, plain.max_tokens), budget=budget)
    except ValueError as error:
        raise ConfigError(f"rethink.budget {settings.budget}: {error}") from error


def check(config: Config) -> None:
    """ConfigError, before anything is sampled, if the model cannot keep the budget of `rethink`."""
    if not config.build.parts.reflect:
        return
    params = forced_params(config, config.rethink.max_ignores)
    if (processor := budgets.processor_of(config)) is not None:
        budgets.check(f"rethink: this model cannot keep the budget {config.rethink.budget}", [params], processor)


def draw_traces(problems: Sequence[Problem], sampler: Sampler, config: Config, iteration: int) -> list[Trace]:
    """One forced sample of each problem, by the weights of `iteration`, cut at its ignore strings.

    1 to `rethink.max_ignores` ends of thinking are replaced, each number equally often up to one.
    """
    prompts, most = prompt_set(config.prompts), config.rethink.max_ignores
    order = list(problems)
    Random(seed_for(config.seed, "rethink", "ignores", iteration)).shuffle(order)
    found: dict[str, Trace] = {}
    for ignores in range(1, most + 1):
        params = forced_params(config, ignores)
        assert params.budget is not None
        group = order[ignores - 1 :: most]
        drawn = sampler.draw([Ask(p.id, wording.cot(p, prompts), wording.images(p)) for p in group], params, 1)
        for problem in group:
            (completion,) = drawn[problem.id]
            assert completion.forcing is not None
            one = candidate_of(problem.id, iteration, 0, completion)
            found[problem.id] = cut_trace(one, problem, params.budget.ignore, completion.forcing.ignores)
    return [found[problem.id] for problem in problems]


def draw_selections(
    problems: Sequence[Problem],
    candidates: Mapping[str, Sequence[Judged]],
    sampler: Sampler,
    config: Config,
    iteration: int,
) -> list[Selection]:
    """One selection in the rationale form for each problem with two candidates or more.

    It is shown a random set of 2 to `build.select_largest` of them, and drawn as a sample is, not greedily.
    """
    prompts, largest = prompt_set(config.prompts), config.build.select_largest
    params = replace(sampling_params(config.sampling), max_tokens=config.evaluation.select_max_tokens)
    shown: dict[str, list[Judged]] = {}
    for problem in problems:
        of_one = candidates.get(problem.id, ())
        if len(of_one) > 1:
            random = Random(seed_for(config.seed, "rethink", "select", iteration, problem.id))
            shown[problem.id] = random.sample(of_one, random.randint(2, min(largest, len(of_one))))
    chosen = [problem for problem in problems if problem.id in shown]
    asks = []
    for problem in chosen:
        texts = [item.candidate.text for item in shown[problem.id]]
        prompt = wording.select(problem, texts, prompts, "rationale", limit=config.show_limit)
        asks.append(Ask(problem.id, prompt, wording.images(problem)))
    drawn = sampler.draw(asks, params, 1)
    selections = []
    for problem in chosen:
        (completion,) = drawn[problem.id]
        said = candidate_of(problem.id, iteration, 0, completion)
        verdict = judge(said.text, problem, truncated=said.finish == "length")
        items = shown[problem.id]
        names = tuple(item.candidate.id for item in items)
        selections.append(Selection(Judged(said, verdict), names, _vote_right(items)))
    return selections


def candidate_of(
    problem_id: str, iteration: int, sample: int, completion: Completion, guide: str | None = None, prefix: str = ""
) -> Candidate:
    """One sampled completion as a record of the run; `prefix` is what the response began with."""
    return Candidate(
        problem_id=problem_id, iteration=iteration, sample=sample, text=prefix + completion.text,
        n_tokens=len(completion.token_ids), n_prompt_tokens=completion.n_prompt_tokens, finish=completion.finish,
        mean_logprob=completion.mean_logprob, guide=guide, begun=len(prefix),
    )  # fmt: skip


def _vote_right(items: Sequence[Judged]) -> bool:
    """Whether the candidates' majority is right, without a tie."""
    attempts = [_attempt(item) for item in items]
    votes = ballots(attempts)
    leaders = stats.majority(votes)
    right = {vote for one, vote in zip(attempts, votes, strict=True) if one.right}
    return len(set(leaders)) == 1 and set(leaders) <= right


def _attempt(item: Judged) -> Attempt:
    c = item.candidate
    return Attempt(Completion(c.text, (), c.n_prompt_tokens, c.finish, c.mean_logprob), item.verdict)
