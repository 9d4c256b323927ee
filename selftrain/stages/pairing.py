"""The stage that turns judged candidates into preference pairs, in place of `building.build_stage` for DPO."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from data_process.building.pairs import build_pairs
from data_process.building.pool import first_iteration
from data_process.io import write_jsonl
from data_process.prompts import prompt_set
from data_process.schema import to_json
from data_process.seeds import seed_for
from selftrain.files import write_json
from selftrain.stages.building import nothing_to_learn, older_candidates
from selftrain.stages.context import LoopStopped, RunContext, drawn
from selftrain.stages.sampling import pool, train_problems

SELECT_SIZES = (3,)  # candidates of a selection, as in R3V's training rows; the rationale form has its own numbers


def pair_stage(run: RunContext, iteration: int) -> None:
    """Preference pairs from the pool. Raises LoopStopped if there is nothing to learn from."""
    config, settings = run.config, run.config.build
    sizes = range(2, settings.select_largest + 1) if config.select_format == "rationale" else SELECT_SIZES

    first = first_iteration(settings.pool, iteration)

    def make(folder: Path) -> None:
        result = build_pairs(
            list(train_problems(run, iteration).values()),
            pool(run, iteration, first),
            rule=settings.rule,
            prompts=prompt_set(config.prompts),
            seed=seed_for(config.seed, "build", iteration),
            per_problem={"cot": settings.pairs.cot, "select": settings.pairs.select},
            min_chars=settings.min_chars if settings.rule == "a-q2" else None,
            require_consistent=settings.require_consistent,
            select_format=config.select_format,
            sizes=sizes,
            limit=config.show_limit,
        )
        if why := nothing_to_learn(result.verdicts):
            raise LoopStopped(why)
        examples, dropped = list(result.examples), Counter(result.dropped)
        if older := older_candidates(run, first):
            dropped["pool:older"] = older
        if settings.max_rows is not None and len(examples) > settings.max_rows:
            dropped["row:above_max_rows"] += len(examples) - settings.max_rows
            examples = drawn(examples, settings.max_rows, config.seed, "max_rows", iteration)
        if not examples:
            reasons = ", ".join(f"{k} {n}" for k, n in dropped.most_common(5))
            raise LoopStopped(f"no preference pair could be built: {reasons}")
        write_jsonl(folder / "examples.jsonl", map(to_json, examples))
        counts: dict[str, Any] = {"examples": Counter(example.kind for example in examples), "dropped": dropped}
        counts |= {"problems": result.problems, "paired": result.paired, "pool": result.pools}
        if result.select_characters is not None:
            counts["select_characters"] = result.select_characters
        write_json(folder / "counts.json", counts)

    after = [f"iter{k}/judge" for k in range(first, iteration + 1)]
    shown = run.progress.during(f"iteration {iteration}: building preference pairs", "pairs", make)
    run.folder.stage(f"iter{iteration}/build", shown, after=after)
