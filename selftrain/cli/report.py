"""`selftrain report`: write a finished run's report again."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.commands import Commands, add_command
from selftrain.cli.run import show


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "report", report, "write the table, figure and page of a finished run again",
        example="selftrain report outputs/demo",
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="run folder")


def report(args: argparse.Namespace) -> int:
    """Write the files and print the table."""
    from selftrain.report import write_run_report
    from selftrain.runs.metrics import Metrics

    files = write_run_report(args.run)
    show(Metrics.read(args.run / "metrics.json"), files)
    return 0
