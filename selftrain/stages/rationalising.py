"""Rationalisation (STaR, arXiv 2203.14465, section 3.2): solutions of problems that no sample has solved, from samples
that were shown the gold answer. A row asks without the answer. Nothing of this is a candidate: it neither votes nor
counts as correct.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_process import prompts as wording
from data_process.building.mixture import RULES
from data_process.building.second_thoughts import derives
from data_process.io import each_record, write_jsonl
from data_process.judging import judge
from data_process.judging.consistency import contradiction
from data_process.prompts import prompt_set
from data_process.schema import Candidate, Example, Judged, Problem, judged_from_json, stored_row, to_json
from data_process.traces.tags import mentions_being_told
from selftrain.files import write_json
from selftrain.runs.run_dir import iteration_files
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.sampler import Ask
from selftrain.sampling.second_thoughts import candidate_of
from selftrain.stages.context import RunContext, drawn
from selftrain.stages.outside import RATIONALISED
from selftrain.stages.sampling import pool


def rationalise_stage(run: RunContext, iteration: int) -> None:
    """Hinted samples on the problems that are unsolved by now, with the reason of each that is not used."""
    config, settings = run.config, run.config.rationalise
    if settings is None:
        return

    def make(folder: Path) -> None:
        prompts = prompt_set(config.prompts)
        tried, solved = solved_problems(run, iteration)
        unsolved = [problem for problem in run.splits["train"] if problem.id in tried - solved]
        problems = unsolved
        if settings.problems is not None and settings.problems < len(unsolved):
            problems = drawn(unsolved, settings.problems, config.seed, RATIONALISED, iteration)
        asks = [Ask(p.id, wording.hinted(p, prompts), wording.images(p)) for p in problems]
        sampler = run.train_sampler(iteration)
        with run.progress.stage(f"iteration {iteration}: rationalising", "samples") as sampler.on_progress:
            found = sampler.draw(asks, sampling_params(run.drawing(iteration).sampling), settings.n)
        rows, reasons = [], Counter[str]()
        for problem in problems:
            for index, completion in enumerate(found[problem.id]):
                candidate = candidate_of(problem.id, iteration - 1, index, completion)
                verdict = judge(candidate.text, problem, truncated=candidate.finish == "length")
                item = Judged(candidate, verdict)
                reason = why_not(item, problem, run)
                reasons[reason or "kept"] += 1
                rows.append({**to_json(item), "reason": reason})
        write_jsonl(folder / "judged.jsonl", rows)
        kept = reasons.pop("kept", 0)
        counts = {"unsolved": len(unsolved), "asked": len(problems), "samples": len(rows), "kept": kept}
        write_json(folder / "counts.json", {**counts, "dropped": reasons})

    after = [f"iter{k}/judge" for k in range(1, iteration + 1)]
    run.folder.stage(f"iter{iteration}/rationalise", make, after=[*after, *run.drawing_stages(iteration)])


def why_not(item: Judged, problem: Problem, run: RunContext) -> str | None:
    """Why a hinted sample is no row; None if it is one."""
    text, build = item.candidate.text, run.config.build
    rule = RULES[build.rule]
    if item.candidate.finish == "length":
        return "truncated"
    if not item.verdict.correct:
        return item.verdict.status
    if mentions_being_told(text):
        return "mentions_the_answer"
    if not derives(text) or len(text.strip()) <= (build.min_chars if build.rule == "a-q2" else rule.min_chars):
        return "bare_answer"
    if build.require_consistent and contradiction(text, problem) is not None:
        return "contradicts_itself"
    return None


def solved_problems(run: RunContext, iteration: int) -> tuple[set[str], set[str]]:
    """Ids of the problems that were sampled up to an iteration, and of those with a correct sample."""
    tried: set[str] = set()
    solved: set[str] = set()
    for item in pool(run, iteration):
        tried.add(item.candidate.problem_id)
        if item.verdict.correct:
            solved.add(item.candidate.problem_id)
    return tried, solved


@stored_row
def _rationalised(row: Mapping[str, Any]) -> tuple[Candidate, str | None]:
    """A candidate, and why its text was not kept."""
    return judged_from_json(row).candidate, row["reason"]


def rationalised_rows(run: RunContext, iteration: int, first: int = 1) -> list[Example]:
    """The newest kept text of each problem that is still unsolved, of the iterations from `first` up to this one."""
    if run.config.rationalise is None:
        return []
    _, solved = solved_problems(run, iteration)
    prompts, by_id = prompt_set(run.config.prompts), {problem.id: problem for problem in run.splits["train"]}
    newest: dict[str, Candidate] = {}
    for k, file in iteration_files(run.folder.path, "rationalise/judged.jsonl"):
        for candidate, reason in each_record(file, _rationalised) if first <= k <= iteration else ():
            if reason is None and candidate.problem_id not in solved:
                newest[candidate.problem_id] = candidate
    return [
        Example(
            id=f"{RATIONALISED}/{candidate.id}", kind="cot", problem_id=problem_id, target=candidate.text,
            prompt=wording.cot(by_id[problem_id], prompts), images=wording.images(by_id[problem_id]),
        )
        for problem_id, candidate in sorted(newest.items())
    ]  # fmt: skip
