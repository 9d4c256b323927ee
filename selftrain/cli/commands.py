"""What the modules of commands share: types, and options that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Parser: TypeAlias = argparse.ArgumentParser
Action: TypeAlias = Callable[[argparse.Namespace], int]  # runs a command with its parsed arguments; the exit status

DEFAULT_CONFIG = Path("configs/demo.yaml")


def add_command(
    commands: Commands, name: str, action: Action, help: str, description: str = "", example: str = ""
) -> Parser:
    """A command's parser. `help` is its line in the list of commands, `example` a command line to start from."""
    parser = commands.add_parser(
        name,
        help=help,
        description=description or f"{help[0].upper()}{help[1:]}.",
        epilog=f"example: {example}" if example else None,
    )
    parser.set_defaults(action=action)
    return parser


def add_config(parser: Parser) -> None:
    """`--config` and `--set`."""
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG,
        help=f"YAML file of settings, or the name of one that ships, such as demo (default {DEFAULT_CONFIG})",
    )  # fmt: skip
    add_set(parser, "override a setting, e.g. --set sampling.n=4")


def add_set(parser: Parser, help: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=help)


def add_quiet(parser: Parser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print the results only, no progress")


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_passed_on(commands: Commands, name: str, action: Action, help: str) -> None:
    """A command whose own module parses `arguments`, so that its options load nothing before they are needed."""
    # Without "-" among the prefixes no argument looks like an option here, `--help` included.
    parser = commands.add_parser(name, help=help, add_help=False, prefix_chars="\0")
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(action=action)
