"""The settings of a run's training, and the plan that `--dry-run` prints."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from selftrain.config import Config, TrainingConfig
from selftrain.environment import DeviceError, usable_threads
from selftrain.families import QWEN2_VL, FamilyError
from selftrain.files import RunError
from selftrain.training.continuous import steps_of
from selftrain.training.disk import disk_plan
from selftrain.training.hyperparameters import (
    Stage,
    TrainingError,
    TrainingSettings,
    accumulation_steps,
    check_method,
    read_hyperparameters,
)
from selftrain.training.launcher import launched_command, pinned_environment, train_command
from selftrain.training.open_turns import SCHEDULE, opened
from selftrain.training.precision import choose, interpreter_of, settle


def settings_of(config: Config, seed: int, overrides: Mapping[str, Any] | None = None) -> TrainingSettings:
    """The training settings of a run; `overrides` replace values of its hyper-parameters."""
    training = config.training
    decided = {
        "overrides": {**training.overrides, **(overrides or {})},
        "interpreter": interpreter_of(training),
        "dtype": choose(training, config.model.path).dtype,
        "threads": usable_threads(training.threads or max(1, (os.cpu_count() or 1) // training.processes)),
        "seed": seed % 2**31,
    }
    return TrainingSettings.model_validate(training.model_dump() | decided)


def _hyperparameters(training: TrainingConfig, stage: Stage) -> dict[str, Any]:
    """Those of a stage. HyperparameterError if they cannot be used."""
    overrides = {**training.overrides, **(training.dpo.overrides if stage == "dpo" else {})}
    chosen = read_hyperparameters(training.hyperparameters, overrides, interpreter_of(training))
    check_method(chosen, stage)
    return chosen


def disk_line(config: Config, iterations: int | None) -> list[str]:
    """A line on the room that full weights take, if they are trained; it says so where the base is not here."""
    try:
        room = disk_plan(config, iterations)
    except RunError as error:
        return [f"disk: not known here: {error}"]
    return [] if room is None else [str(room)]


def gpu_lines(config: Config, given: bool, pairs: bool = False) -> list[str]:
    """Lines on GPU memory and hours, if the configuration names a GPU. `given`: one training on given rows or pairs."""
    from selftrain.estimate.fit import estimate, lines

    if config.gpu is None:
        return []
    try:
        return list(lines(config, estimate(config, given, pairs=pairs)))
    except FamilyError as error:
        return [f"GPU memory: not estimated: {error}"]


def check_gpus(config: Config) -> None:
    """RunError, with the sum, if a training on given rows cannot fit on the GPUs that the configuration names.

    What depends on the lengths of rows refuses nothing.
    """
    from selftrain.estimate.fit import estimate, fits

    if config.gpu is None:
        return
    found = estimate(config, given=True).memories.items()
    for name, memory in found:
        state, advice = fits(name, memory, config.gpu.memory_gib, config.gpu.count)
        if state == "fail":
            raise RunError(f"{memory}: {advice}; or correct gpu: in the configuration")


def training_plan(
    config: Config, stage: str = "iter1/train", iterations: int | None = None, *, head: bool = False
) -> list[str]:
    """Batch, commands, variables and room on the disk of a training, a line each; no training is started.

    `stage`: of the run folder, in which it would run. `iterations`: trainings, None is those of the run. `head`: of a
    reward head.

    The interpreter is asked where LLaMA-Factory is; if it cannot say (on another machine than the run's, for instance),
    a line says so. HyperparameterError for settings that no training would start with.
    """
    if not config.engine.has_model:
        return ["rehearsal: nothing is trained"]
    training = config.training
    out = config.output / f"{stage}.partial" / "work"
    lines, of_one = [], None
    try:
        config, precision = settle(config)
        settings = settings_of(config, config.seed)
        if training.method == "dpo":
            first = training.dpo.sft_iterations + 1
            lines.append(f"DPO in iteration {first} and later, starting from the {training.starts_from(first)} weights")
            chosen = _hyperparameters(training, "dpo")
            accumulation_steps(chosen, settings)
        if not training.prefers(1):
            chosen = _hyperparameters(training, "rm" if head else "sft")
        steps = accumulation_steps(chosen, settings)
        of_one = steps_of(chosen) if training.restart == "continuous" and iterations is None else None
        lines.append(
            f"{chosen['global_batch_size']} rows per step = {settings.per_device_batch} at a time x "
            f"{settings.processes} processes x {settings.nodes} nodes x {steps} accumulated"
        )
        lines.append(str(precision))
        if of_one is not None:
            lines.append(
                f"one schedule of {config.iters * of_one} steps = {config.iters} iterations x {of_one}; the state of "
                "the optimizer goes on from iteration to iteration"
            )
        lines += disk_line(config, iterations)
    except (TrainingError, DeviceError) as error:
        lines.append(f"hyper-parameters not checked: {error}")
        chosen = {}
        unknown = training.model_copy(update={"dtype": "base"})
        settings = settings_of(config.model_copy(update={"training": unknown}), config.seed)
    if of_one is not None:
        settings = settings.model_copy(update={"environment": {SCHEDULE: str(config.iters * of_one)}})
    environment = pinned_environment(settings, chosen, out)
    if config.build.parts.reflect and not training.prefers(1):
        chosen = {**chosen, "template": opened(QWEN2_VL.template)}  # the command is the same for every family
    if settings.launcher:
        environment["NNODES"] = str(settings.nodes)
        lines.append(shlex.join(launched_command(settings, chosen, out / "nodes-ID" / "launch.json")))
        lines.append("and on each node, with NODE_RANK, MASTER_ADDR and MASTER_PORT as it finds them:")
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(environment.items()))
    lines.append(f"cd {shlex.quote(str(out))} && {variables} {shlex.join(train_command(settings, chosen))}")
    resumes = "no checkpoints: an interrupted training starts again (set training.save_steps to keep some)"
    if head:
        resumes = "no checkpoints: LLaMA-Factory cannot resume a reward head's training; interrupted, it starts again"
    elif settings.save_steps:
        resumes = f"a checkpoint every {settings.save_steps} steps, from which an interrupted training resumes"
    return [*lines, resumes, *gpu_lines(config, stage == "train", head)]
