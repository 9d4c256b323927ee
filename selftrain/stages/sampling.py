"""The stages that draw and judge texts: candidates, and second thoughts on them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from data_process import prompts as wording
from data_process.building.census import Census
from data_process.building.second_thoughts import (
    selection_to_json,
    trace_to_json,
)
from data_process.io import each_record, write_jsonl
from data_process.judging import judge
from data_process.prompts import PromptSet, prompt_set
from data_process.schema import Candidate, Judged, Problem, Verdict, candidate_from_json, judged_from_json, to_json
from selftrain.config import Config
from selftrain.files import write_json
from selftrain.sampling import pseudo_labels
from selftrain.sampling.allocation import Guide, allocate, counts, guided_samples, guides, look_back
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.pseudo_labels import PseudoLabel, needs_label, newest_labels, relabelled, vote
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.sampling.second_thoughts import candidate_of, draw_selections, draw_traces
from selftrain.stages.context import LoopStopped, RunContext, problems_for, share_for


def sample_stage(run: RunContext, iteration: int) -> None:
    """Candidates for this iteration, written by the weights of `RunContext.predecessor`."""
    settings, head_tail = run.config.sampling, run.config.sampling.allocation == "head_tail"

    def make(folder: Path) -> None:
        train, seed = run.splits["train"], run.config.seed
        if settings.disjoint and settings.problems:
            problems = share_for(train, settings.problems, seed, iteration)
        else:
            problems = problems_for(train, settings.problems, seed, iteration)
        sampler = run.train_sampler(iteration)
        with run.progress.stage(f"iteration {iteration}: sampling", "samples") as sampler.on_progress:
            if head_tail:
                candidates = head_tail_samples(run, iteration, problems, sampler, folder)
            else:
                candidates = plain_samples(run, iteration, problems, sampler, settings.n)
        write_jsonl(folder / "candidates.jsonl", map(to_json, candidates))

    before = [f"iter{k}/judge" for k in range(1, iteration)] if head_tail else []
    run.folder.stage(f"iter{iteration}/sample", make, after=[*run.drawing_stages(iteration), *before])


def plain_samples(
    run: RunContext, iteration: int, problems: Sequence[Problem], sampler: Sampler, n: int
) -> Iterator[Candidate]:
    """`n` samples of each problem. All are in the bank when this returns; iterating reads them."""
    prompts, ask = prompt_set(run.config.prompts), cot_wording(run, iteration)
    asks = [Ask(p.id, ask(p, prompts), wording.images(p)) for p in problems]
    found = sampler.stream(asks, sampling_params(run.drawing(iteration).sampling), n)
    return (
        candidate_of(problem_id, iteration - 1, index, completion)
        for problem_id, completions in found
        for index, completion in enumerate(completions)
    )


def cot_wording(run: RunContext, iteration: int) -> Callable[[Problem, PromptSet], str]:
    """How an iteration asks for a chain of thought: the base model may need to be told more."""
    return wording.cot if run.predecessor(iteration) > run.base else wording.cot_untrained


def head_tail_samples(
    run: RunContext, iteration: int, problems: Sequence[Problem], sampler: Sampler, folder: Path
) -> Iterator[Candidate]:
    """As many samples of each problem as its earlier ones call for (sampling/allocation.py), some of them guided.

    Raises LoopStopped if every problem was always solved.
    """
    settings = run.config.sampling
    numbers = settings.head_tail
    attempts = int(numbers.guided * numbers.most * settings.n)
    seen = look_back(pool(run, iteration - 1), attempts)
    shares = allocate([problem.id for problem in problems], seen, settings.n, numbers.most)
    prefix_share = numbers.prefix_share if numbers.guide == "prefix" else None
    by = {problem: guides(seen.get(problem), prefix_share) for problem in shares.samples}
    guided = {p: guided_samples(n, seen.get(p), numbers.hard, numbers.guided, by[p]) for p, n in shares.samples.items()}
    write_json(folder / "allocation.json", counts(shares, guided))
    alone = {p: n - guided[p] for p, n in shares.samples.items()}
    if not sum(shares.samples.values()):
        raise LoopStopped(
            f"all earlier samples of the {len(problems)} problems are right, and sampling.allocation head_tail draws "
            "none of a problem that is always solved"
        )
    parts = []
    for n in sorted(set(alone.values()) - {0}):
        group = [problem for problem in problems if alone[problem.id] == n]
        parts.append(plain_samples(run, iteration, group, sampler, n))
    parts += guided_texts(run, iteration, problems, sampler, guided, alone, by)
    return itertools.chain.from_iterable(parts)


def guided_texts(
    run: RunContext,
    iteration: int,
    problems: Sequence[Problem],
    sampler: Sampler,
    guided: Mapping[str, int],
    alone: Mapping[str, int],
    by: Mapping[str, Sequence[Guide]],
) -> list[Iterator[Candidate]]:
    """Samples that refine a problem's own wrong attempts or continue its right solutions, equally many of each.

    They are numbered after the problem's other samples, of which there are `alone`.
    """
    prompts, params = prompt_set(run.config.prompts), sampling_params(run.drawing(iteration).sampling)
    ask = cot_wording(run, iteration)
    by_number: dict[int, dict[str, tuple[Problem, Guide, int]]] = {}  # samples -> id of the ask -> what it shows
    for problem in problems:
        n, first = guided[problem.id], alone[problem.id]
        chosen = by[problem.id][:n]
        for k, guide in enumerate(chosen):
            samples = n // len(chosen) + (k < n % len(chosen))
            by_number.setdefault(samples, {})[f"{problem.id}/{guide.name}"] = (problem, guide, first)
            first += samples

    def asked(name: str, problem: Problem, guide: Guide) -> Ask:
        shown = wording.refine(problem, guide.candidate.text, prompts)
        prompt = ask(problem, prompts) if guide.prefix else shown
        return Ask(name, prompt, wording.images(problem), guide.prefix)

    def draw(samples: int, shown: Mapping[str, tuple[Problem, Guide, int]]) -> Iterator[Candidate]:
        asks = [asked(name, problem, guide) for name, (problem, guide, _) in shown.items()]
        found = sampler.stream(asks, params, samples)
        return (
            candidate_of(problem.id, iteration - 1, first + k, completion, guide.candidate.id, guide.prefix)
            for name, completions in found
            for problem, guide, first in [shown[name]]
            for k, completion in enumerate(completions)
        )

    return [draw(samples, shown) for samples, shown in sorted(by_number.items())]


def judge_stage(run: RunContext, iteration: int) -> None:
    """A verdict for every candidate, and counts that add up."""

    def make(folder: Path) -> None:
        by_id = {problem.id: problem for problem in run.splits["train"]}
        labels = vote_labels(run, iteration)
        answered = relabelled(by_id.values(), labels, run.config.labels)
        census = Census()
        rules: Counter[str] = Counter()
        guided: Counter[str] = Counter()
        begun: Counter[str] = Counter()
        truncated = 0

        def judged() -> Iterator[Judged]:
            nonlocal truncated
            for c in each_record(run.folder.path / f"iter{iteration}/sample/candidates.jsonl", candidate_from_json):
                item = Judged(c, judge_with_label(c, answered.get(c.problem_id)))
                census.add(item)
                rules[item.verdict.rule] += 1
                truncated += c.finish == "length"
                if c.guide is not None:
                    guided[item.verdict.status] += 1
                if c.begun:
                    begun[item.verdict.status] += 1
                yield item

        write_jsonl(folder / "judged.jsonl", map(to_json, judged()))
        census.check(by_id)
        totals: dict[str, Any] = {
            "sampled_problems": len(census),
            "candidates": census.verdicts.total(),
            **{name: census.verdicts[name] for name in ("correct", "wrong", "abstain")},
            "truncated": truncated,
            "rules": dict(sorted(rules.items())),
            "pool": dict(census.pools(problem_id for problem_id in by_id if problem_id in census)),
        }
        if run.config.labels.source == "vote":
            write_jsonl(folder / "labels.jsonl", (label.to_json() for label in labels.values()))
            totals["labels"] = counted = pseudo_labels.counts(labels.values())
            run.progress.say(f"  iteration {iteration}: {pseudo_labels.say(counted)}")
        if guided:
            totals["guided"] = guided  # of the candidates, those with a guide, by verdict
        if begun:
            totals["begun"] = begun  # of these, those that continue the first steps of a right solution
        write_json(folder / "counts.json", totals)

    run.folder.stage(f"iter{iteration}/judge", make, after=[f"iter{iteration}/sample"])


def vote_labels(run: RunContext, iteration: int) -> dict[str, PseudoLabel]:
    """Pseudo-labels from an iteration's candidates, by problem; {} where answers are gold."""
    settings = run.config.labels
    if settings.source != "vote":
        return {}
    by_id = {problem.id: problem for problem in run.splits["train"] if needs_label(problem, settings)}
    candidates = each_record(run.folder.path / f"iter{iteration}/sample/candidates.jsonl", candidate_from_json)
    # Guided samples have no vote. The other rows of a problem follow each other.
    unguided = (candidate for candidate in candidates if candidate.guide is None)
    groups = groupby(unguided, key=lambda c: c.problem_id)
    return {i: vote(by_id[i], list(group), settings) for i, group in groups if i in by_id}


