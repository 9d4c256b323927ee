"""Continuous training (M-STaR, arXiv 2412.17451): weights, optimizer and schedule go on over all iterations.

Each iteration is an interval of one long training. It trains the same number of optimizer steps on its own rows, from
the weights and the optimizer state with which the interval before it ended, and the learning rate follows one schedule
of all intervals. LLaMA-Factory resumes: an interval starts from a folder that looks like a checkpoint of step 0. So
steps, epochs and the order of rows count from the start of the interval, and an interrupted interval resumes from its
own checkpoints as any training does.

Between two iterations `train/state` of the first one holds what the weights lack: the optimizer (two numbers for each
trained one) and the scheduler. It is removed when the second one is trained.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrain.files import RunError, file_digest, read_json, write_json
from selftrain.training.adapter import CONFIG, WEIGHTS
from selftrain.training.checkpoints import TRAINER_FILES
from selftrain.training.hyperparameters import HyperparameterError
from selftrain.training.weight_files import weights_files

TRAINER_STATE = "trainer_state.json"
# Of a checkpoint's files, those that an interval inherits. Random states are not among them: an iteration's draws have
# their own seeds.
INHERITED = tuple(pattern for pattern in TRAINER_FILES if not pattern.startswith("rng_state"))


@dataclass(frozen=True)
class Interval:
    """One iteration's part of a continuous training."""

    intervals: int  # of the whole training
    inherited: Path | None  # the state of the interval before; None for the first one
    kept: bool  # whether the next interval needs the state of this one

    def schedule_steps(self, hyperparameters: Mapping[str, Any]) -> int:
        """Optimizer steps of all intervals. HyperparameterError if the hyper-parameters leave them open."""
        return self.intervals * steps_of(hyperparameters)


def steps_of(hyperparameters: Mapping[str, Any]) -> int:
    """Optimizer steps of one interval. HyperparameterError where they are not known from the start, or with FSDP."""
    steps = hyperparameters.get("max_steps")
    if type(steps) is not int or steps < 1:
        raise HyperparameterError(
            f"training.restart continuous has one schedule over all iterations, so each needs a number of steps, but "
            f"max_steps is {steps!r}; set training.overrides.max_steps to the steps of one iteration"
        )
    if hyperparameters.get("fsdp"):
        raise HyperparameterError(
            "training.restart continuous cannot be used with fsdp: from an adapter's FSDP checkpoint, accelerate 1.11 "
            "restores other weights than it saved; use deepspeed"
        )
    return steps


def start_folder(inherited: Path, weights: Path, folder: Path, resolved: Mapping[str, Any]) -> Path:
    """Make `folder` a checkpoint of step 0: links to an adapter or a checkpoint, and to the inherited state."""
    folder.mkdir(parents=True)
    adapter = [weights / WEIGHTS, weights / CONFIG]
    for path in [*(adapter if adapter[0].exists() else weights_files(weights)), *inherited.iterdir()]:
        if path.name != TRAINER_STATE:
            (folder / path.name).symlink_to(path.resolve())
    # The trainer takes its intervals of logging and saving from here; shares of the steps it would have resolved.
    every = {key: resolved[key] for key in ("logging_steps", "save_steps") if key in resolved}
    every = {key: value if value >= 1 else math.ceil(value * resolved["max_steps"]) for key, value in every.items()}
    write_json(folder / TRAINER_STATE, {**read_json(inherited / TRAINER_STATE), **every, "global_step": 0})
    return folder


def keep_state(checkpoint: Path, folder: Path) -> dict[str, str]:
    """Copy what the next interval inherits out of an interval's last checkpoint; returns the files' digests."""
    folder.mkdir()
    for path in sorted(found for pattern in INHERITED for found in checkpoint.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    state = read_json(checkpoint / TRAINER_STATE)
    # What the trainer needs of a checkpoint besides the step.
    write_json(folder / TRAINER_STATE, {key: state[key] for key in ("train_batch_size", "stateful_callbacks")})
    return state_digests(folder)


def state_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a kept state, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def check_state(folder: Path, recorded: Mapping[str, str] | None) -> None:
    """RunError unless a kept state is what its stage wrote. `recorded`: the digests in that stage's `result.json`."""
    advice = "restore it from a copy, or choose another --output to start again (samples in the bank are reused)"
    if not recorded:
        raise RunError(f"{folder.parent} was trained without keeping its optimizer state; {advice}")
    found = state_digests(folder) if folder.is_dir() else {}
    for name, digest in recorded.items():
        if name not in found:
            raise RunError(
                f"continuous training goes on from the optimizer state of the iteration before, but {folder / name} is "
                f"missing; {advice}"
            )
        if found[name] != digest:
            raise RunError(f"{folder / name} is not what the training wrote; {advice}")
