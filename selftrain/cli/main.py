"""The command line: `selftrain COMMAND` or `python -m selftrain COMMAND`.

A command is a module of this package with `add_parser(commands)`, which declares its arguments and its function.
Parsing imports nothing heavy, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from selftrain import __version__
from selftrain.cli import (
    bank,
    check_leakage,
    compare,
    completion,
    config,
    curate,
    distill,
    doctor,
    export,
    prepare,
    rejudge,
    report,
    reward,
    run,
    scale,
    score,
    select_data,
    serve,
    show,
    train,
)
from selftrain.cli import list as list_runs
from selftrain.cli.commands import Parser
from selftrain.cli.errors import guarded

COMMANDS = (
    run, train, list_runs, show, report, score, rejudge, compare, scale, select_data, distill, serve, doctor, prepare,
    config, completion, curate, reward, check_leakage, export, bank,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: args.action(args))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="selftrain",
        description="Train a vision-language model on its own reasoning, and measure test-time compute.",
        epilog="`selftrain COMMAND --help` lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"selftrain {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    commands.choices["completion"].set_defaults(program=parser)
    return parser
