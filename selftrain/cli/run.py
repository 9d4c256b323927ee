"""`python run.py` and `python -m selftrain run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.cli.commands import Commands
from selftrain.cli.errors import guarded
from selftrain.environment import prepare_environment

if TYPE_CHECKING:
    from selftrain.runs.metrics import Metrics

DEFAULT_CONFIG = Path("configs/demo.yaml")
EXIT_STOPPED = 3  # the loop ended early for a reason that is in the report


def _iterations(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; write for instance --iters 3") from None
    if not 1 <= value <= 999:
        raise argparse.ArgumentTypeError(f"{value} is out of range; a run has 1 to 999 iterations")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Sample, judge, build, train, evaluate, and repeat. The same command resumes a stopped run."
    parser.add_argument("--iters", type=_iterations, help="iterations of self-improvement (default: from the config)")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"YAML settings (default {DEFAULT_CONFIG})")
    parser.add_argument("--output", type=Path, help="run folder (default: from the config)")
    parser.add_argument("--seed", type=int, help="seed of sampling, building and training")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override any setting, e.g. --set sampling.n=4"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the resolved settings, do nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the final table")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("run", help="run the loop, as run.py does")
    add_arguments(parser)
    parser.set_defaults(action=run_loop_command)


def run_main(argv: Sequence[str] | None = None) -> int:
    """`python run.py`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py")
    add_arguments(parser)
    args = parser.parse_args(argv)
    return guarded(lambda: run_loop_command(args))


def run_loop_command(args: argparse.Namespace) -> int:
    """Run or resume the loop, and print its table."""
    from selftrain.config import load_config

    flags: dict[str, Any] = {"iters": args.iters, "seed": args.seed}
    flags["output"] = str(args.output) if args.output else None
    config = load_config(args.config, args.set, flags)
    if args.dry_run:
        print(plan(config))
        return 0
    prepare_environment(config.engine.threads)
    from selftrain.loop import run_loop
    from selftrain.progress import Progress

    progress = Progress(quiet=args.quiet)
    progress.say(f"run {config.name} in {config.output} (settings {config.digest()}, seed {config.seed})")
    outcome = run_loop(config, progress)
    show(outcome.metrics, outcome.report)
    if outcome.stopped:
        print(f"The loop stopped early: {outcome.stopped}", file=sys.stderr)
        return EXIT_STOPPED
    return 0


def plan(config: Any) -> str:
    """What a run would do, and the resolved settings as YAML."""
    import yaml

    from selftrain.training.dry_run import training_plan

    s, e = config.sampling, config.evaluation
    questions = f"{s.problems} questions" if s.problems else "all questions"
    lines = [
        f"# run folder {config.output}, samples in {config.bank}",
        f"# 0. evaluate {config.model.path} on dev",
        f"# then {config.iters} times: sample {s.n} answers to {questions} of train, T = {s.temperature}; judge;",
        f"#   build rows by rule {config.build.rule}; train a LoRA adapter from {config.training.restart};",
        f"#   evaluate on dev: {', '.join(e.strategies)}, with N = {e.n} samples",
        f"# accept the iteration with the best greedy score on dev; measure on test: {e.test}",
        "#",
        "# training:",
        *(f"#   {line}" for line in training_plan(config)),
        "",
    ]
    return "\n".join(lines) + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def show(metrics: Metrics, files: Sequence[Path]) -> None:
    """The final table on standard output, and where the report is."""
    from rich.console import Console

    from selftrain.report import headline, terminal_table

    console = Console()
    console.print(terminal_table(metrics))
    console.print(headline(metrics))
    console.print("Report: " + ", ".join(str(f) for f in files), soft_wrap=True)
