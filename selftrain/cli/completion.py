"""`selftrain completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse

from selftrain.cli.commands import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "completion", completion, "print a script that completes commands and options in a shell",
        "Print a script that completes commands and options. For bash, put it into "
        "~/.local/share/bash-completion/completions/selftrain; for zsh, as _selftrain into a folder of $fpath.",
        "selftrain completion bash",
    )  # fmt: skip
    parser.add_argument("shell", choices=("bash", "zsh"), help="shell to write it for")


def completion(args: argparse.Namespace) -> int:
    """Print the script. `args.program` is the parser of all commands, which cli.main sets."""
    import shtab

    print(shtab.complete(args.program, shell=args.shell))
    return 0
