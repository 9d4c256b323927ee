"""`selftrain curate`: choose what to train on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_json, add_quiet, add_set


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "curate", curate_command, "choose training problems by quality, difficulty and diversity",
        "Choose training problems by quality, difficulty and diversity, and write a data folder with a manifest that "
        "says for every problem why it stayed or left.",
        "selftrain curate --pool data/minigeo --policy diverse --size 400 --out data/minigeo-400",
    )  # fmt: skip
    parser.add_argument("--pool", type=Path, help="data folder with train.jsonl, or a JSONL file of problems")
    parser.add_argument("--recipe", type=Path, help="YAML settings, for instance configs/curate/s1.yaml")
    add_set(parser, "override a setting of the recipe, e.g. --set difficulty.easy=0.5")
    parser.add_argument("--policy", help="s1, random, diverse, longest, difficulty or all (default s1)")
    parser.add_argument("--size", type=int, help="number of problems")
    parser.add_argument("--share", type=float, help="number of problems, as a part of the pool in (0, 1]")
    parser.add_argument("--seed", type=int, help="seed of draws and clusters (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--again", type=Path, metavar="DIR", help="make this curated folder again, from its manifest")
    parser.add_argument("--link", action="store_true", help="hard-link the images instead of copying them")
    parser.add_argument("--replace", action="store_true", help="replace an existing data folder")
    add_json(parser)
    add_quiet(parser)


def curate_command(args: argparse.Namespace) -> int:
    """Curate and print the steps; returns the exit status."""
    from selftrain.config import ConfigError
    from selftrain.curation.run import curate, curate_again
    from selftrain.curation.settings import load_recipe
    from selftrain.progress import Progress

    options = {"replace": args.replace, "link": args.link, "progress": Progress(quiet=args.quiet or args.json)}
    recipe = {name: vars(args)[name] for name in ("policy", "size", "share", "seed")}
    if args.again is not None:
        given = [name for name in ("pool", "recipe", *recipe) if vars(args)[name] is not None]
        if given or args.set:
            raise ConfigError(f"--{given[0] if given else 'set'} does not go with --again, which uses the manifest")
        card = curate_again(args.again, args.out, **options)
    else:
        if args.pool is None:
            raise ConfigError("curate needs --pool DIR, or --again DIR")
        card = curate(args.pool, load_recipe(args.recipe, args.set, recipe), args.out, **options)
    if args.json:
        print(json.dumps(card, indent=1, ensure_ascii=False))
        return 0
    for remark in card["remarks"]:
        print(remark)
    print(f"Card: {args.out}/card.html; decisions: {args.out}/decisions.jsonl.gz")
    return 0
