"""The room that full fine-tuning takes on a disk: planned, printed and checked before anything is computed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrain.config import Config
from selftrain.files import RunError
from selftrain.training.hyperparameters import read_hyperparameters, zero_settings
from selftrain.training.precision import interpreter_of
from selftrain.training.weight_files import header_of, weights_bytes, weights_files

ADAM = 8  # bytes a number: two float32 moments
MASTER = 4  # bytes a number: DeepSpeed's own float32 copy of 16-bit weights
GIB = 1024**3


@dataclass(frozen=True)
class DiskPlan:
    """Bytes that a run's weights take at the most, all at one time."""

    place: Path  # run folder
    keep: str  # training.keep_weights
    sets: int  # of weights, the one that is being written included
    each: int  # bytes of one, which are those of the base
    trainer: int  # what the trainer writes before it is rounded to the form of the base
    checkpoints: int  # of training.save_steps: the newest one, and the one before until that is whole
    present: int  # of all this, already there from an interrupted run
    # Of training.restart continuous: two optimizer states, or three with acceptance.rollback, and a checkpoint at the
    # end of a training.
    states: int = 0

    @property
    def needed(self) -> int:
        """Bytes that are still to be written."""
        return max(0, self.sets * self.each + self.trainer + self.checkpoints + self.states - self.present)

    def __str__(self) -> str:
        parts = [
            f"{self.sets} x {_gib(self.each)} of weights (training.keep_weights: {self.keep})",
            f"{_gib(self.trainer)} that the trainer writes before they are rounded",
        ]
        if self.checkpoints:
            parts.append(f"{_gib(self.checkpoints)} of checkpoints (training.save_steps)")
        if self.states:
            parts.append(f"{_gib(self.states)} of optimizer states (training.restart: continuous)")
        there = f" - {_gib(self.present)} that are there" if self.present else ""
        return f"disk: {' + '.join(parts)}{there} = {_gib(self.needed)} in {self.place}"


def disk_plan(config: Config, iterations: int | None = None) -> DiskPlan | None:
    """What the weights of a run take on its disk; None where an adapter or nothing is trained.

    `iterations`: trainings, those of the run if it is None. With `keep_weights` other than "all", three sets are there
    at the most: the best one, the last one and the one that is being written; a fourth where training restarts from a
    warm-up. A checkpoint holds weights and optimizer. RunError if the base is not there in safetensors files.
    """
    training, base = config.training, config.model.path
    if not (config.engine.has_model and training.full):
        return None
    try:
        entries = [entry for file in weights_files(base) for entry in header_of(file)[1].values()]
    except (OSError, ValueError) as error:
        raise RunError(
            f"full fine-tuning needs the base as safetensors files: {error}; set model.path to a whole checkpoint"
        ) from error
    numbers = sum(math.prod(entry["shape"]) for entry in entries)
    stage = _zero_stage(read_hyperparameters(training.hyperparameters, training.overrides, interpreter_of(training)))
    width = 2 if stage == 3 and training.dtype != "float32" else 4
    saved = numbers * (width + ADAM + (MASTER if stage else 0))
    # A warm-up is a training more; where every iteration restarts from it, its weights stay besides the others.
    count = config.iters + bool(config.warmup) if iterations is None else iterations
    most = 3 + (training.restart == "warmup")
    output = config.output
    states = 0
    if training.restart == "continuous" and iterations is None:
        kept = 2 + config.acceptance.rollback
        states = kept * (saved if stage else numbers * ADAM) + (0 if training.save_steps else saved)
    return DiskPlan(
        place=output,
        keep=training.keep_weights,
        sets=count if training.keep_weights == "all" else min(count, most),
        each=weights_bytes(base),
        trainer=numbers * width,
        checkpoints=2 * saved if training.save_steps else 0,
        present=sum(map(_size, (*output.glob("**/train/weights"), *output.glob("**/train.checkpoints")))),
        states=states,
    )


def check_room(plan: DiskPlan) -> None:
    """RunError with the arithmetic unless what a plan still needs is free."""
    place = plan.place.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < plan.needed:
        advice = ", or set training.keep_weights to accepted or last" if plan.keep == "all" and plan.sets > 3 else ""
        raise RunError(
            f"not enough disk for full weights: {plan}; {_gib(free)} are free at {place}. Free some, or name a folder "
            f"on a larger disk with --output{advice}"
        )


def _zero_stage(hyperparameters: Mapping[str, Any]) -> int:
    """The stage of DeepSpeed's ZeRO; 0 without DeepSpeed. A stage-3 training leaves weights of 16 bits."""
    return int(zero_settings(hyperparameters.get("deepspeed")).get("stage", 0))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 1024**2:.1f} MiB"
