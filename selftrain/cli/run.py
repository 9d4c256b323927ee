"""`selftrain run` and `python run.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.cli.commands import Commands, Parser, add_command, add_config, add_quiet
from selftrain.cli.errors import guarded
from selftrain.environment import prepare_environment

if TYPE_CHECKING:
    from selftrain.config import Config
    from selftrain.runs.metrics import Metrics

DESCRIPTION = "Sample, judge, build, train, evaluate, and repeat. The same command resumes a run that was interrupted."
EXIT_STOPPED = 3  # the loop ended early for a reason that is in the report


def _iterations(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; write for instance --iters 3") from None
    if not 1 <= value <= 999:
        raise argparse.ArgumentTypeError(f"{value} is out of range; a run has 1 to 999 iterations")
    return value


def add_arguments(parser: Parser) -> None:
    add_config(parser)
    parser.add_argument("--iters", type=_iterations, help="iterations of self-improvement (default: from the config)")
    parser.add_argument("--output", type=Path, help="run folder (default: from the config)")
    parser.add_argument("--seed", type=int, help="seed of sampling, building and training")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and all settings, and do nothing")
    add_quiet(parser)


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "run", run_loop_command, "run the loop: sample, judge, build, train, evaluate", DESCRIPTION,
        "selftrain run --config demo --iters 3 --output outputs/demo",
    )  # fmt: skip
    add_arguments(parser)


def run_main(argv: Sequence[str] | None = None) -> int:
    """`python run.py`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py", description=DESCRIPTION, epilog="example: python run.py --iters 3")
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


def plan(config: Config) -> str:
    """What a run would do, as comments, and all its settings as YAML."""
    import yaml

    from selftrain.training.dry_run import training_plan

    s, e = config.sampling, config.evaluation
    problems = f"{s.problems} problems" if s.problems else "every problem"
    lines = [
        f"# Run folder {config.output}; samples are stored in {config.bank}.",
        f"# Evaluate {config.model.path} on dev. Then repeat {config.iters} times:",
        f"#   sample {s.n} completions for {problems} of train at temperature {s.temperature}, and judge them;",
        f"#   build training rows by rule {config.build.rule}; train a LoRA adapter from {config.training.restart};",
        f"#   evaluate on dev with N = {e.n}: {', '.join(e.strategies)}.",
        f"# Accept the iteration with the best greedy accuracy on dev. Measure on test: {e.test}.",
        *((f"#   and on test alone: {', '.join(e.test_strategies)}.",) if e.test_strategies else ()),
        "#",
        "# Training:",
        *(f"#   {line}" for line in training_plan(config)),
        "",
    ]
    return "\n".join(lines) + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def show(metrics: Metrics, files: Sequence[Path]) -> None:
    """Print the final table, and where the report is."""
    from rich.console import Console

    from selftrain.report import headline, terminal_table

    console = Console()
    console.print(terminal_table(metrics))
    console.print(headline(metrics))
    console.print("Report: " + ", ".join(str(f) for f in files), soft_wrap=True)
