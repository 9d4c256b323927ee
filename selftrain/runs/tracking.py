"""A run's results in TensorBoard, wandb and trackio, through their own libraries.

The run folder stays the record: everything here is read from it. `tracked.json` says what was sent, so that a resumed
run sends nothing twice and what could not be sent goes out later.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from selftrain.config import Config
from selftrain.files import Record, write_json
from selftrain.runs.metrics import EVALUATED, Iteration, iteration_of
from selftrain.runs.run_dir import BASE, RunDir, folder_of

FILE = "tracked.json"


class Tracked(Record):
    """`tracked.json`: what the trackers know this run by, and the stages whose results each of them has."""

    id: str
    sent: Mapping[str, tuple[str, ...]] = {}


class Point(NamedTuple):
    """The results of one stage."""

    stage: str  # "iter1/dev"
    iteration: int
    values: dict[str, float]


def points(folder: RunDir) -> Iterator[Point]:
    """The results that lie in a run folder, in order of iterations. Accuracies and shares are fractions of 1."""
    k = BASE if folder.done(f"{folder_of(BASE)}/dev") else 0
    while folder.done(f"{folder_of(k)}/dev"):
        row, name = iteration_of(folder, k), folder_of(k)
        if row.train is not None:
            yield Point(f"{name}/train", k, _training(row))
        for split in EVALUATED:
            if split in row.evaluation:
                yield Point(f"{name}/{split}", k, _accuracy(row, split))
        k += 1


def _training(row: Iteration) -> dict[str, float]:
    train = row.train
    if train is None:
        return {}
    rows, dropped = sum(train.examples.values()), sum(train.dropped.values())
    values: dict[str, float | None] = {
        "train/rows": rows, "train/share_kept": rows / (rows + dropped) if rows else 0.0,
        "train/steps": train.steps, "train/loss": train.train_loss, "sampling/candidates": train.candidates,
    }  # fmt: skip
    for name in ("correct", "wrong", "abstain", "truncated"):
        count = getattr(train, name)
        values[f"sampling/{name}"] = count / train.candidates if train.candidates and count is not None else None
    return {name: float(value) for name, value in values.items() if value is not None}


def _accuracy(row: Iteration, split: str) -> dict[str, float]:
    values = {}
    for strategy, score in row.evaluation[split].strategies.items():
        values[f"{split}/{strategy}"] = score.accuracy
        if score.tokens_per_problem.generated is not None:
            values[f"{split}_tokens/{strategy}"] = score.tokens_per_problem.generated  # per problem
    return values


def project(tracker: str) -> str:
    return os.environ.get(f"{tracker.upper()}_PROJECT", "selftrain")


def _tensorboard(config: Config, name: str, new: Sequence[Point]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(config.output / "tensorboard/loop"))
    for point in new:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in point.values.items()]
        writer.add_event(Event(wall_time=time.time(), step=point.iteration, summary=Summary(value=values)))
    writer.close()


def _wandb(config: Config, name: str, new: Sequence[Point]) -> None:
    import wandb

    settings = config.model_dump(mode="json")
    with wandb.init(
        project=project("wandb"), name=name, id=name, resume="allow", dir=config.output, config=settings,
        settings=wandb.Settings(console="off", silent=True),
    ) as run:  # fmt: skip
        # wandb's own steps only rise, and test is read last, for the base model too.
        run.define_metric("*", step_metric="iteration")
        for point in new:
            run.log({"iteration": point.iteration, **point.values})


def _trackio(config: Config, name: str, new: Sequence[Point]) -> None:
    import trackio

    trackio.init(project=project("trackio"), name=name, resume="allow", config=config.model_dump(mode="json"))
    for point in new:
        trackio.log(point.values, step=point.iteration)
    trackio.finish()


SENDERS: Mapping[str, Callable[[Config, str, Sequence[Point]], None]] = {
    "tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio,
}  # fmt: skip


def send(config: Config, folder: RunDir, say: Callable[[str], None]) -> None:
    """Send what is new to the trackers of `report_to`. One that fails ends no run: `say` gets the reason."""
    if not config.report_to:
        return
    path = folder.path / FILE
    tracked = Tracked.read(path) if path.exists() else Tracked(id=secrets.token_hex(4))
    found = list(points(folder))
    for tracker in config.report_to:
        sent = tracked.sent.get(tracker, ())
        new = [point for point in found if point.stage not in sent]
        if not new:
            continue
        try:
            # trackio talks, and standard output may be read by a program.
            with contextlib.redirect_stdout(sys.stderr):
                SENDERS[tracker](config, f"{config.name}-{tracked.id}", new)
        except Exception as error:  # a library of others, and often a network
            reason = str(error).strip().partition("\n")[0]
            say(f"  {tracker}: nothing was sent ({type(error).__name__}: {reason}); it is tried again later")
            continue
        tracked = Tracked(id=tracked.id, sent={**tracked.sent, tracker: (*sent, *(point.stage for point in new))})
        write_json(path, tracked)


def for_trainer(config: Config, out: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Hyper-parameters and variables with which the trainer sends its loss to the same trackers.

    `out`: the folder in which it works; the stage that this is in gives the name.
    """
    if not config.report_to:
        return {}, {}
    home, stage = config.output.resolve(), out.resolve().parent
    where = stage.relative_to(home) if stage.is_relative_to(home) else Path(stage.name)
    name = "-".join(where.parts).removesuffix(".partial")
    chosen: dict[str, object] = {
        "report_to": list(config.report_to), "run_name": f"{config.name}-{name}", "project": project("trackio"),
    }  # fmt: skip
    variables = {
        "TENSORBOARD_LOGGING_DIR": str(home / "tensorboard" / name), "WANDB_DIR": str(home),
        "WANDB_PROJECT": project("wandb"), "WANDB_RUN_GROUP": config.name,
    }  # fmt: skip
    return chosen, variables
