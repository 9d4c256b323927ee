"""`selftrain report`: write a finished run's report again."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.commands import Commands
from selftrain.cli.run import show


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("report", help="write a run's table, figure and page again")
    parser.add_argument("run", type=Path, help="run folder")
    parser.set_defaults(action=report)


def report(args: argparse.Namespace) -> int:
    """Write the files and print the table."""
    from selftrain.report import write_run_report
    from selftrain.runs.metrics import Metrics

    files = write_run_report(args.run)
    show(Metrics.read(args.run / "metrics.json"), files)
    return 0
