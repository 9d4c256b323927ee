"""`selftrain rejudge`: judge all stored samples of a run again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_json


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "rejudge", "judge all stored samples of a run again, and report which verdicts changed",
        example="selftrain rejudge outputs/demo",
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--flips", type=Path, metavar="FILE", help="where to list all changes (default outputs/rejudge/RUN.jsonl)"
    )
    add_json(parser)
    parser.set_defaults(action=rejudge)


def rejudge(args: argparse.Namespace) -> int:
    """Print which verdicts changed; returns the exit status."""
    from selftrain.scoring.rejudge import rejudge as judge_again

    result = judge_again(args.run, args.flips)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(
        f"{result['answers']} stored answers under judge version {result['judge']}: {result['unchanged']} unchanged, "
        f"{result['flipped']} with another verdict, {result['other_answer']} with the same verdict on another answer"
    )
    for when in ("stored", "now"):
        print(f"{when:>6}: " + ", ".join(f"{status} {count}" for status, count in result[when].items()))
    for name in ("by_status", "by_rule"):
        for change, count in result[name].items():
            print(f"{count:6d}  {change}")
    for row in result["examples"]:
        before, now = row["stored"], row["now"]
        print(
            f"{row['id']} ({row['file']}, {row['answer']}, gold {row['gold']}): {before['status']} "
            f"{before['extracted']} [{before['rule']}] -> {now['status']} {now['extracted']} [{now['rule']}]"
        )
    print(f"all changes: {result['flips']}")
    return 0
