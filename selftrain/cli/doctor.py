"""`selftrain doctor`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selftrain.cli.commands import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("doctor", help="look whether this machine can do what a configuration asks for")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"), help="YAML settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any setting")
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.set_defaults(action=doctor_command)


def doctor_command(args: argparse.Namespace) -> int:
    """Print the findings; 0 if nothing failed, 2 otherwise."""
    from selftrain.config import load_config
    from selftrain.doctor import examine

    found = list(examine(load_config(args.config, args.set)))
    if args.json:
        print(json.dumps([finding.__dict__ for finding in found], indent=1))
    else:
        marks = {"ok": "ok  ", "note": "note", "fail": "FAIL"}
        for finding in found:
            advice = f"\n       {finding.advice}" if finding.advice else ""
            print(f"{marks[finding.state]} {finding.what}: {finding.found}{advice}")
    return 2 if any(finding.state == "fail" for finding in found) else 0
