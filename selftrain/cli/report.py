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
    from selftrain.files import read_json
    from selftrain.runs.metrics import write_run_report

    files = write_run_report(args.run)
    show(read_json(args.run / "metrics.json"), files)
    return 0
