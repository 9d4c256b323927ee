"""`selftrain compare`: runs on the same problems."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_json


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "compare", compare, "compare the accepted iterations of runs, problem by problem",
        example="selftrain compare outputs/demo-star outputs/demo",
    )  # fmt: skip
    parser.add_argument("a", type=Path, help="run folder that the others are compared with")
    parser.add_argument("others", type=Path, nargs="+", metavar="b", help="run folders; a difference is b minus a")
    parser.add_argument(
        "--split", choices=("dev", "test", "hard"), default="test", help="problems to compare on (default test)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the ids gained and lost")
    add_json(parser)


def compare(args: argparse.Namespace) -> int:
    """Print one line for each strategy that both runs measured; --json and --html also have the ids gained and lost."""
    from selftrain.report.formatting import points
    from selftrain.report.tables import p_sentence
    from selftrain.scoring.compare import compare_runs

    comparisons = [one for other in args.others for one in compare_runs(args.a, other, args.split)]
    if args.html:
        from selftrain.scoring.compare_page import write

        write(comparisons, args.html)
    if args.json:
        print(json.dumps([one.to_json() for one in comparisons], indent=1, ensure_ascii=False))
        return 0
    for c in comparisons:
        print(
            f"{c.split}, {c.strategy}{', honest' if c.honest else ''}: {c.run_b} minus {c.run_a} "
            f"{points(c.difference)} points [{points(c.low)}, {points(c.high)}]{p_sentence(c.p)}, n = {c.n}, "
            f"gained {len(c.gained_ids)}, lost {len(c.lost_ids)}"
        )
    return 0
