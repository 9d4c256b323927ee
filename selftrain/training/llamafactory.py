"""Train on one set of examples, an adapter or all weights, by running LLaMA-Factory as a child program.

Preference pairs are trained on by DPO, or make a reward head; all other rows are trained on by SFT.
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
from data_process.schema import Example, shown
from selftrain.families import check_weights_family, family_of
from selftrain.files import file_digest
from selftrain.training import checkpoints as kept
from selftrain.training import launcher
from selftrain.training.adapter import WEIGHTS, AdapterError, check_adapter, check_head
from selftrain.training.checkpoints import Checkpoint
from selftrain.training.continuous import Interval, keep_state, start_folder, state_digests, steps_of
from selftrain.training.full import adopt
from selftrain.training.hyperparameters import (
    DATASET,
    Stage,
    TrainingError,
    TrainingSettings,
    read_hyperparameters,
    resolve,
)
from selftrain.training.launcher import log_end, run_child
from selftrain.training.open_turns import SCHEDULE
from selftrain.training.precision import link_base, stored_dtype, unlink_base
from selftrain.training.row_lengths import PreflightReport, preflight
from selftrain.training.weight_files import weights_files


@dataclass(frozen=True)
class TrainingResult:
    """Checked weights and how they came about."""

    weights: Path  # folder of an adapter, or of a whole checkpoint
    steps: int  # optimizer steps
    train_loss: float  # mean over the run
    rows: int  # trained on
    dropped: Counter[str]  # reason -> rows; rows + dropped is what was given
    masked: int  # tokens of attempts before a target, which carry no loss
    resolved: dict[str, Any]  # what stands in train.yaml
    state: dict[str, str] | None = None  # digests of the files in `out`/state, which the next interval inherits
    rewards: dict[str, float] | None = None  # of DPO: `mean_rewards`


def train(
    examples: Sequence[Example],
    *,
    settings: TrainingSettings,
    base_model: Path,
    image_path: Callable[[str], Path],
    out: Path,
    start: Path | None = None,
    image_limits: tuple[int, int],
    on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
    checkpoints: Path | None = None,
    interval: Interval | None = None,
    head: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> TrainingResult:
    """Train on `examples` into `out`, an empty or absent folder, and check the result: an adapter or a checkpoint.

    `image_path` maps an example's image to its canonical file; `image_limits` is the image store's (min, max) pixels.
    With `start`, an adapter (same rank and alpha) or a whole checkpoint, training starts from its weights with a new
    optimizer. `on_progress` gets
    each line of LLaMA-Factory's progress log: current_steps, total_steps, loss, lr, epoch, percentage.

    `checkpoints` is a folder that outlives `out`. If an interrupted training of the same rows with the same settings
    has left a whole checkpoint there, this one resumes from it (`settings.save_steps`). The caller removes the folder
    once the weights are in their final place. `say` gets a line for each checkpoint that is resumed or rejected.

    `interval`: this training is part of a longer one (continuous.py), and starts from the state that it names.
    `head`: preference pairs train a reward head and the adapter under it.

    Leaves `data/`, `train.yaml`, `train.log` and the result, `adapter/` or `weights/`, in `out`, and `state/` for the
    next interval. A checkpoint has the form of the one that was trained, see `full.adopt`. Raises HyperparameterError,
    DataError or (for `start`) AdapterError before anything is started, TrainingError when training itself goes wrong;
    an interrupt ends the child and travels on.
    """
    if out.exists() and any(out.iterdir()):
        # LLaMA-Factory would silently resume from a checkpoint it finds.
        raise TrainingError(f"{out} is not empty; training starts in a folder of its own, so remove it or name another")
    hyperparameters = read_hyperparameters(settings.hyperparameters, settings.overrides, settings.interpreter)
    if interval is not None:
        schedule = {SCHEDULE: str(interval.schedule_steps(hyperparameters))}
        at_the_end = steps_of(hyperparameters) if interval.kept else None
        changes = {"environment": settings.environment | schedule, "save_steps": settings.save_steps or at_the_end}
        settings = settings.model_copy(update=changes)
    family = family_of(base_model)
    if start is not None:
        check_weights_family(family, start)
    report = preflight(examples, base_model, image_path, settings.max_length, settings.max_dropped_share)
    out.mkdir(parents=True, exist_ok=True)
    trained_on, adapter = (start or base_model, None) if settings.full else (base_model, start)
    linked = None
    if settings.dtype not in ("base", stored_dtype(trained_on)):
        linked = link_base(trained_on, settings.dtype, out / f"base-{settings.dtype}")
    left = out / ("trained" if settings.full else settings.result)  # what LLaMA-Factory leaves
    history = any(example.history for example in report.kept)
    pairs = any(example.rejected for example in report.kept)
    stage: Stage = "sft" if not pairs else "rm" if head else "dpo"
    resolved = resolve(
        hyperparameters, settings, linked or trained_on, out, max(report.lengths), image_limits, adapter,
        output=checkpoints or left, history=history, family=family, stage=stage,
    )  # fmt: skip
    written = write_dataset(out / "data", DATASET, report.kept, lambda image: image_path(image).resolve(), history)
    if written["written"] != len(report.kept):  # the pre-flight applies the same rules, so this is a bug
        raise TrainingError(f"{len(report.kept)} rows passed the pre-flight, but the dataset has {dict(written)}")

    begin = None
    if interval is not None and interval.inherited is not None and start is not None:
        begin = start_folder(interval.inherited, start, out / "start", resolved)
    if checkpoints is None:
        point = None
        resume(point, settings, resolved, out, on_progress, None, say, begin)
    else:
        began: Any = file_digest(adapter / WEIGHTS) if adapter is not None else None
        if settings.full:
            began = {path.name: file_digest(path) for path in weights_files(trained_on)}
        rows = file_digest(out / "data" / f"{DATASET}.jsonl")
        free = ("report_to", "run_name", "project")  # where the loss is shown; nothing that is trained depends on it
        told = {name: value for name, value in resolved.items() if name not in free}
        attempt = {"settings": told, "ranks": settings.ranks, "rows": rows, "start": began}
        if interval is not None:
            inherited = state_digests(interval.inherited) if interval.inherited else None
            attempt |= {"schedule": settings.environment[SCHEDULE], "inherited": inherited}
        with kept.holding(checkpoints, 2 * launcher.STOP_GRACE) as held:
            point = kept.resume_point(checkpoints, attempt, settings.ranks, say)
            resume(point, settings, resolved, out, on_progress, held, say, begin)
            collect(checkpoints, point, left)

    log = out / "train.log"
    state = None
    if interval is not None and interval.kept:
        state = keep_last_state(checkpoints or left, settings.ranks, out / "state", log)
    if begin is not None:
        shutil.rmtree(begin)  # its links lead to what will be removed
    for path in left.glob(f"{kept.PREFIX}*"):  # of a training whose checkpoints nobody asked to keep
        shutil.rmtree(path)
    try:
        if settings.full:
            adopt(left, trained_on, out / settings.result)
        else:
            check_adapter(left)
        if stage == "rm":
            check_head(left)
        if linked:
            unlink_base(linked, base_model, None if settings.full else left)
        steps, loss = read_results(left, point)
        rewards = mean_rewards(left) if stage == "dpo" else None
        if settings.full:
            shutil.rmtree(left)
    except (AdapterError, TrainingError) as error:
        if checkpoints:  # they lead to the same weights again
            kept.discard(checkpoints)
        raise TrainingError(f"{error}\n{log_end(log)}") from error
    check_rows(report, resolved, log)
    masked = sum(report.masked)
    weights = out / settings.result
    return TrainingResult(
        weights, steps, loss, len(report.kept), report.dropped, masked, resolved, state=state, rewards=rewards
    )


def resume(
    point: Checkpoint | None,
    settings: TrainingSettings,
    resolved: dict[str, Any],
    out: Path,
    on_progress: Callable[[dict[str, Any]], None],
    held: int | None,
    say: Callable[[str], None],
    begin: Path | None = None,
) -> None:
    """Train from a checkpoint, or from the start without one; run nothing if it is the last. Adds to `resolved`.

    `begin`: a checkpoint of step 0, where an interval starts.
    """
    if begin is not None:
        resolved["resume_from_checkpoint"] = str(begin.resolve())
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


def keep_last_state(checkpoints: Path, ranks: int, state: Path, log: Path) -> dict[str, str]:
    """Copy the state of the last checkpoint to `state`; its digests. TrainingError if there is no whole one."""
    said: list[str] = []
    last = kept.newest_whole(checkpoints, ranks, said.append)
    if last is None or not last.last:
        raise TrainingError("\n".join(["LLaMA-Factory left no checkpoint of its last step", *said, log_end(log)]))
    return keep_state(last.path, state)


def collect(checkpoints: Path, point: Checkpoint | None, trained: Path) -> None:
    """Move the files of the finished training out of the folder of checkpoints; the checkpoints stay.

    If `point` is the last checkpoint of its training, nothing was run and its weights are the result.
    """
    if point is not None and point.last:
        shutil.copytree(point.path, trained, ignore=shutil.ignore_patterns(*kept.TRAINER_FILES))
        return
    trained.mkdir()
    for path in checkpoints.iterdir():
        if path.name not in (kept.ATTEMPT, kept.LOCK) and not path.name.startswith(kept.PREFIX):
            path.replace(trained / path.name)


# What reading a log of the trainer raises that is missing or of another form.
_MALFORMED = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def read_results(trained: Path, point: Checkpoint | None = None) -> tuple[int, float]:
    """Optimizer steps and mean loss. TrainingError if they are missing, or the loss is not a finite number.

    After resuming from `point`, the mean is taken over the logged losses: LLaMA-Factory's own divides the sum over the
    steps since then by all steps.
    """
    try:
        state = json.loads((trained / "trainer_state.json").read_text(encoding="utf-8"))
        steps = int(state["global_step"])
        if point is not None:
            loss = mean_loss(state["log_history"])
        else:
            loss = float(json.loads((trained / "train_results.json").read_text(encoding="utf-8"))["train_loss"])
    except _MALFORMED as error:
        raise TrainingError(f"LLaMA-Factory left no results in {trained} ({shown(error)})") from error
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


def mean_rewards(adapter: Path) -> dict[str, float]:
    """Over the last quarter of the logged steps of a DPO, on the rows of each step before its update.

    "accuracy": share of pairs whose target has a higher implicit reward than the rejected one; the reward is beta times
    the log-ratio of the trained model to the reference (arXiv 2305.18290, equation 5). "margin": mean difference of the
    two. TrainingError if the trainer logged none.
    """
    log = adapter / "trainer_state.json"
    names = {"accuracy": "rewards/accuracies", "margin": "rewards/margins"}
    try:
        history = json.loads(log.read_text(encoding="utf-8"))["log_history"]
        logged = [entry for entry in history if "rewards/accuracies" in entry]
        last = logged[-max(1, len(logged) // 4) :]
        return {name: sum(float(entry[key]) for entry in last) / len(last) for name, key in names.items()}
    except ZeroDivisionError:
        raise TrainingError(f"LLaMA-Factory logged no rewards in {log}") from None
    except _MALFORMED as error:
        raise TrainingError(f"{log} is not a log of LLaMA-Factory ({shown(error)})") from error


def check_rows(report: PreflightReport, resolved: Mapping[str, Any], log: Path) -> None:
    """TrainingError if LLaMA-Factory trained on fewer rows than it was given: it drops some with a warning."""
    if resolved["packing"] or resolved.get("neat_packing") or not log.is_file():
        return  # its count is of packs, or nothing was left to train
    found = re.findall(r"Num examples = ([\d,]+)", log.read_text(encoding="utf-8", errors="replace"))
    if found and int(found[-1].replace(",", "")) != len(report.kept):
        raise TrainingError(f"LLaMA-Factory trained on {found[-1]} rows of {len(report.kept)}\n{log_end(log)}")