def judge_with_label(candidate: Candidate, problem: Problem | None) -> Verdict:
    """The verdict on a candidate; None is a problem without a label, whose candidates are neither right nor wrong."""
    if problem is None:
        return Verdict("abstain", None, "unlabelled")
    return judge(candidate.text, problem, truncated=candidate.finish == "length")


def train_problems(run: RunContext, iteration: int) -> dict[str, Problem]:
    """By id, the training problems with an answer: gold, or the newest pseudo-label up to this iteration."""
    settings = run.config.labels
    labels = newest_labels(run.folder.path, iteration) if settings.source == "vote" else {}
    return relabelled(run.splits["train"], labels, settings)


def pool(run: RunContext, iteration: int, first: int = 1) -> Iterator[Judged]:
    """The judged candidates of the iterations from `first` up to this one, one at a time.

    With pseudo-labels, all are judged again by the newest, and those of problems without one are left out.
    """
    votes = run.config.labels.source == "vote"
    problems = train_problems(run, iteration) if votes else {}
    for k in range(first, iteration + 1):
        for item in each_record(run.folder.path / f"iter{k}/judge/judged.jsonl", judged_from_json):
            if not votes:
                yield item
            elif (problem := problems.get(item.candidate.problem_id)) is not None:
                yield Judged(item.candidate, judge_with_label(item.candidate, problem))


