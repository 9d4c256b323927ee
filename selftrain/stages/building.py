"""The stage that turns judged candidates into training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

from data_process.building.mixture import build
from data_process.building.pool import check_rewards, first_iteration
from data_process.building.rationale import SetSizes
from data_process.building.second_thoughts import (
    SecondThoughts,
    selection_from_json,
    trace_from_json,
)
from data_process.io import each_record, write_jsonl
from data_process.prompts import prompt_set
from data_process.schema import Kind, to_json
from data_process.seeds import seed_for
from selftrain.config import Config
from selftrain.files import read_json, write_json
from selftrain.runs.run_dir import iteration_files
from selftrain.sampling.pseudo_labels import changed
from selftrain.stages.context import LoopStopped, RunContext, drawn
from selftrain.stages.outside import kinds_of, outside_rows
from selftrain.stages.rationalising import rationalised_rows
from selftrain.stages.rewarding import rates, rewards_of
from selftrain.stages.sampling import pool, rethinks, train_problems


def check_pool(config: Config) -> None:
    """DataError, before anything is sampled, if a policy of `build.pool` needs what the run does not have."""
    check_rewards(config.build.pool, rewards=None if config.reward.model is None else {})


def second_thoughts_in(
    run: Path, iteration: int | None = None, stale: Collection[tuple[int, str]] = (), first: int = 1
) -> SecondThoughts:
    """Those of a run's iterations from `first` up to this one; None is all of them.

    `stale` names (iteration, problem) whose label has changed since they were judged: they are left out.
    """
    found = iteration_files(run, "rethink")
    folders = [(k, folder) for k, folder in found if first <= k and (iteration is None or k <= iteration)]
    traces = ((k, trace) for k, folder in folders for trace in each_record(folder / "traces.jsonl", trace_from_json))
    chosen = (
        (k, one) for k, folder in folders for one in each_record(folder / "selections.jsonl", selection_from_json)
    )
    return SecondThoughts.of(
        (trace for k, trace in traces if (k, trace.judged.candidate.problem_id) not in stale),
        (one for k, one in chosen if (k, one.judged.candidate.problem_id) not in stale),
    )


def build_stage(run: RunContext, iteration: int) -> None:
    """Training rows from the pool. Raises LoopStopped if there is nothing to learn from."""
    settings = run.config.build
    first = first_iteration(settings.pool, iteration)

    def make(folder: Path) -> None:
        not_used, more = Counter[str](), Counter[str]()
        extra = outside_rows(run, iteration, not_used, more) + rationalised_rows(run, iteration, first)
        problems = train_problems(run, iteration)
        stale = changed(run.folder.path, iteration, problems) if run.config.labels.source == "vote" else set()
        result = build(
            list(problems.values()),
            pool(run, iteration, first),
            sampled_only=True,
            rule=settings.rule,
            prompts=prompt_set(run.config.prompts),
            seed=seed_for(run.config.seed, "build", iteration),
            parts={kind: getattr(settings.parts, kind) for kind in get_args(Kind)},
            qa_problems=None if settings.parts.qa else (),  # one row a problem, and all of them would be dropped
            min_chars=settings.min_chars if settings.rule == "a-q2" else None,
            max_cot_per_problem=settings.max_cot_per_problem,
            balance_positions=settings.balance_positions,
            require_consistent=settings.require_consistent,
            select_format=run.config.select_format,
            sets=SetSizes(settings.select_largest, settings.select_per_problem, run.config.show_limit),
            thoughts=second_thoughts_in(run.folder.path, iteration, stale, first),
            policies=settings.pool,
            rewards=rewards_of(run, iteration),
            extra=extra,
        )
        dropped = Counter(result.dropped) + not_used
        if older := older_candidates(run, first):
            dropped["pool:older"] = older
        if not extra and (why := nothing_to_learn(result.verdicts)):
            raise LoopStopped(
                f"{why} (build.pool {', '.join(settings.pool)} left out {older} older ones)" if older else why
            )
        examples = list(result.examples)
        if settings.max_rows is not None and len(examples) > settings.max_rows:
            dropped["row:above_max_rows"] += len(examples) - settings.max_rows
            examples = drawn(examples, settings.max_rows, run.config.seed, "max_rows", iteration)
        if not examples:
            reasons = ", ".join(f"{k} {n}" for k, n in dropped.most_common(5))
            raise LoopStopped(f"no training row could be built: {reasons}")
        write_jsonl(folder / "examples.jsonl", map(to_json, examples))
        counts: dict[str, Any] = {"examples": kinds_of(examples), "dropped": dropped}
        counts |= {"repeated": result.repeated + more, "pool": result.pools}
        if result.select_characters is not None:
            counts["select_characters"] = result.select_characters
        write_json(folder / "counts.json", counts)

    sources = ["judge", *(["rethink"] if rethinks(run.config) else [])]
    sources += ["rationalise"] if run.config.rationalise else []
    rated = [f"iter{iteration}/reward"] if rates(run.config, iteration) else []
    after = ["traces", *rated] if run.config.traces else rated
    after += [f"iter{k}/{stage}" for k in range(first, iteration + 1) for stage in sources]
    shown = run.progress.during(f"iteration {iteration}: building training rows", "rows", make)
    run.folder.stage(f"iter{iteration}/build", shown, after=after)


def older_candidates(run: RunContext, first: int) -> int:
    """Candidates of the iterations before `first`, which a policy of `build.pool` leaves out."""
    return sum(read_json(run.folder.path / f"iter{k}/judge/counts.json")["candidates"] for k in range(1, first))


def nothing_to_learn(status: Counter[str]) -> str | None:
    """Why a pool with these verdicts teaches nothing, or None if it does."""
    total = status.total()
    if not total:
        return "no candidate was sampled"
    if status["abstain"] == total:
        return (
            f"none of {total} samples could be read. Look at iter1/judge/judged.jsonl: the prompt may not ask "
            "for a readable answer, or sampling.max_tokens may truncate every text"
        )
    if not status["correct"]:
        return f"none of {total} samples is right, so there is no trace to learn from; start from a stronger base"
    if status["correct"] == total:
        return f"all {total} samples are right, so there is nothing left to learn from these problems"
    return None
