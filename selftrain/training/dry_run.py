"""From a run's settings to those of a training, and what that training will do, in words, before it does it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrain.config import Config
from selftrain.training.hyperparameters import TrainingError, TrainingSettings, read_hyperparameters, split
from selftrain.training.launcher import launched_command, pinned_environment, train_command


def settings_of(config: Config, seed: int, overrides: Mapping[str, Any] | None = None) -> TrainingSettings:
    """The training settings of a run; `overrides` go on top of the run's hyper-parameters."""
    settings = config.training
    return TrainingSettings(
        hyperparameters=settings.hyperparameters,
        overrides={**settings.overrides, **(overrides or {})},
        per_device_batch=settings.per_device_batch,
        processes=settings.processes,
        nodes=settings.nodes,
        launcher=settings.launcher,
        master=settings.master,
        save_steps=settings.save_steps,
        # Absolute, because LLaMA-Factory runs in another folder; links stay, or a virtual environment would be left.
        interpreter=Path(os.path.abspath(settings.interpreter or sys.executable)),
        seed=seed % 2**31,
        max_length=settings.max_length,
        max_dropped_share=settings.max_dropped_share,
        threads=settings.threads or max(1, (os.cpu_count() or 1) // settings.processes),
    )


def training_plan(config: Config) -> list[str]:
    """Batch, commands and variables of an iteration's training, a line each; no training is started.

    The interpreter is asked where LLaMA-Factory is; if it cannot say (on another machine than the run's, for instance),
    a line tells that. HyperparameterError for settings that no training would start with.
    """
    if not config.engine.has_model:
        return ["rehearsal: nothing is trained"]
    settings = settings_of(config, config.seed)
    out = config.output / "iter1" / "train.partial" / "work"
    lines = []
    try:
        chosen = read_hyperparameters(settings.hyperparameters, settings.overrides, settings.interpreter)
    except TrainingError as error:
        lines.append(f"hyper-parameters not checked: {error}")
        chosen = {}
    else:
        lines.append(
            f"{chosen['global_batch_size']} rows a step = {settings.per_device_batch} at a time x "
            f"{settings.processes} processes x {settings.nodes} nodes x {split(chosen, settings)} accumulated"
        )
    environment = pinned_environment(settings, chosen, out)
    if settings.launcher:
        environment["NNODES"] = str(settings.nodes)
        lines.append(shlex.join(launched_command(settings, out / "nodes-ID" / "launch.json")))
        lines.append("and on each node, with NODE_RANK, MASTER_ADDR and MASTER_PORT as it finds them:")
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(environment.items()))
    lines.append(f"cd {shlex.quote(str(out))} && {variables} {shlex.join(train_command(settings))}")
    lines.append(
        f"a checkpoint every {settings.save_steps} steps, from the last of which an interrupted training goes on"
        if settings.save_steps
        else "no checkpoints: an interrupted training starts anew (training.save_steps)"
    )
    return lines
