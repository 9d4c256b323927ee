"""`selftrain compare`: two runs on the same problems."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.commands import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "compare", compare, "compare the accepted iterations of two runs, problem by problem",
        example="selftrain compare outputs/demo outputs/demo_star",
    )  # fmt: skip
    parser.add_argument("a", type=Path, help="run folder")
    parser.add_argument("b", type=Path, help="run folder; a difference is b minus a")
    parser.add_argument(
        "--split", choices=("dev", "test", "hard"), default="test", help="problems to compare on (default test)"
    )


def compare(args: argparse.Namespace) -> int:
    """Print one line for each strategy that both runs measured."""
    from selftrain.report.formatting import points
    from selftrain.report.tables import p_sentence
    from selftrain.scoring.rejudge import compare_runs

    a, b, comparisons = compare_runs(args.a, args.b, args.split)
    for c in comparisons:
        print(
            f"{c.split}, {c.strategy}{', honest' if c.honest else ''}: {b} minus {a} {points(c.difference)} points "
            f"[{points(c.low)}, {points(c.high)}]{p_sentence(c.p)}, n = {c.n}"
        )
    return 0
