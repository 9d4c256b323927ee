"""metrics.json: what a run folder's stages left, in one record, and the report that is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_process.io import read_jsonl
from data_process.judging import JUDGE_VERSION
from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain.config import build_config
from selftrain.files import read_json
from selftrain.runs.timing import timing
from selftrain.stages import Run
from selftrain.test_time.evaluate import compare


def collect(run: Run, finished: Sequence[int], accepted: int, stopped: str | None) -> dict[str, Any]:
    """metrics.json from what the stages left: a pure function of the run folder, without clock readings."""
    config, path = run.config, run.folder.path
    iterations = []
    for k in finished:
        entry: dict[str, Any] = {"iteration": k, "accepted": k == accepted, "train": None, "eval": {}}
        if k:
            counts = read_json(path / f"iter{k}/judge/counts.json")
            built = read_json(path / f"iter{k}/build/counts.json")
            trained = read_json(path / f"iter{k}/train/result.json")
            entry["train"] = {
                **{name: counts[name] for name in ("sampled_problems", "candidates", "correct", "wrong", "abstain")},
                "truncated": counts["truncated"],
                "pool": built["pool"],
                "examples": built["examples"],
                "dropped": {**built["dropped"], **trained["dropped"]},
                "steps": trained["steps"],
                "train_loss": trained["train_loss"],
            }
        for split in ("dev", "test"):
            if run.folder.done(f"iter{k}/{split}"):
                entry["eval"][split] = read_json(path / f"iter{k}/{split}/split.json")
        iterations.append(entry)
    return {
        "run": {
            "name": config.name,
            "config_digest": config.digest(),
            "seed": config.seed,
            "model": str(config.model.path),
            "recipe": "+".join(kind for kind, weight in config.build.parts.model_dump().items() if weight),
            "n_samples": config.evaluation.n,
            "chance": _chance(run.splits["test"]),
            "judge": JUDGE_VERSION,
        },
        "stopped": stopped,
        "iterations": iterations,
        "accepted": accepted,
        "comparisons": comparisons(run, finished, accepted),
    }


def _chance(problems: Sequence[Problem]) -> float | None:
    if not all(problem.choices for problem in problems):
        return None
    return sum(1 / len(problem.choices) for problem in problems) / len(problems)


def comparisons(run: Run, finished: Sequence[int], accepted: int) -> list[dict[str, Any]]:
    """On dev each iteration against the one before and the base; on test the accepted one against the base."""
    pairs = [("dev", a, b, ("greedy",)) for b in finished if b for a in sorted({0, b - 1})]
    if accepted and run.folder.done(f"iter{accepted}/test"):
        pairs.append(("test", 0, accepted, ("greedy", "majority", "select")))
    results = []
    for split, a, b, strategies in pairs:
        before, after = (read_jsonl(run.folder.path / f"iter{k}/{split}/rows.jsonl") for k in (a, b))
        seed = seed_for(run.config.seed, "bootstrap", split, a, b)
        results += [compare(before, after, split, strategy, seed) for strategy in strategies]
    return results


def write_run_report(path: Path) -> list[Path]:
    """The report of a finished run folder, from what lies in it."""
    from selftrain.report import write_report
    from selftrain.report.traces import choose_traces

    metrics = read_json(path / "metrics.json")
    config = build_config(read_json(path / "config.json"), str(path / "config.json"))
    metrics["run"].update(timing(path))
    return write_report(metrics, path, choose_traces(path, metrics, config))
