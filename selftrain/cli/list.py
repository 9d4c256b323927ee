"""`selftrain list`: the runs in a folder."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from selftrain.cli.commands import Commands, add_command, add_json


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "list", list_runs, "list the runs in a folder with their state and accuracy",
        example="selftrain list outputs",
    )  # fmt: skip
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("outputs"), help="folder of runs (default outputs)"
    )
    add_json(parser)


def list_runs(args: argparse.Namespace) -> int:
    """Print one line for each run."""
    from selftrain.runs.stored import runs_below

    found = [described(path) for path in runs_below(args.folder)]
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    if not found:
        print(f"no runs in {args.folder}")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "name", "state", "accepted", "dev", "test", "changed"):
        table.add_column(name, justify="right" if name in ("dev", "test") else "left", overflow="fold")
    for row in found:
        dev, test = ("" if row[split] is None else f"{100 * row[split]:.1f}" for split in ("dev", "test"))
        accepted = "" if row["accepted"] is None else str(row["accepted"])
        table.add_row(row["run"], row["name"], row["state"], accepted, dev, test, row["changed"])
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print("dev, test: greedy accuracy in percent of the accepted iteration")
    return 0


def described(path: Path) -> dict[str, Any]:
    """One run: its folder, name, state, accepted iteration, greedy accuracies as fractions, and last change.

    A folder that cannot be read is listed with the reason as its state.
    """
    from data_process.errors import UserError
    from selftrain.runs.stored import StoredRun

    stamp = max(file.stat().st_mtime for file in path.iterdir())
    row: dict[str, Any] = {
        "run": str(path), "name": path.name, "state": "", "iterations": 0, "accepted": None, "dev": None, "test": None,
        "changed": datetime.fromtimestamp(stamp).strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
    try:
        run = StoredRun(path)
    except UserError as error:
        return {**row, "state": f"unreadable: {error}"}
    measured = [k for split, k in run.evaluations if split == "dev"]
    row |= {"name": run.config.name, "iterations": max(measured, default=0), "accepted": run.accepted}
    if run.metrics is None:
        return {**row, "state": f"unfinished, iteration {max(measured)} measured" if measured else "just started"}
    row["state"] = (
        f"stopped: {run.metrics.stopped}" if run.metrics.stopped else f"finished, {row['iterations']} iterations"
    )
    for iteration in run.metrics.iterations:
        if iteration.iteration == run.accepted:
            for split in ("dev", "test"):
                score = iteration.evaluation[split].strategies.get("greedy") if split in iteration.evaluation else None
                row[split] = None if score is None else score.accuracy
    return row
