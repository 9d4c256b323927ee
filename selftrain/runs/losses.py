"""Training losses of a run, as LLaMA-Factory logged them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_process.io import each_row
from selftrain.runs.run_dir import iteration_files

Losses = Mapping[int, Sequence[tuple[int, float]]]  # by iteration: (step, mean loss since the last one)
MOST = 200  # steps of an iteration; of a longer log every second, third, ... is kept


def losses_of(run: Path) -> Losses:
    """The losses of every iteration that has a log. DataError if a log cannot be read."""
    found: dict[int, list[tuple[int, float]]] = {}
    for iteration, file in iteration_files(run, "train/*/trainer_log.jsonl"):
        rows = [(row.get("current_steps"), row.get("loss")) for row in each_row(file)]
        points = [(step, float(loss)) for step, loss in rows if isinstance(step, int) and isinstance(loss, int | float)]
        if points:
            found[iteration] = points[:: -(-len(points) // MOST)]
    return found
