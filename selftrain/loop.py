"""The iteration controller: sample, judge, build, train, evaluate, and again.

Every stage is a function from records to records. Its result lies in the run folder, and a finished stage is not run
again, so the same command resumes a run that was stopped anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.outputs import check_outputs
from data_process.prompts import prompt_set
from selftrain.config import Config, ConfigError
from selftrain.files import RunError, write_json
from selftrain.progress import Progress
from selftrain.report.write import write_run_report
from selftrain.reward.model import load_reward
from selftrain.reward.rater import Rater
from selftrain.reward.train import for_reward, make_reward
from selftrain.runs.acceptance import accepted_of
from selftrain.runs.forecast import Forecast
from selftrain.runs.metrics import Metrics, collect
from selftrain.runs.run_dir import RunDir, folder_of, iteration_files
from selftrain.runs.splits import canonical_images, check_image_sizes, image_store, inputs, load_splits, without_leaks
from selftrain.runs.timing import Clock
from selftrain.runs.tracking import send
from selftrain.sampling import second_thoughts
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import open_engine
from selftrain.sampling.engine_reuse import keeping as kept_open
from selftrain.stages import (
    building,
    evaluating,
    keeping,
    outside,
    pairing,
    rationalising,
    rewarding,
    sampling,
    temperature,
    training,
)
from selftrain.stages.context import LoopStopped, RunContext
from selftrain.test_time.evaluate import check_budgets, check_strategies
from selftrain.test_time.strategy_config import SelectionForm
from selftrain.training.disk import check_room, disk_plan
from selftrain.training.dry_run import training_plan
from selftrain.training.precision import settle


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    metrics: Metrics
    report: list[Path]
    stopped: str | None  # why the loop ended early, None if it did not
    made: Sequence[str]  # stages that this session made; none of a run that was finished already


def run_loop(config: Config, progress: Progress | None = None, **tools: Any) -> RunResult:
    """Run, or resume, the experiment that `config` describes, in `config.output`.

    `tools` replaces parts in tests: `open_engine`. Raises DataError, RunError, BankError, EngineError or TrainingError;
    whatever was finished before stays and is reused.
    """
    if config.engine.why_no_loop is not None:
        raise ConfigError(config.engine.why_no_loop)
    if config.engine.has_model:
        training_plan(config)  # wrong hyper-parameters now, and not after hours of sampling
        if config.warmup:
            training_plan(config.for_warmup)
    check_outputs({"--output": config.output}, [config.data.folder, config.model.path], resumes=True)
    progress = progress or Progress()
    if (room := disk_plan(config)) is not None:
        progress.say(str(room))
        check_room(room)
    if config.reward.make:
        make_reward(for_reward(config, None), progress=progress, opener=tools.get("open_engine", open_engine))
    with RunDir(config.output) as folder:
        clock = Clock(folder.path / "sessions.json")
        if config.engine.kind != "scripted":
            config, precision = settle(config)
            progress.say(str(precision))
        with Bank(config.bank) as bank, clock:
            store = image_store(config)
            splits, card = load_splits(config, store, progress)
            if config.engine.has_model:
                check_image_sizes(config, splits["train"], store)
            folder.claim(config.identity(), inputs(config, splits, store, bank))
            refuse_fewer(folder.path, config.iters)
            if reused := folder.finished():
                progress.say(f"resuming: {what_is_reused(reused)}; the bank holds {bank.count():,} samples")
            write_json(folder.path / "config.json", config.model_dump(mode="json"))
            write_json(folder.path / "data.json", card)
            splits = without_leaks(config, splits, folder, progress)
            selection = SelectionForm(config.select_format, config.show_limit)
            reward = load_reward(config, bank)
            if reward is not None:
                form = "reward head" if reward.manifest.head else "verifier"
                progress.say(f"rewards: the {form} in {config.reward.model}")
            rate = Rater(config, reward, bank, canonical_images(store), ()) if reward is not None else None
            for split in ("dev", "test"):
                settings, prompts = config.evaluation.on(split), prompt_set(config.prompts)
                check_strategies(settings, splits[split], prompts, config.seed, selection, rate)
            check_budgets(config, [p for name, split in splits.items() if name != "train" for p in split])
            temperature.check(config, splits["dev"], rate)
            second_thoughts.check(config)
            building.check_pool(config)
            progress.after = Forecast(config, folder, splits).after
            opener = tools.pop("open_engine", open_engine)
            with (
                kept_open(config, opener) as get_engine,
                RunContext(config, folder, bank, store, splits, progress, get_engine, reward, **tools) as run,
            ):
                stopped = None
                outside.traces_stage(run)
                evaluating.parity_stage(run, run.base)
                evaluating.first_look(run)
                evaluating.evaluate_stage(run, run.base, "dev")
                send(config, folder, progress.say)
                try:
                    if config.warmup:
                        warm_up(run)
                    for iteration in range(1, config.iters + 1):
                        iterate(run, iteration)
                        send(config, folder, progress.say)
                        if iteration < config.iters:
                            evaluating.stop_without_gain(run, iteration)
                except LoopStopped as reason:
                    stopped = str(reason)
                    progress.say(f"The loop stops: {stopped}")
                finished = finished_iterations(run)
                accepted = accepted_of(evaluating.decisions(run, finished), run.base)
                evaluating.test_stages(run, iterations_to_test(config, finished, accepted))
                send(config, folder, progress.say)
                keeping.after_run(run, finished, accepted)
                metrics = collect(config, folder, splits["test"], finished, accepted, stopped)
        write_json(folder.path / "metrics.json", metrics)
        return RunResult(metrics, write_run_report(folder.path), stopped, folder.made)


def warm_up(run: RunContext) -> None:
    """One training on outside traces, which makes the weights of iteration 0."""
    outside.warmup_rows_stage(run)
    training.train_stage(run, 0)
    evaluating.parity_stage(run, 0)
    evaluating.evaluate_stage(run, 0, "dev")
    evaluating.accept_stage(run, 0)


def iterate(run: RunContext, iteration: int) -> None:
    """One iteration, stage by stage."""
    training.check_start(run, iteration)
    temperature.temperature_stage(run, iteration)
    sampling.sample_stage(run, iteration)
    sampling.judge_stage(run, iteration)
    sampling.rethink_stage(run, iteration)
    if run.config.training.prefers(iteration):
        pairing.pair_stage(run, iteration)
    else:
        rationalising.rationalise_stage(run, iteration)
        rewarding.reward_stage(run, iteration)
        building.build_stage(run, iteration)
    evaluating.dynamics_stage(run, iteration)
    training.train_stage(run, iteration)
    evaluating.parity_stage(run, iteration)
    evaluating.evaluate_stage(run, iteration, "dev")
    evaluating.accept_stage(run, iteration)
    keeping.after_iteration(run, iteration)


def finished_iterations(run: RunContext) -> list[int]:
    return [k for k in range(run.base, run.config.iters + 1) if run.folder.done(f"{folder_of(k)}/dev")]


def what_is_reused(finished: Sequence[str]) -> str:
    """`9 finished stages are reused, iteration 1 (sample, judge) the last`."""
    iterations = [int(name.partition("/")[0].removeprefix("iter")) for name in finished if name.startswith("iter")]
    last = max(iterations, default=0)
    of_last = ", ".join(name.partition("/")[2] for name in finished if name.startswith(f"iter{last}/"))
    plural = "s are" if len(finished) > 1 else " is"
    return f"{len(finished)} finished stage{plural} reused" + (f", of iteration {last}: {of_last}" if of_last else "")


def refuse_fewer(path: Path, iters: int) -> None:
    """RunError if a run has done more iterations than it is now told to make."""
    done = max((k for k, _ in iteration_files(path, "dev/stage.json")), default=0)
    if done > iters:
        raise RunError(
            f"{path} has done {done} iterations, and {iters} are asked for: dev would choose among fewer, and test "
            f"would be read for another one. Run it with --iters {done} or more; for a run of {iters}, choose another "
            "--output (samples in the bank are reused)"
        )


def iterations_to_test(config: Config, finished: Sequence[int], accepted: int) -> list[int]:
    """Whose weights are measured on test: nothing is chosen there, so it is read at the end alone."""
    if config.evaluation.test == "none":
        return []
    before = {k for k in finished if k <= 0}  # the base model, and the warm-up if there is one
    return list(finished) if config.evaluation.test == "all" else sorted(before | {accepted})
