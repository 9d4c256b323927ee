"""Train one LoRA adapter on one set of examples, by running LLaMA-Factory as a child program.

Nothing outside the stage folder and the folder of its checkpoints is written. Works with LLaMA-Factory 0.9.5; the
remarks on it below were read in, or measured on, that version.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_process.building.sharegpt import write_dataset
from data_process.schema import Example
from selftrain.files import file_digest
from selftrain.training import checkpoints as kept
from selftrain.training import launcher
from selftrain.training.adapter import WEIGHTS, AdapterError, check_adapter
from selftrain.training.checkpoints import Checkpoint
from selftrain.training.hyperparameters import DATASET, TrainingError, TrainingSettings, read_hyperparameters, resolve
from selftrain.training.launcher import log_end, run_child
from selftrain.training.precision import link_base, stored_dtype, unlink_base
from selftrain.training.row_lengths import PreflightReport, preflight


@dataclass(frozen=True)
class TrainingResult:
    """A checked adapter and how it came about."""

    adapter: Path
    steps: int  # optimizer steps
    train_loss: float  # mean over the run
    rows: int  # trained on
    dropped: Counter[str]  # reason -> rows; rows + dropped is what was given
    masked: int  # tokens of attempts before a target, which carry no loss
    resolved: dict[str, Any]  # what stands in train.yaml


def train(
    examples: Sequence[Example],
    *,
    settings: TrainingSettings,
    base_model: Path,
    image_path: Callable[[str], Path],
    out: Path,
    init_adapter: Path | None = None,
    image_limits: tuple[int, int],
    on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
    checkpoints: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> TrainingResult:
    """Train a LoRA adapter on `examples` into `out`, an empty or absent folder, and check it.

    `image_path` maps an example's image to its canonical file; `image_limits` is the image store's (min, max) pixels.
    With `init_adapter`, training starts from its weights (same rank and alpha) with a new optimizer. `on_progress` gets
    each line of LLaMA-Factory's progress log: current_steps, total_steps, loss, lr, epoch, percentage.

    `checkpoints` is a folder that outlives `out`. If an interrupted training of the same rows with the same settings
    has left a whole checkpoint there, this one resumes from it (`settings.save_steps`). The caller removes the folder
    once the adapter is in its final place. `say` gets a line for each checkpoint that is resumed or rejected.

    Leaves `data/`, `train.yaml`, `train.log` and `adapter/` in `out`. Raises HyperparameterError, DataError or (for
    `init_adapter`) AdapterError before anything is started, TrainingError when training itself goes wrong; an interrupt
    ends the child and travels on.
    """
    if out.exists() and any(out.iterdir()):
        # LLaMA-Factory would silently resume from a checkpoint it finds.
        raise TrainingError(f"{out} is not empty; training starts in a folder of its own, so remove it or name another")
    hyperparameters = read_hyperparameters(settings.hyperparameters, settings.overrides, settings.interpreter)
    report = preflight(examples, base_model, image_path, settings.max_length, settings.max_dropped_share)
    out.mkdir(parents=True, exist_ok=True)
    linked = None
    if settings.dtype not in ("base", stored_dtype(base_model)):
        linked = link_base(base_model, settings.dtype, out / f"base-{settings.dtype}")
    model, longest = linked or base_model, max(report.lengths)
    history = any(example.history for example in report.kept)
    resolved = resolve(
        hyperparameters, settings, model, out, longest, image_limits, init_adapter, output=checkpoints, history=history
    )
    written = write_dataset(out / "data", DATASET, report.kept, lambda image: image_path(image).resolve(), history)
    if written["written"] != len(report.kept):  # the pre-flight applies the same rules, so this is a bug
        raise TrainingError(f"{len(report.kept)} rows passed the pre-flight, but the dataset has {dict(written)}")

    if checkpoints is None:
        point = None
        resume(point, settings, resolved, out, on_progress, None, say)
    else:
        start = file_digest(init_adapter / WEIGHTS) if init_adapter else None
        rows = file_digest(out / "data" / f"{DATASET}.jsonl")
        attempt = {"settings": resolved, "ranks": settings.ranks, "rows": rows, "start": start}
        with kept.holding(checkpoints, 2 * launcher.STOP_GRACE) as held:
            point = kept.resume_point(checkpoints, attempt, settings.ranks, say)
            resume(point, settings, resolved, out, on_progress, held, say)
            collect(checkpoints, point, out / "adapter")

    adapter, log = out / "adapter", out / "train.log"
    for path in adapter.glob(f"{kept.PREFIX}*"):  # of a training whose checkpoints nobody asked to keep
        shutil.rmtree(path)
    try:
        check_adapter(adapter)
        if linked:
            unlink_base(linked, base_model, adapter)
        steps, loss = read_results(adapter, point)
    except (AdapterError, TrainingError) as error:
        if checkpoints:  # they lead to the same adapter again
            kept.discard(checkpoints)
        raise TrainingError(f"{error}\n{log_end(log)}") from error
    check_rows(report, resolved, log)
    return TrainingResult(adapter, steps, loss, len(report.kept), report.dropped, sum(report.masked), resolved)


def resume(
    point: Checkpoint | None,
    settings: TrainingSettings,
    resolved: dict[str, Any],
    out: Path,
    on_progress: Callable[[dict[str, Any]], None],
    held: int | None,
    say: Callable[[str], None],
) -> None:
    """Train from a checkpoint, or from the start without one; run nothing if it is the last. Adds to `resolved`."""
    if point is not None:
        resolved["resume_from_checkpoint"] = str(point.path.resolve())
        say(f"  resuming the interrupted training after step {point.step} of {point.max_steps}")
    (out / "train.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if point is not None and point.last:
        return
    try:
        run_child(settings, resolved, out, on_progress, held)
    except TrainingError as error:
        if point is None:
            raise
        raise TrainingError(
            f"{error}\nThis training had resumed from {point.path}. If it fails again, remove {point.path.parent}; the "
            "training then starts again"
        ) from error


def collect(checkpoints: Path, point: Checkpoint | None, adapter: Path) -> None:
    """Move the files of the finished adapter out of the folder of checkpoints; the checkpoints stay.

    If `point` is the last checkpoint of its training, nothing was run and its adapter is the result.
    """
    if point is not None and point.last:
        shutil.copytree(point.path, adapter, ignore=shutil.ignore_patterns(*kept.TRAINER_FILES))
        return
    adapter.mkdir()
    for path in checkpoints.iterdir():
        if path.name not in (kept.ATTEMPT, kept.LOCK) and not path.name.startswith(kept.PREFIX):
            path.replace(adapter / path.name)


def read_results(adapter: Path, point: Checkpoint | None = None) -> tuple[int, float]:
    """Optimizer steps and mean loss. TrainingError if they are missing, or the loss is not a finite number.

    After resuming from `point`, the mean is taken over the logged losses: LLaMA-Factory's own divides the sum over the
    steps since then by all steps.
    """
    try:
        state = json.loads((adapter / "trainer_state.json").read_text(encoding="utf-8"))
        steps = int(state["global_step"])
        if point is not None:
            loss = mean_loss(state["log_history"])
        else:
            loss = float(json.loads((adapter / "train_results.json").read_text(encoding="utf-8"))["train_loss"])
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"LLaMA-Factory left no results in {adapter} ({error!r})") from error
    if not math.isfinite(loss) or steps < 1:
        raise TrainingError(f"training did not converge: loss {loss} after {steps} steps")
    return steps, loss


def mean_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the steps of the losses that the trainer logged, each of which stands for the steps since the last."""
    total, done = 0.0, 0
    for entry in (entry for entry in history if "loss" in entry):
        total += float(entry["loss"]) * (entry["step"] - done)
        done = entry["step"]
    if not done:
        raise ValueError("no loss was logged")
    return total / done


def check_rows(report: PreflightReport, resolved: Mapping[str, Any], log: Path) -> None:
    """TrainingError if LLaMA-Factory trained on fewer rows than it was given: it drops some with a warning."""
    if resolved["packing"] or resolved.get("neat_packing") or not log.is_file():
        return  # its count is of packs, or nothing was left to train
    found = re.findall(r"Num examples = ([\d,]+)", log.read_text(encoding="utf-8", errors="replace"))
    if found and int(found[-1].replace(",", "")) != len(report.kept):
        raise TrainingError(f"LLaMA-Factory trained on {found[-1]} rows of {len(report.kept)}\n{log_end(log)}")
