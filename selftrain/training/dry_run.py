"""The settings of a run's training, and the plan that `--dry-run` prints."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from selftrain.config import Config
from selftrain.environment import DeviceError
from selftrain.training.hyperparameters import TrainingError, TrainingSettings, accumulation_steps, read_hyperparameters
from selftrain.training.launcher import launched_command, pinned_environment, train_command
from selftrain.training.open_turns import TEMPLATE
from selftrain.training.precision import choose, interpreter_of, settle


def settings_of(config: Config, seed: int, overrides: Mapping[str, Any] | None = None) -> TrainingSettings:
    """The training settings of a run; `overrides` replace values of its hyper-parameters."""
    training = config.training
    decided = {
        "overrides": {**training.overrides, **(overrides or {})},
        "interpreter": interpreter_of(training),
        "dtype": choose(training, config.model.path).dtype,
        "threads": training.threads or max(1, (os.cpu_count() or 1) // training.processes),
        "seed": seed % 2**31,
    }
    return TrainingSettings.model_validate(training.model_dump() | decided)


def training_plan(config: Config) -> list[str]:
    """Batch, commands and variables of an iteration's training, a line each; no training is started.

    The interpreter is asked where LLaMA-Factory is; if it cannot say (on another machine than the run's, for instance),
    a line says so. HyperparameterError for settings that no training would start with.
    """
    if not config.engine.has_model:
        return ["rehearsal: nothing is trained"]
    training = config.training
    out = config.output / "iter1" / "train.partial" / "work"
    lines = []
    try:
        chosen = read_hyperparameters(training.hyperparameters, training.overrides, interpreter_of(training))
        config, precision = settle(config)
        settings = settings_of(config, config.seed)
        steps = accumulation_steps(chosen, settings)
        lines.append(
            f"{chosen['global_batch_size']} rows per step = {settings.per_device_batch} at a time x "
            f"{settings.processes} processes x {settings.nodes} nodes x {steps} accumulated"
        )
        lines.append(str(precision))
    except (TrainingError, DeviceError) as error:
        lines.append(f"hyper-parameters not checked: {error}")
        chosen = {}
        unknown = training.model_copy(update={"dtype": "base"})
        settings = settings_of(config.model_copy(update={"training": unknown}), config.seed)
    environment = pinned_environment(settings, chosen, out)
    if config.build.parts.reflect:
        chosen = {**chosen, "template": TEMPLATE}
    if settings.launcher:
        environment["NNODES"] = str(settings.nodes)
        lines.append(shlex.join(launched_command(settings, chosen, out / "nodes-ID" / "launch.json")))
        lines.append("and on each node, with NODE_RANK, MASTER_ADDR and MASTER_PORT as it finds them:")
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(environment.items()))
    lines.append(f"cd {shlex.quote(str(out))} && {variables} {shlex.join(train_command(settings, chosen))}")
    if settings.save_steps:
        return [*lines, f"a checkpoint every {settings.save_steps} steps, from which an interrupted training resumes"]
    return [*lines, "no checkpoints: an interrupted training starts again (set training.save_steps to keep some)"]
