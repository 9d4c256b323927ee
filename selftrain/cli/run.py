"""`selftrain run` and `python run.py`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.errors import printable
from selftrain.cli.commands import Commands, Parser, add_command, add_config, add_quiet
from selftrain.cli.errors import guarded, interrupts_unwrapped
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
    told = parser.add_mutually_exclusive_group()
    add_quiet(told)
    told.add_argument("--json", action="store_true", help="print what happens as JSON, one object a line, for programs")


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "run", run_loop_command, "run the loop: sample, judge, build, train, evaluate", DESCRIPTION,
        "selftrain run --config demo --iters 3 --output outputs/demo",
    )  # fmt: skip
    add_arguments(parser)


def run_main(argv: Sequence[str] | None = None) -> int:
    """`python run.py`; returns the exit status."""
    parser = Parser(prog="run.py", description=DESCRIPTION, epilog="example: python run.py --iters 3")
    add_arguments(parser)
    args = parser.parse_args(argv)
    return guarded(lambda: run_loop_command(args))


def run_loop_command(args: argparse.Namespace) -> int:
    """Run or resume the loop, and print its table."""
    from selftrain.config import load_config
    from selftrain.doctor import check_before_run, not_ready

    flags: dict[str, Any] = {"iters": args.iters, "seed": args.seed}
    flags["output"] = str(args.output) if args.output else None
    config = load_config(args.config, args.set, flags, layers=args.layer)
    if args.dry_run:
        print(plan(config))
        for line in not_ready(config):
            print(f"not ready: {line}", file=sys.stderr)
        return 0
    check_before_run(config)
    prepare_environment(config.engine.threads)
    from selftrain.loop import run_loop
    from selftrain.progress import Events, Progress

    events = Events(sys.stdout) if args.json else None
    progress = events or Progress(quiet=args.quiet)
    progress.say(f"run {config.name} in {config.output} (settings {config.digest()}, seed {config.seed})")
    try:
        with interrupts_unwrapped():
            outcome = run_loop(config, progress)
    except BaseException as error:
        if events is not None:
            events.emit("failed", error=str(error) or type(error).__name__)
        if isinstance(error, KeyboardInterrupt):
            print(f"\n{what_is_saved(config)}", file=sys.stderr)
        raise
    page = next((file for file in outcome.report if file.suffix == ".html"), config.output)
    if events is not None:
        headline = {"accepted": outcome.metrics.accepted, "stopped": outcome.stopped, "already": not outcome.made}
        events.emit("finished", **headline, metrics=str(config.output / "metrics.json"), report=str(page))
    else:
        show(outcome.metrics, outcome.report)
        if not outcome.made:
            print(f"finished already: report at {page}")
    if outcome.stopped:
        print(f"The loop stopped early: {outcome.stopped}", file=sys.stderr)
        return EXIT_STOPPED
    return 0


def what_is_saved(config: Config) -> str:
    """What a run that is being stopped keeps, and the command that resumes it."""
    from selftrain.runs.run_dir import RunDir

    n = len(RunDir(config.output).finished())
    program = {"run.py": "python run.py", "__main__.py": "python -m selftrain"}.get(Path(sys.argv[0]).name, "selftrain")
    return (
        f"Saved: {n} finished stage{'' if n == 1 else 's'} in {config.output}, and every sample drawn so far in "
        f"{config.bank}.\nTo resume: {shlex.join([*program.split(), *sys.argv[1:]])}"
    )


def plan(config: Config) -> str:
    """What a run would do, as comments, and all its settings as YAML."""
    import yaml

    from selftrain.reward.train import for_reward
    from selftrain.stages.building import check_pool
    from selftrain.training.dry_run import training_plan

    check_pool(config)
    if config.reward.make:
        for_reward(config, None)  # the engine may not be able to judge with a model of this form
    s, e = config.sampling, config.evaluation
    what = "all weights" if config.training.full else "a LoRA adapter"
    problems = f"{s.problems} problems" if s.problems else "every problem"
    each = f"about {s.n}, by pass rate," if s.allocation == "head_tail" else f"{s.n}"
    files = ", ".join(f"{one.file} ({one.kind})" for one in config.traces if one.warmup_weight)
    first = ""
    if config.warmup:
        first = f"Train a warm-up on {files or 'direct answers'}, evaluate it, and call it iteration 0.\n# "
    adaptive = s.adaptive
    temperature = f"temperature {s.temperature}"
    if adaptive is not None:
        grid = ", ".join(f"{t:g}" for t in adaptive.temperatures)
        temperature = f"the temperature of {grid} with the highest {adaptive.maximise} on dev"
    lines = [
        f"# Run folder {config.output}; samples are stored in {config.bank}.",
        *([f"# Make the reward model {config.reward.model} first, if it is not there."] if config.reward.make else []),
        f"# Evaluate {config.model.path} on dev. {first}Then repeat {config.iters} times:",
        f"#   sample {each} completions for {problems} of train at {temperature}, and judge them;",
        *(f"#   mix in {one.file} ({one.kind}) at weight {one.weight:g};" for one in config.traces if one.weight),
        *lessons(config, what),
        f"#   evaluate on dev with N = {e.n}: {', '.join(e.strategies)}.",
        f"# {accepting(config)} Measure on test: {e.test}.",
        *((f"#   and on test alone: {', '.join(e.test_strategies)}.",) if e.test_strategies else ()),
        "#",
        "# Training:",
        *(f"#   {line}" for line in training_plan(config)),
        "",
    ]
    return "\n".join(lines) + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def accepting(config: Config) -> str:
    """Which iteration becomes the result, and what becomes of a worse one."""
    rules = config.acceptance
    if rules.rule == "best":
        return "Accept the iteration with the best greedy accuracy on dev."
    undone = " Roll back one that is worse." if rules.rollback else ""
    return f"Accept an iteration whose greedy accuracy on dev is better by a paired 95% interval.{undone}"


STARTS = {
    "base": "the base model",
    "warmup": "the weights of iteration 0",
    "previous": "the previous weights",
    "continuous": "the previous weights and optimizer",
}


def lessons(config: Config, what: str) -> list[str]:
    """Lines on what iterations build and train: rows, preference pairs, or one after the other."""
    training, rule = config.training, config.build.rule
    pool = f"by rule {rule} from the pool {', '.join(config.build.pool)}"
    rows = f"#   build training rows {pool}; train {what} from {STARTS[training.restart]};"
    if training.method == "sft":
        return [rows]
    first = training.dpo.sft_iterations + 1
    pairs = f"build preference pairs {pool}; train {what} by DPO from {STARTS[training.starts_from(first)]};"
    return [f"#   {pairs}"] if first == 1 else [rows, f"#   from iteration {first} on, {pairs}"]


def show(metrics: Metrics, files: Sequence[Path]) -> None:
    """Print the final table, and where the report is."""
    from rich.console import Console

    from selftrain.report import headline, terminal_table

    console = Console()
    console.print(terminal_table(metrics, console.width))
    console.print(printable(headline(metrics)), markup=False)
    console.print(printable("Report: " + ", ".join(str(f) for f in files)), soft_wrap=True, markup=False)
