"""The checkpoints of a training that may be interrupted: which training they belong to, and which of them are whole.

They lie in a folder of their own beside the stage, because an unfinished stage is removed. `attempt.json` says what is
being trained; `checkpoint-N/` is LLaMA-Factory's, N the number of optimizer steps. A whole checkpoint resumes the same
training: it holds weights, optimizer, schedule, position in the data and random states.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from selftrain.config import differences
from selftrain.engines.decoding.lora_merge import is_checkpoint
from selftrain.files import read_json, write_json
from selftrain.training.adapter import WEIGHTS, AdapterError, read_tensors
from selftrain.training.hyperparameters import TrainingError
from selftrain.training.weight_files import header_of, weights_files

ATTEMPT, LOCK, PROGRESS = "attempt.json", "lock", "trainer_log.jsonl"
PREFIX = "checkpoint-"

# What a checkpoint holds beside the weights, to resume training from it.
TRAINER_FILES = ("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "global_step*", "latest", "zero_to_*.py")


class Checkpoint(NamedTuple):
    """A whole checkpoint."""

    path: Path
    step: int
    max_steps: int  # of the whole training

    @property
    def last(self) -> bool:
        """No step is left to train. Resuming would train one more: the trainer checks only after a step."""
        return self.step >= self.max_steps


@contextlib.contextmanager
def holding(folder: Path, seconds: float) -> Iterator[int]:
    """Lock a folder of checkpoints; yields a file descriptor for `launcher.run_child` to pass on.

    The lock lasts as long as any process has it open. After a run was killed, that is until the training that it had
    started has ended too. TrainingError if that takes more than `seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TrainingError(
                        f"an earlier training still writes into {folder}; wait until its processes have ended, or end "
                        "them, and run the same command again"
                    ) from None
                time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)


def resume_point(
    folder: Path, attempt: Mapping[str, Any], ranks: int, say: Callable[[str], None] = lambda _: None
) -> Checkpoint | None:
    """The checkpoint from which `attempt` resumes, None if it starts again; everything else in the folder is removed.

    `attempt` is all that the training depends on, JSON-able. `say` gets a line for each checkpoint that is skipped, and
    one if the training that was interrupted cannot be resumed.
    """
    attempt = json.loads(json.dumps(attempt))
    found = None
    if (stored := _read(folder / ATTEMPT)) is not None:
        if changed := differences(stored, attempt):
            say(f"  training starts again: the interrupted one had other settings or rows ({'; '.join(changed[:3])})")
        elif (found := newest_whole(folder, ranks, say)) is None:
            say("  training starts again: the interrupted one left no whole checkpoint")
    for path in folder.iterdir():
        if path.name == LOCK or (found and path.name in (found.path.name, PROGRESS)):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if found and (folder / PROGRESS).is_file():
        lines = []  # of the steps up to the checkpoint; later ones are trained again
        for line in (folder / PROGRESS).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last line may be incomplete
                if json.loads(line)["current_steps"] <= found.step:
                    lines.append(line + "\n")
        (folder / PROGRESS).write_text("".join(lines), encoding="utf-8")
    write_json(folder / ATTEMPT, attempt)
    return found


def newest_whole(folder: Path, ranks: int, say: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
    """The whole checkpoint with the most steps; None if there is none."""
    found = ((path.name.removeprefix(PREFIX), path) for path in folder.glob(f"{PREFIX}*"))
    for step, path in sorted(((int(number), path) for number, path in found if number.isdigit()), reverse=True):
        reason = corruption_reason(path, ranks)
        if reason is None:
            return Checkpoint(path, step, int(read_json(path / "trainer_state.json")["max_steps"]))
        say(f"  {path.name} is not whole ({reason}); it is skipped")
    return None


def corruption_reason(checkpoint: Path, ranks: int) -> str | None:
    """Why a checkpoint of `ranks` processes is incomplete or damaged; None if it is whole.

    The first process writes trainer_state.json last; the others write their random states independently of it.
    """
    state = _read(checkpoint / "trainer_state.json")
    step = int(checkpoint.name.removeprefix(PREFIX))
    if state is None or state.get("global_step") != step or "max_steps" not in state:
        return "trainer_state.json is missing, damaged or of another step"
    random_states = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    deepspeed = checkpoint / "latest"
    expected = random_states if deepspeed.is_file() else ["optimizer.pt", "scheduler.pt", *random_states]
    if deepspeed.is_file():
        parts = list((checkpoint / deepspeed.read_text(encoding="utf-8").strip()).glob("*optim_states.pt"))
        if len(parts) != ranks:
            return f"{len(parts)} of {ranks} DeepSpeed optimizer files"
    if missing := [name for name in expected if not (checkpoint / name).is_file()]:
        return f"{missing[0]} is missing"
    try:
        if is_checkpoint(checkpoint):
            for file in weights_files(checkpoint):
                header_of(file)
        else:
            read_tensors(checkpoint / WEIGHTS)
    except (OSError, ValueError, AdapterError) as error:
        return str(error)
    for path in sorted(p for p in checkpoint.rglob("*") if p.suffix in (".pt", ".pth", ".bin")):
        if not _whole_archive(path):  # torch.save writes zip archives, whose directory stands at their end
            return f"{path.name} is truncated or damaged"
    return None


def discard(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON mapping; None if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _whole_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False
