"""What the modules of commands share: types, and options that several commands have."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

_SETTING = re.compile(r"[A-Za-z_][\w.]*=.*", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Where a command has `--set`, KEY=VALUE anywhere on its line is a setting too, in the order of the line."""

    takes_settings = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        if self.takes_settings:
            found.set = [*found.set, *(word for word in rest if _SETTING.fullmatch(word))]
            rest = [word for word in rest if not _SETTING.fullmatch(word)]
            if (model := getattr(found, "base_model", None)) is not None:
                found.set.append(f"model.path={json.dumps(model)}")
        return found, rest


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
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
    """`--config`, `--layer`, `--model` and `--set`."""
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG,
        help=f"YAML file of settings, or the name of one that ships, such as demo (default {DEFAULT_CONFIG})",
    )  # fmt: skip
    parser.add_argument(
        "--layer", type=Path, action="append", default=[], metavar="FILE",
        help="YAML file whose settings go over those of --config, such as configs/gpu/24gb_7b.yaml; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--model", dest="base_model", metavar="PATH",
        help="base model: a checkpoint folder, or the hub id of one that was downloaded (model.path)",
    )  # fmt: skip
    add_set(parser, "override a setting, e.g. --set sampling.n=4; KEY=VALUE alone does the same, e.g. lr=1e-4")


def add_set(parser: Parser, help: str) -> None:
    parser.takes_settings = True
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=help)


def add_quiet(parser: Parser | argparse._MutuallyExclusiveGroup) -> None:
    parser.add_argument("--quiet", action="store_true", help="print the results only, no progress")


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_passed_on(commands: Commands, name: str, action: Action, help: str) -> None:
    """A command whose own module parses `arguments`, so that its options load nothing before they are needed."""
    # Without "-" among the prefixes no argument looks like an option here, `--help` included.
    parser = commands.add_parser(name, help=help, add_help=False, prefix_chars="\0")
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(action=action)
