"""`selftrain scale`: measure test-time compute at equal tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_quiet, add_set


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "scale", scale_command,
        "measure what thinking longer, voting, selecting and combining them gain at equal tokens",
        example="selftrain scale --run outputs/demo --quick",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="run folder; measures its weights on its dev and test problems")
    what.add_argument("--problems", type=Path, help="JSONL file of problems to report on; needs --model")
    parser.add_argument("--model", type=Path, help="with --problems: checkpoint folder")
    parser.add_argument("--dev", type=Path, help="with --problems: problems to tune on (default: a seeded third)")
    parser.add_argument("--images", type=Path, help="with --problems: image folder (default: the problems' folder)")
    parser.add_argument("--config", type=Path, help="with --problems: YAML settings of the engine and of sampling")
    parser.add_argument(
        "--weights",
        help="comma-separated list of base, accepted, iterK or NAME=FOLDER of weights (default base,accepted); with "
        "--problems only the last, beside the base",
    )
    parser.add_argument("--grid", type=Path, help="YAML settings of the grid (default: made for the model)")
    add_set(parser, "override a setting of the grid")
    parser.add_argument("--quick", action="store_true", help="measure fewer problems and settings, in minutes")
    parser.add_argument(
        "--output", type=Path, help="results folder (default: RUN/scale or outputs/scale-MODEL, with -quick appended)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured, and sample nothing")
    parser.add_argument("--processes", type=int, default=1, help="models to measure at once, each on a core or GPU")
    add_quiet(parser)


def scale_command(args: argparse.Namespace) -> int:
    """Measure, and print the findings; returns the exit status."""
    from selftrain.config import ConfigError, load_config
    from selftrain.environment import prepare_environment
    from selftrain.progress import Progress
    from selftrain.runs.run_dir import run_config
    from selftrain.scaling.grid import load_scale_config

    if args.run is not None:
        for flag in ("model", "dev", "images", "config"):
            if vars(args)[flag] is not None:
                raise ConfigError(f"--{flag} does not go with --run, which takes its settings from RUN/config.json")
        threads = run_config(args.run).engine.threads
    else:
        if args.model is None:
            raise ConfigError("--problems needs --model, the checkpoint folder to measure")
        threads = load_config(args.config).engine.threads
    settings = load_scale_config(args.grid, args.set, args.quick)
    prepare_environment(threads)
    from selftrain.scaling.report import answer
    from selftrain.scaling.run import FileTarget, Target, scale

    default = Path("outputs") / f"scale-{args.model.name}" if args.run is None else args.run / "scale"
    output = args.output or default.with_name(default.name + ("-quick" if args.quick else ""))
    named = [name for name in (args.weights or ("base,accepted" if args.run else "")).split(",") if name]
    if args.run is not None:
        target = Target(run=args.run, weights=named)
    else:
        overrides = [f"model.path={args.model}"]
        files = FileTarget(args.problems, args.dev, args.images or args.problems.parent, args.config, overrides)
        target = Target(weights=named, files=files)
    if args.dry_run:
        from selftrain.scaling.dry_run import scale_plan

        print("\n".join([f"# Results folder {output}.", *scale_plan(settings, target)]))
        return 0
    result = scale(settings, output, target, processes=args.processes, progress=Progress(quiet=args.quiet))
    for model in result.subjects:
        print(f"{model.name}: {answer(model)}")
    print(
        f"Report: {output}/scale.md; curves: tokens, candidates and ignores as .svg, .pdf, .png; raw: results.jsonl.gz"
    )
    return 0
