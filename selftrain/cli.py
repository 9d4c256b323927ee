"""The command line. Parsing imports nothing heavy: `python run.py --help` answers at once."""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from selftrain import doctor, score_command, select_verb, serve_verb
from selftrain.scale import verb as scale_verb

DEFAULT_CONFIG = Path("configs/demo.yaml")
EXIT_BAD_INPUT = 2  # configuration, data or run folder cannot be used
EXIT_STOPPED = 3  # the loop ended early for a reason that is in the report
EXIT_FAILED = 4  # an engine or a training failed; the same command goes on
EXIT_CLOSED = 128 + signal.SIGPIPE  # whoever read the output has left, as `| head` does: a shell's status for that


def _iterations(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; write for instance --iters 3") from None
    if not 1 <= value <= 999:
        raise argparse.ArgumentTypeError(f"{value} is out of range; a run has 1 to 999 iterations")
    return value


def run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Sample, judge, build, train, evaluate, and again. The same command goes on with a stopped run.",
    )
    parser.add_argument("--iters", type=_iterations, help="iterations of self-improvement (default: from the config)")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"YAML settings (default {DEFAULT_CONFIG})")
    parser.add_argument("--output", type=Path, help="run folder (default: from the config)")
    parser.add_argument("--seed", type=int, help="seed of sampling, building and training")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override any setting, e.g. --set sampling.n=4"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the resolved settings, do nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the final table")
    return parser


def guarded(action: Callable[[], int]) -> int:
    """Run an action; failures a user can act on become one message and an exit status, others keep their traceback."""
    from data_process.schema import DataError
    from selftrain.bank import BankError
    from selftrain.config import ConfigError
    from selftrain.engines.base import EngineError
    from selftrain.report import ReportError
    from selftrain.run_dir import RunError

    try:
        status = action()
        sys.stdout.flush()  # here and not when the interpreter ends, where a closed pipe can no longer be caught
        return status
    except (ConfigError, DataError, RunError, BankError, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except EngineError as error:
        print(f"engine failed: {error}\nSamples so far are in the bank; run the same command again.", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nStopped. Finished work is kept: run the same command again to go on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        left = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not left:  # it was another pipe: a fault
            raise
        for stream in left:  # what is still to be written goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return EXIT_CLOSED
    except OSError as error:
        # Stages say it themselves; this is for a full or read-only disk under the bank, the pictures or the report.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        print(f"error: {error}; mend that and run the same command again: finished work is kept", file=sys.stderr)
        return EXIT_BAD_INPUT
    except RuntimeError as error:
        from selftrain.adapter import AdapterError
        from selftrain.training import TrainingError

        if not isinstance(error, TrainingError | AdapterError):
            raise
        print(f"training failed: {error}", file=sys.stderr)
        return EXIT_FAILED


def _is_closed(stream: TextIO) -> bool:
    """Whether nobody is left to read what is written to a stream."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def run_main(argv: Sequence[str] | None = None) -> int:
    """`python run.py`; returns the exit status."""
    args = run_parser().parse_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
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

    from selftrain.training_plan import training_plan

    s, e = config.sampling, config.evaluation
    questions = f"{s.problems} questions" if s.problems else "all questions"
    lines = [
        f"# run folder {config.output}, samples in {config.bank}",
        f"# 0. evaluate {config.model.path} on dev",
        f"# then {config.iters} times: sample {s.n} answers to {questions} of train, T = {s.temperature}; judge;",
        f"#   build rows by rule {config.build.rule}; train a LoRA adapter from {config.training.restart};",
        f"#   evaluate on dev: greedy, and mean, majority, self-select, pass at N = {e.n}",
        f"# accept the iteration with the best greedy score on dev; measure on test: {e.test}",
        "#",
        "# training:",
        *(f"#   {line}" for line in training_plan(config)),
        "",
    ]
    return "\n".join(lines) + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def prepare_environment(threads: int | None) -> None:
    """Set before torch is imported: waiting threads sleep instead of spinning, and nothing asks a hub."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def show(metrics: dict[str, Any], files: Sequence[Path]) -> None:
    """The final table on standard output, and where the report is."""
    from rich.console import Console

    from selftrain.report import headline, terminal_table

    console = Console()
    console.print(terminal_table(metrics))
    console.print(headline(metrics))
    console.print("Report: " + ", ".join(str(f) for f in files), soft_wrap=True)


# ---- python -m selftrain VERB -------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m selftrain`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="selftrain", description="Work on what runs have left, or start one.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    report = verbs.add_parser("report", help="write a run's table, figure and page again")
    report.add_argument("run", type=Path, help="run folder")
    score_command.add_parsers(verbs)
    versus = verbs.add_parser("compare", help="paired comparison of two runs' accepted iterations")
    versus.add_argument("a", type=Path, help="run folder")
    versus.add_argument("b", type=Path, help="run folder; differences are b minus a")
    versus.add_argument("--split", choices=("dev", "test"), default="test")
    scale_verb.add_parser(verbs)
    select_verb.add_parser(verbs)
    serve_verb.add_parser(verbs)
    doctor.add_parser(verbs)
    verbs.add_parser("run", help="the same as run.py", add_help=False)
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["run"]:
        return run_main(argv[1:])
    args = parser.parse_args(argv)
    verb = {
        "report": _report,
        "score": score_command.score,
        "rejudge": score_command.rejudge,
        "compare": _compare,
        "scale": scale_verb.scale_verb,
        "select-data": select_verb.select_data_verb,
        "serve": serve_verb.serve_verb,
        "doctor": doctor.doctor_verb,
    }[args.verb]
    return guarded(lambda: verb(args))


def _report(args: argparse.Namespace) -> int:
    from selftrain.metrics import write_run_report
    from selftrain.run_dir import read_json

    files = write_run_report(args.run)
    show(read_json(args.run / "metrics.json"), files)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from selftrain.scoring import compare_runs

    for record in compare_runs(args.a, args.b, args.split):
        print(
            f"{record['split']}, {record['strategy']}: {record['run_b']} minus {record['run_a']} "
            f"{100 * record['difference']:+.1f} points [{100 * record['low']:+.1f}, {100 * record['high']:+.1f}], "
            f"p = {record['p']:.2g}, n = {record['n']}"
        )
    return 0
