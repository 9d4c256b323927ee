"""The iteration controller: sample, judge, build, train, evaluate, and again.

Every stage is a function from records to records. Its result lies in the run folder, and a finished stage is not run
again, so the same command resumes a run that was stopped anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.prompts import prompt_set
from data_process.schema import Problem
from selftrain import stages
from selftrain.config import Config, ConfigError
from selftrain.files import write_json
from selftrain.progress import Progress
from selftrain.report.write import write_run_report
from selftrain.runs.metrics import Metrics, collect
from selftrain.runs.run_dir import RunDir
from selftrain.runs.splits import HARD, image_store, inputs, load_splits, without_leaks
from selftrain.runs.timing import Clock
from selftrain.sampling import second_thoughts
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import open_engine
from selftrain.sampling.engine_reuse import keeping
from selftrain.stages import LoopStopped, RunContext
from selftrain.test_time.evaluate import check_strategies
from selftrain.test_time.results import SplitResult
from selftrain.test_time.strategy_config import SelectionForm
from selftrain.training.dry_run import training_plan
from selftrain.training.precision import settle


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    metrics: Metrics
    report: list[Path]
    stopped: str | None  # why the loop ended early, None if it did not


def run_loop(config: Config, progress: Progress | None = None, **tools: Any) -> RunResult:
    """Run, or resume, the experiment that `config` describes, in `config.output`.

    `tools` replaces parts in tests: `open_engine`. Raises DataError, RunError, BankError, EngineError or TrainingError;
    whatever was finished before stays and is reused.
    """
    if config.engine.why_no_loop is not None:
        raise ConfigError(config.engine.why_no_loop)
    if config.engine.has_model:
        training_plan(config)  # wrong hyper-parameters now, and not after hours of sampling
    progress = progress or Progress()
    started = time.time()
    with RunDir(config.output) as folder:
        clock = Clock(folder.path / "sessions.json", started)
        if config.engine.kind != "scripted":
            config, precision = settle(config)
            progress.say(str(precision))
        with Bank(config.bank) as bank, clock:
            store = image_store(config)
            splits, card = load_splits(config, store, progress)
            folder.claim(config.identity(), inputs(config, splits, store, bank))
            write_json(folder.path / "config.json", config.model_dump(mode="json"))
            write_json(folder.path / "data.json", card)
            splits = without_leaks(config, splits, folder, progress)
            selection = SelectionForm(config.select_format, config.show_limit)
            for split in ("dev", "test"):
                check_strategies(
                    config.evaluation.on(split), splits[split], prompt_set(config.prompts), config.seed, selection
                )
            second_thoughts.check(config)
            opener = tools.pop("open_engine", open_engine)
            with (
                keeping(config, opener) as get_engine,
                RunContext(config, folder, bank, store, splits, progress, get_engine, **tools) as run,
            ):
                stopped = None
                stages.parity_stage(run, 0)
                stages.first_look(run)
                stages.evaluate_stage(run, 0, "dev")
                try:
                    for iteration in range(1, config.iters + 1):
                        iterate(run, iteration)
                except LoopStopped as reason:
                    stopped = str(reason)
                    progress.say(f"The loop stops: {stopped}")
                finished = finished_iterations(run)
                accepted = stages.accept(
                    {k: SplitResult.read(folder.path / f"iter{k}/dev/split.json") for k in finished}
                )
                for iteration in iterations_to_test(config, finished, accepted):
                    for split in tested(splits):
                        stages.evaluate_stage(run, iteration, split)
                metrics = collect(config, folder, splits["test"], finished, accepted, stopped)
        write_json(folder.path / "metrics.json", metrics)
        return RunResult(metrics, write_run_report(folder.path), stopped)


def iterate(run: RunContext, iteration: int) -> None:
    """One iteration, stage by stage."""
    stages.sample_stage(run, iteration)
    stages.judge_stage(run, iteration)
    stages.rethink_stage(run, iteration)
    stages.build_stage(run, iteration)
    stages.train_stage(run, iteration)
    stages.parity_stage(run, iteration)
    stages.evaluate_stage(run, iteration, "dev")


def finished_iterations(run: RunContext) -> list[int]:
    return [k for k in range(run.config.iters + 1) if run.folder.done(f"iter{k}/dev")]


def tested(splits: Mapping[str, Sequence[Problem]]) -> list[str]:
    """The splits that are read once, at the end."""
    return [split for split in ("test", HARD) if split in splits]


def iterations_to_test(config: Config, finished: Sequence[int], accepted: int) -> list[int]:
    """Whose weights are measured on test: nothing is chosen there, so it is read once, at the end."""
    if config.evaluation.test == "none":
        return []
    return list(finished) if config.evaluation.test == "all" else sorted({0, accepted})
