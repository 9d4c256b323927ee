"""`selftrain select-data`: train a run's model on selecting, and measure it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from selftrain.cli.commands import Commands, add_command, add_quiet, add_set

# The grid that is measured before and after: selecting against voting, and nothing else.
CURVES = ("ignores=[]", "limits=[]", "combine_ignores=[]", "conditions=[]", "reject=[]", "rounds=0", "variants=False")


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "select-data", select_data_command, "train on selecting among 2 to 6 candidates, and draw the curves",
        example="selftrain select-data --run outputs/demo",
    )  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--output", type=Path, help="results folder (default: RUN/select-data)")
    parser.add_argument("--sizes", help="comma-separated numbers of candidates in one prompt (default 2,3,4,5,6)")
    parser.add_argument("--per-size", type=int, help="maximum number of rows per problem and size (default 3)")
    parser.add_argument(
        "--form",
        choices=("answer", "reasoning", "rationale"),
        help="what a selection states (default: as the run's settings say)",
    )
    parser.add_argument("--start", choices=("base", "accepted"), help="weights to start from (default accepted)")
    parser.add_argument("--max-rows", type=int, help="maximum number of selection rows (default 6000)")
    parser.add_argument("--cot-share", type=float, help="self-CoT rows per selection row (default 0.5)")
    parser.add_argument("--max-steps", type=int, help="optimizer steps (default: as the run's training)")
    parser.add_argument("--seed", type=int, help="seed of the rows, their order and the training (default 0)")
    parser.add_argument("--no-curves", action="store_true", help="build and train only")
    add_set(parser, "override a setting of the curves' grid")
    parser.add_argument("--dry-run", action="store_true", help="print what would be built and trained, and do nothing")
    parser.add_argument("--processes", type=int, default=1, help="models to measure at once for the curves")
    add_quiet(parser)


def select_data_command(args: argparse.Namespace) -> int:
    """Build, train, measure and print the differences; returns the exit status."""
    from selftrain.config import ConfigError
    from selftrain.environment import prepare_environment
    from selftrain.runs.run_dir import run_config

    names = ("per_size", "form", "start", "max_rows", "cot_share", "max_steps", "seed")
    given: dict[str, Any] = {name: value for name in names if (value := vars(args)[name]) is not None}
    if args.sizes is not None:
        try:
            given["sizes"] = tuple(int(size) for size in args.sizes.split(","))
        except ValueError:
            message = f"--sizes {args.sizes!r}: write whole numbers separated by commas, for instance 2,3,4,5,6"
            raise ConfigError(message) from None
    config = run_config(args.run)
    given.setdefault("form", config.select_format)
    prepare_environment(config.engine.threads)
    from selftrain.progress import Progress
    from selftrain.scaling.select_sft import SelectData, select_data

    progress = Progress(quiet=args.quiet)
    output = args.output or args.run / "select-data"
    if args.dry_run:
        from selftrain.scaling.dry_run import select_plan

        print("\n".join([f"# Results folder {output}.", *select_plan(args.run, SelectData(**given))]))
        return 0
    weights = select_data(args.run, SelectData(**given), output, progress)
    print(f"Weights: {weights}")
    if args.no_curves:
        return 0
    from selftrain.scaling.grid import load_scale_config
    from selftrain.scaling.run import Target, scale

    grid = load_scale_config(None, [*CURVES, f"select_format={given['form']}", *args.set], quick=False)
    target = Target(run=args.run, weights=["accepted", f"select-data={weights}"])
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
