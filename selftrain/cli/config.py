"""`selftrain config`: the settings of a configuration, and what each of them means."""

from __future__ import annotations

import argparse
import json
import textwrap

from selftrain.cli.commands import Commands, add_command, add_config, add_json


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "config", config_command, "print the settings of a configuration, or explain one of them",
        example="selftrain config --explain sampling.n",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument(
        "--explain", metavar="KEY", help="a setting, a section or a short name: its meaning, unit, default and value"
    )
    add_json(parser)


def config_command(args: argparse.Namespace) -> int:
    """Print all settings as YAML, or one with its meaning."""
    import yaml

    from selftrain.config import load_config
    from selftrain.explain import explain

    config = load_config(args.config, args.set, layers=args.layer)
    if args.explain is None:
        values = config.model_dump(mode="json")
        print(json.dumps(values, indent=1) if args.json else yaml.safe_dump(values, sort_keys=False), end="")
        return 0
    found = explain(config, args.explain)
    if args.json:
        print(json.dumps(vars(found), indent=1, default=str))
        return 0
    print(found.key)
    print(textwrap.fill(found.meaning, 96, initial_indent="  ", subsequent_indent="  "))
    if found.inside:
        print("  settings in it:")
        for key in found.inside:
            meaning = explain(config, key).meaning
            print(f"    {key}: {textwrap.shorten(meaning, 90, placeholder=' …')}")
        return 0
    of_ours = not found.key.startswith("training.overrides.")
    print(f"  type: {found.type}" + (f"; default: {json.dumps(found.default, default=str)}" if of_ours else ""))
    print(f"  in {args.config}: {json.dumps(found.value, default=str)}")
    return 0
