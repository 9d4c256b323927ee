"""Which problems the report shows in full: a few that the accepted iteration won, lost, or that the vote got wrong."""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

from data_process.io import load_problems, read_jsonl
from data_process.schema import DataError, Problem
from data_process.seeds import seed_for
from selftrain.config import Config

SHOWN = 6


def choose_traces(path: Path, metrics: dict[str, Any], config: Config) -> list[dict[str, Any]]:
    """At most SHOWN dev problems with the base's and the accepted iteration's answers, for `report.write_report`.

    Changed problems come first (gained, then lost), drawn with the run's seed, so that a rerun shows the same ones.
    """
    accepted = metrics["accepted"] or 0
    before = {row["id"]: row for row in read_jsonl(path / "iter0/dev/rows.jsonl")}
    after = {row["id"]: row for row in read_jsonl(path / f"iter{accepted}/dev/rows.jsonl")}

    def right(row: dict[str, Any]) -> bool:
        return row["greedy"]["verdict"]["status"] == "correct"

    groups: list[list[str]] = [[], [], []]
    for identifier in sorted(after):
        was, now = right(before[identifier]), right(after[identifier])
        groups[0 if now and not was else 1 if was and not now else 2].append(identifier)
    rng = random.Random(seed_for(config.seed, "traces"))
    chosen: list[str] = []
    for group, share in zip(groups, (3, 2, SHOWN), strict=True):
        rng.shuffle(group)
        chosen += group[: min(share, SHOWN - len(chosen))]
    try:
        problems = {p.id: p for p in load_problems(config.data.folder / config.data.dev, config.data.folder)}
    except DataError:  # the report of an old run can be written where its data are no longer: texts alone
        problems = {}
    return [_trace(identifier, problems.get(identifier), before, after, accepted, config) for identifier in chosen]


def _trace(
    identifier: str,
    problem: Problem | None,
    before: dict[str, dict[str, Any]],
    after: dict[str, dict[str, Any]],
    accepted: int,
    config: Config,
) -> dict[str, Any]:
    rows = [_row("greedy", 0, before[identifier]["greedy"])]
    if accepted:
        rows.append(_row("greedy", accepted, after[identifier]["greedy"]))
    rows += [_row(f"sample {i}", accepted, sample) for i, sample in enumerate(after[identifier]["samples"][:3], 1)]
    rows.append(_row("self-select", accepted, after[identifier]["select"]))
    picture = config.data.folder / problem.image if problem and problem.image else None
    is_png = picture is not None and picture.is_file() and picture.suffix.lower() == ".png"
    return {
        "problem_id": identifier,
        "question": problem.question if problem else "(the data folder is not here any more)",
        "choices": list(problem.choices) if problem else [],
        "gold": after[identifier]["gold"],
        "image_png_base64": base64.b64encode(picture.read_bytes()).decode() if picture and is_png else None,
        "rows": rows,
    }


def _row(strategy: str, iteration: int, record: dict[str, Any]) -> dict[str, Any]:
    verdict = record["verdict"]
    return {
        "strategy": strategy,
        "iteration": iteration,
        "text": record["text"],
        "verdict": verdict["status"],
        "extracted": verdict["extracted"],
        "rule": verdict["rule"],
    }
