"""`selftrain doctor`."""

from __future__ import annotations

import argparse
import json

from selftrain.cli.commands import Commands, add_command, add_config, add_json


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "doctor", doctor_command, "check whether this machine can do what a configuration asks for",
        example="selftrain doctor --config configs/geoqa_qwen2vl_7b.yaml",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument("--rows-given", action="store_true", help="check what `selftrain train` needs, not a run")
    add_json(parser)


def doctor_command(args: argparse.Namespace) -> int:
    """Print the findings; 0 if nothing failed, 2 otherwise."""
    from selftrain.config import load_config
    from selftrain.doctor import examine

    found = list(examine(load_config(args.config, args.set, layers=args.layer), args.rows_given))
    if args.json:
        print(json.dumps([finding.__dict__ for finding in found], indent=1))
    else:
        marks = {"ok": "ok  ", "note": "note", "fail": "FAIL"}
        for finding in found:
            advice = f"\n       {finding.advice}" if finding.advice else ""
            print(f"{marks[finding.state]} {finding.what}: {finding.found}{advice}")
    return 2 if any(finding.state == "fail" for finding in found) else 0
