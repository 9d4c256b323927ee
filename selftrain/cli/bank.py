"""`selftrain bank`: look through a bank of samples, and save what is intact of a damaged one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_json, add_quiet


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "bank", bank_command, "check every sample of a bank, and save what is intact of a damaged one",
        example="selftrain bank outputs/bank.sqlite --rescue outputs/bank-2.sqlite",
    )  # fmt: skip
    parser.add_argument("file", type=Path, help="bank, as the setting `bank` names it")
    parser.add_argument("--rescue", type=Path, metavar="NEW", help="write the samples that are intact into a new bank")
    add_json(parser)
    add_quiet(parser)


def bank_command(args: argparse.Namespace) -> int:
    """Print what was found; 0 if every sample is intact, 1 if not."""
    from selftrain.progress import Progress
    from selftrain.sampling.rescue import examine

    with Progress(quiet=args.quiet or args.json).stage(f"reading {args.file}", "samples") as update:
        found = examine(args.file, args.rescue, lambda n: update(n, n))
    if args.json:
        print(json.dumps({**vars(found), "damaged": dict(found.damaged)}, indent=1))
        return int(bool(found.damaged))
    print(f"{args.file}: {found.intact:,} samples intact, {found.unchecked:,} of earlier versions without a checksum")
    for reason, count in found.damaged.most_common():
        print(f"damaged: {count:,}: {reason}")
    if args.rescue is not None:
        print(f"{args.rescue}: {found.saved:,} samples saved; use it with --set bank={args.rescue}")
    elif found.damaged:
        print(f"save the rest: selftrain bank {args.file} --rescue NEW; a run draws again what is not in it")
    return int(bool(found.damaged))
