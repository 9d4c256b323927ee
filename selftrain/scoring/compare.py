"""Paired comparison of finished runs on the same problems. No model, no sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_process.seeds import seed_for
from selftrain.files import RunError
from selftrain.runs.metrics import Metrics, compared, rows_of
from selftrain.runs.run_dir import folder_of
from selftrain.test_time.results import Comparison, EvaluatedProblem, compare_both


class RunComparison(Comparison):
    """One strategy of two runs. `a` and `b` are the runs' accepted iterations; a difference is b minus a."""

    run_a: str  # folders
    run_b: str
    gained_ids: tuple[str, ...]  # problems to which b gives more credit than a, in the order of the rows
    lost_ids: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "gained": len(self.gained_ids), "lost": len(self.lost_ids)}


def compare_runs(a: Path, b: Path, split: str = "test") -> list[RunComparison]:
    """Paired comparison of the accepted iterations of two runs on the same problems, for every strategy of both.

    Averages over samples and the oracle are left out. Raises RunError if a run has no such evaluation, or if the two
    were not measured on the same problems.
    """
    before, after = (_accepted_rows(run, split) for run in (a, b))
    gold = [{row.id: row.gold for row in part} for part in (before, after)]
    if gold[0] != gold[1]:
        only = set(gold[0].items()) ^ set(gold[1].items())
        raise RunError(f"{a} and {b} were measured on different problems ({len(only)} differ), so they have no pairs")
    seed = seed_for("compare", split)
    found = []
    for name in compared(before, after):
        for one in compare_both(before, after, split, name, seed):
            changes = _changes(before, after, name, one.honest)
            gained = tuple(identifier for identifier, change in changes.items() if change > 0)
            lost = tuple(identifier for identifier, change in changes.items() if change < 0)
            paths = {"run_a": str(a), "run_b": str(b), "gained_ids": gained, "lost_ids": lost}
            found.append(RunComparison.model_validate({**dict(one), **paths}))
    return found


def _accepted_rows(run: Path, split: str) -> list[EvaluatedProblem]:
    metrics = Metrics.read(run / "metrics.json")
    accepted = metrics.base if metrics.accepted is None else metrics.accepted
    if metrics.accepted is None or not (run / folder_of(accepted) / split / "rows.jsonl").is_file():
        raise RunError(f"{run} has no evaluation of its accepted iteration on {split}; run it to its end first")
    return rows_of(run, accepted, split)


def _changes(
    before: Sequence[EvaluatedProblem], after: Sequence[EvaluatedProblem], strategy: str, honest: bool
) -> dict[str, float]:
    """Credit of `after` minus that of `before`, by problem."""
    first, second = (
        {
            row.id: (row.strategies[strategy].honest or 0.0) if honest else row.strategies[strategy].credit
            for row in rows
        }
        for rows in (before, after)
    )
    return {identifier: credit - first[identifier] for identifier, credit in second.items()}