def rethinks(config: Config) -> bool:
    """Whether iterations sample second thoughts."""
    return bool(config.build.parts.reflect) or config.selects_on_policy


def rethink_stage(run: RunContext, iteration: int) -> None:
    """Forced continuations and selections on training problems, by the weights that wrote the candidates."""
    config = run.config
    if not rethinks(config) or config.training.prefers(iteration):  # pairs are made of candidates alone
        return

    def make(folder: Path) -> None:
        sampler, weights = run.train_sampler(iteration), iteration - 1
        candidates: dict[str, list[Judged]] = {}
        for item in each_record(run.folder.path / f"iter{iteration}/judge/judged.jsonl", judged_from_json):
            if item.candidate.guide is None:
                candidates.setdefault(item.candidate.problem_id, []).append(item)
        problems_by_id = train_problems(run, iteration)
        sampled = [problem for problem in problems_by_id.values() if problem.id in candidates]
        problems = problems_for(sampled, config.rethink.problems, config.seed, iteration)
        with run.progress.stage(f"iteration {iteration}: second thoughts", "samples") as sampler.on_progress:
            drawing = run.drawing(iteration)
            traces = draw_traces(problems, sampler, drawing, weights) if config.build.parts.reflect else []
            chosen = (
                draw_selections(problems, candidates, sampler, drawing, weights) if config.selects_on_policy else []
            )
        write_jsonl(folder / "traces.jsonl", map(trace_to_json, traces))
        write_jsonl(folder / "selections.jsonl", map(selection_to_json, chosen))
        totals = {
            "traces": Counter(trace.judged.verdict.status for trace in traces),
            "attempts": Counter(len(trace.attempts) for trace in traces),
            "right_attempts": sum(sum(trace.right) for trace in traces),
            "selections": Counter(selection.judged.verdict.status for selection in chosen),
            "votes_right": sum(selection.vote_right for selection in chosen),
        }
        write_json(folder / "counts.json", totals)

    after = [f"iter{iteration}/judge", *run.drawing_stages(iteration)]
    run.folder.stage(f"iter{iteration}/rethink", make, after=after)
