"""The iteration controller: sample, judge, build, train, evaluate, and again.

Every stage is a function from records to records whose result lies in the run folder; a stage that is there is not done
again, so a run that was stopped anywhere goes on with the same command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.images.store import ImageStore
from selftrain import stages
from selftrain.config import Config, ConfigError
from selftrain.files import read_json, write_json
from selftrain.progress import Progress
from selftrain.runs.metrics import collect, write_run_report
from selftrain.runs.run_dir import RunDir
from selftrain.runs.splits import inputs, load_splits, without_leaks
from selftrain.runs.timing import Clock
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import open_engine
from selftrain.sampling.engine_reuse import keeping
from selftrain.stages import (
    LoopStopped,
    Run,
    build_stage,
    evaluate_stage,
    first_look,
    judge_stage,
    sample_stage,
    train_stage,
)
from selftrain.training.dry_run import training_plan
from selftrain.training.precision import settle
from selftrain.trust import parity_stage


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    metrics: dict[str, Any]
    report: list[Path]
    stopped: str | None  # why the loop ended early, None if it did not


def run_loop(config: Config, progress: Progress | None = None, **tools: Any) -> Outcome:
    """Run, or go on with, the experiment that `config` describes, in `config.output`.

    `tools` replaces parts in tests: `open_engine`. Raises DataError, RunError, BankError, EngineError or TrainingError;
    whatever was finished before stays and is reused.
    """
    if config.engine.kind == "server":
        raise ConfigError(
            "the loop trains the weights it samples from, and a server keeps those it was started with; set "
            "engine.kind to hf, or measure a served model with `python -m selftrain scale --problems`"
        )
    if config.engine.kind != "scripted":
        training_plan(config)  # wrong hyper-parameters now, and not after hours of sampling
    progress = progress or Progress()
    started = time.time()
    with RunDir(config.output) as folder:
        clock = Clock(folder.path / "sessions.json", started)
        if config.engine.kind != "scripted":
            config, precision = settle(config)
            progress.say(str(precision))
        with Bank(config.bank) as bank, clock:
            store = ImageStore(
                config.bank.parent / "images",
                config.data.folder,
                min_pixels=config.model.min_pixels,
                max_pixels=config.model.max_pixels,
            )
            splits, card = load_splits(config, store, progress)
            folder.claim(config.identity(), inputs(config, splits, store, bank))
            write_json(folder.path / "config.json", config.model_dump(mode="json"))
            write_json(folder.path / "data.json", card)
            splits = without_leaks(config, splits, folder, progress)
            opener = tools.pop("open_engine", open_engine)
            with (
                keeping(config, opener) as get_engine,
                Run(config, folder, bank, store, splits, progress, get_engine, **tools) as run,
            ):
                stopped = None
                parity_stage(run, 0)
                first_look(run)
                evaluate_stage(run, 0, "dev")
                try:
                    for iteration in range(1, config.iters + 1):
                        iterate(run, iteration)
                except LoopStopped as reason:
                    stopped = str(reason)
                    progress.say(f"The loop stops: {stopped}")
                finished = finished_iterations(run)
                accepted = stages.accept({k: read_json(run.folder.path / f"iter{k}/dev/split.json") for k in finished})
                for iteration in test_iterations(config, finished, accepted):
                    evaluate_stage(run, iteration, "test")
                metrics = collect(run, finished, accepted, stopped)
        write_json(folder.path / "metrics.json", metrics)
        return Outcome(metrics, write_run_report(folder.path), stopped)


def iterate(run: Run, iteration: int) -> None:
    """One turn: the picture in the README, stage by stage."""
    sample_stage(run, iteration)
    judge_stage(run, iteration)
    build_stage(run, iteration)
    train_stage(run, iteration)
    parity_stage(run, iteration)
    evaluate_stage(run, iteration, "dev")


def finished_iterations(run: Run) -> list[int]:
    return [k for k in range(run.config.iters + 1) if run.folder.done(f"iter{k}/dev")]


def test_iterations(config: Config, finished: Sequence[int], accepted: int) -> list[int]:
    """Whose weights are measured on test: nothing is chosen there, so it is read once, at the end."""
    if config.evaluation.test == "none":
        return []
    return list(finished) if config.evaluation.test == "all" else sorted({0, accepted})
