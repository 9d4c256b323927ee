"""`selftrain check-leakage`: the same as `python -m data_process.decontamination`."""

from __future__ import annotations

import argparse

from selftrain.cli.commands import Commands, add_passed_on


def add_parser(commands: Commands) -> None:
    add_passed_on(commands, "check-leakage", check_leakage, "find test problems among training problems")


def check_leakage(args: argparse.Namespace) -> int:
    from data_process.decontamination.guard import main

    return main(args.arguments, "selftrain check-leakage")
