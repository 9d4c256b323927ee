"""`selftrain rejudge`: judge all stored samples of a run again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_json


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "rejudge", rejudge, "judge all stored samples of a run again, and report which verdicts changed",
        example="selftrain rejudge outputs/demo",
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--flips", type=Path, metavar="FILE", help="where to list all changes (default outputs/rejudge/RUN.jsonl)"
    )
    add_json(parser)


def rejudge(args: argparse.Namespace) -> int:
    """Print which verdicts changed; returns the exit status."""
    from selftrain.scoring.rejudge import rejudge as judge_again

    result = judge_again(args.run, args.flips)
    if args.json:
        print(json.dumps(result.to_json(), indent=1))
        return 0
    print(
        f"{result.answers} stored answers under judge version {result.judge}: {result.unchanged} unchanged, "
        f"{result.flipped} with another verdict, {result.other_answer} with the same verdict on another answer"
    )
    for when, counts in (("stored", result.stored), ("now", result.now)):
        print(f"{when:>6}: " + ", ".join(f"{status} {count}" for status, count in counts.items()))
    for changes in (result.by_status, result.by_rule):
        for change, count in changes.items():
            print(f"{count:6d}  {change}")
    for flip in result.examples:
        before, now = flip.stored, flip.now
        print(
            f"{flip.id} ({flip.file}, {flip.answer}, gold {flip.gold}): {before.status} {before.extracted} "
            f"[{before.rule}] -> {now.status} {now.extracted} [{now.rule}]"
        )
    print(f"all changes: {result.flips}")
    return 0
