"""`selftrain select-data`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from selftrain.cli.commands import Commands

# What is measured before and after: choosing against voting, and nothing else.
CURVES = {
    "ignores": [],
    "limits": [],
    "combine_ignores": [],
    "conditions": [],
    "reject": [],
    "rounds": 0,
    "variants": False,
}


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("select-data", help="train on choosing among 2 to 6 candidates, and draw the curves")
    parser.add_argument("--run", type=Path, required=True, help="finished run folder")
    parser.add_argument("--output", type=Path, help="folder of the stages and curves (default: RUN/select-data)")
    parser.add_argument("--sizes", help="candidates in one prompt, by commas (default 2,3,4,5,6)")
    parser.add_argument("--per-size", type=int, help="rows per question and size at most (default 3)")
    parser.add_argument("--form", choices=("answer", "reasoning"), help="what a selection says (default answer)")
    parser.add_argument("--start", choices=("base", "accepted"), help="weights to train on (default accepted)")
    parser.add_argument("--max-rows", type=int, help="selections at most (default 6000)")
    parser.add_argument("--cot-share", type=float, help="self-CoT rows for each selection (default 0.5)")
    parser.add_argument("--max-steps", type=int, help="steps of the SFT (default: as the run's training)")
    parser.add_argument("--seed", type=int, help="of the rows, their order and the SFT (default 0)")
    parser.add_argument("--no-curves", action="store_true", help="only build and train")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the curves' grid")
    parser.add_argument("--processes", type=int, default=1, help="models measured at once for the curves")
    parser.add_argument("--quiet", action="store_true", help="no progress, only what was found")
    parser.set_defaults(action=select_data_command)


def select_data_command(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from selftrain.config import ConfigError
    from selftrain.environment import prepare_environment
    from selftrain.scaling.targets import run_config

    names = ("per_size", "form", "start", "max_rows", "cot_share", "max_steps", "seed")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.sizes is not None:
        try:
            given["sizes"] = tuple(int(size) for size in args.sizes.split(","))
        except ValueError:
            message = f"--sizes {args.sizes!r}: write whole numbers by commas, for instance 2,3,4,5,6"
            raise ConfigError(message) from None
    prepare_environment(run_config(args.run).engine.threads)
    from selftrain.progress import Progress
    from selftrain.scaling.select_sft import SelectData, select_data

    progress = Progress(quiet=args.quiet)
    output = args.output or args.run / "select-data"
    adapter = select_data(args.run, SelectData(**given), output, progress)
    print(f"Adapter: {adapter}")
    if args.no_curves:
        return 0
    from selftrain.scaling.grid import load_scale_config
    from selftrain.scaling.run import Target, scale

    weights = ["accepted", f"select-data={adapter}"]
    grid = load_scale_config(None, [*(f"{key}={value}" for key, value in CURVES.items()), *args.set], quick=False)
    target = Target(run=args.run, weights=weights)
    result = scale(grid, output / "scale", target, processes=args.processes, progress=progress)
    for model in result.subjects:
        for record in model.findings.select_against_vote:
            if pair := record.equal_n:
                print(
                    f"{model.name}: select@{record.n} minus vote@{record.n} {100 * pair.difference:+.1f} points "
                    f"[{100 * pair.low:+.1f}, {100 * pair.high:+.1f}], p = {pair.p:.2g}"
                )
    print(f"Curves: {output}/scale/candidates.svg; report: {output}/scale/scale.md")
    return 0
