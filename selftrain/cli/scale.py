"""`selftrain scale`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.commands import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "scale", help="what thinking longer, voting, choosing and combining them buy at equal tokens"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="run folder: its weights on its dev and test questions")
    what.add_argument("--problems", type=Path, help="questions to report on (JSONL); needs --model")
    parser.add_argument("--model", type=Path, help="checkpoint folder, with --problems")
    parser.add_argument("--dev", type=Path, help="questions to choose settings on (default: a seeded third)")
    parser.add_argument("--images", type=Path, help="folder of the pictures (default: where the questions are)")
    parser.add_argument("--config", type=Path, help="settings of sampling as of run.py, with --problems")
    parser.add_argument(
        "--weights", help="with --run: base, accepted, iterK or NAME=ADAPTER, by commas (default base,accepted)"
    )
    parser.add_argument("--grid", type=Path, help="YAML of the grid's settings (default: built in)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting of the grid")
    parser.add_argument("--quick", action="store_true", help="fewer questions and settings, in minutes")
    parser.add_argument(
        "--output", type=Path, help="folder of the results (default: RUN/scale or outputs/scale-MODEL, -quick appended)"
    )
    parser.add_argument("--processes", type=int, default=1, help="models measured at once, each on a core or GPU")
    parser.add_argument("--quiet", action="store_true", help="no progress, only what was found")
    parser.set_defaults(action=scale_command)


def scale_command(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from selftrain.config import ConfigError, load_config
    from selftrain.environment import prepare_environment
    from selftrain.progress import Progress
    from selftrain.scaling.grid import load_scale_config
    from selftrain.scaling.targets import run_config

    if args.run is not None:
        for flag in ("model", "dev", "images", "config"):
            if getattr(args, flag) is not None:
                raise ConfigError(f"--{flag} does not go with --run, whose settings are in its config.json")
        threads = run_config(args.run).engine.threads
    else:
        if args.model is None:
            raise ConfigError("--problems needs --model: the checkpoint folder to measure")
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
    progress = Progress(quiet=args.quiet)
    result = scale(settings, output, target, processes=args.processes, progress=progress)
    for model in result.subjects:
        print(f"{model.name}: {answer(model)}")
    print(
        f"Report: {output}/scale.md; curves: tokens, candidates and ignores as .svg, .pdf, .png; raw: results.jsonl.gz"
    )
    return 0
