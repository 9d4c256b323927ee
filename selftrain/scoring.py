"""Work on the stored answers of finished runs: judge them again, compare two runs. No model, no sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_process.io import load_problems, read_jsonl
from data_process.judging import JUDGE_VERSION, judge
from data_process.seeds import seed_for
from selftrain import stats
from selftrain.config import build_config
from selftrain.evaluation import compare
from selftrain.run_dir import RunError, read_json


def rescore(run: Path) -> dict[str, Any]:
    """Greedy accuracy of every evaluation in a run folder under today's judge.

    Returns {"judge", "evaluations": [{iteration, split, n, correct, wrong, abstain, accuracy, low, high, changed,
    changes}]}; `changes` lists id, stored and new status of each answer (samples and select too) judged otherwise than
    stored. Raises RunError if the folder holds no run, ConfigError or DataError if its settings or data cannot be read.
    """
    config = build_config(read_json(run / "config.json"), str(run / "config.json"))
    evaluations = []
    for split in ("dev", "test"):
        problems = {
            p.id: p for p in load_problems(config.data.folder / getattr(config.data, split), config.data.folder)
        }
        for file in sorted(run.glob(f"iter*/{split}/rows.jsonl"), key=lambda f: int(f.parts[-3].removeprefix("iter"))):
            counts = {"correct": 0, "wrong": 0, "abstain": 0}
            changes = []
            rows = read_jsonl(file)
            for row in rows:
                problem = problems.get(row["id"])
                if problem is None:
                    raise RunError(
                        f"{file}: problem {row['id']!r} is not in {config.data.folder}; the data have changed"
                    )
                records = {"greedy": row["greedy"], "select": row["select"]}
                records |= {f"sample {i}": sample for i, sample in enumerate(row["samples"])}
                for name, record in records.items():
                    verdict = judge(record["text"], problem, truncated=record["finish"] == "length")
                    if name == "greedy":
                        counts[verdict.status] += 1
                    if verdict.status != record["verdict"]["status"]:
                        changes.append(
                            {
                                "id": row["id"],
                                "answer": name,
                                "stored": record["verdict"]["status"],
                                "now": verdict.status,
                            }
                        )
            low, high = stats.wilson(counts["correct"], len(rows))
            evaluations.append(
                {
                    "iteration": int(file.parts[-3].removeprefix("iter")),
                    "split": split,
                    "n": len(rows),
                    **counts,
                    "accuracy": counts["correct"] / len(rows),
                    "low": low,
                    "high": high,
                    "changed": len(changes),
                    "changes": changes,
                }
            )
    if not evaluations:
        raise RunError(f"{run} holds no finished evaluation; run the loop first")
    return {"judge": JUDGE_VERSION, "evaluations": evaluations}


def compare_runs(a: Path, b: Path, split: str = "test") -> list[dict[str, Any]]:
    """Paired comparison of the accepted iterations of two runs on the same problems, a record per strategy.

    Records as in metrics.json, with the two runs' names. Raises RunError if a run has no such evaluation, or if the two
    were not measured on the same problems.
    """
    rows, names = [], []
    for run in (a, b):
        metrics = read_json(run / "metrics.json")
        file = run / f"iter{metrics['accepted']}/{split}/rows.jsonl"
        if not file.is_file():
            raise RunError(f"{run} has no evaluation of its accepted iteration on {split}; run it to its end first")
        rows.append(read_jsonl(file))
        names.append(metrics["run"]["name"])
    gold = [{row["id"]: row["gold"] for row in part} for part in rows]
    if gold[0] != gold[1]:
        only = set(gold[0].items()) ^ set(gold[1].items())
        raise RunError(f"{a} and {b} were measured on different problems ({len(only)} differ), so they have no pairs")
    seed = seed_for("compare", split)
    return [
        {**compare(*rows, split, strategy, seed), "run_a": names[0], "run_b": names[1]}
        for strategy in ("greedy", "majority", "select")
    ]
