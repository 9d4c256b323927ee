"""`selftrain prepare`: the same as `python -m data_process.prepare`."""

from __future__ import annotations

import argparse

from selftrain.cli.commands import Commands, add_passed_on


def add_parser(commands: Commands) -> None:
    add_passed_on(commands, "prepare", prepare, "turn a data set into a folder for the loop")


def prepare(args: argparse.Namespace) -> int:
    from data_process.prepare.command import main
    from selftrain.plugins import add_working_directory

    add_working_directory()  # a source may be a module there
    return main(args.arguments, "selftrain prepare")
