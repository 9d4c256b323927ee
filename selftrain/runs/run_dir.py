"""The run folder: stages done once, whole or absent, and refused when what they depend on has changed.

A stage writes into `NAME.partial/`; when its function returns, `stage.json` (digests of its files) is written last and
the folder is renamed to `NAME/`. Its presence marks the stage as done. Only this module knows about that.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from data_process.errors import FULL
from selftrain.config import Config, build_config, differences
from selftrain.files import RunError, file_digest, read_json, write_json

# Not part of a stage's digest: they tell how long something took, or repeat what LLaMA-Factory printed.
VOLATILE = ("timing.json", "train.log", "trainer_log.jsonl", "trainer_state.json", "train_results.json",
            "all_results.json", "training_args.bin", "README.md", "train.yaml", "adapter_config.json",
            "discarded.json")  # fmt: skip

DISCARDED = "discarded.json"  # what was removed of a finished stage, on purpose
# What a run folder is bound to: {"config": ..., "inputs": ...}.
IDENTITY = "identity.json"
# A stage's folder for what another program was given and said: made from digested files, with this machine's paths.
SCRATCH = "work"
# A stage's folder for what later stages need for a while and remove; `result.json` of the stage has its digests.
STATE = "state"

# The base model under a warm-up, whose weights are iteration 0. Without a warm-up, iteration 0 is the base model.
BASE = -1


def folder_of(iteration: int) -> str:
    """The folder of an iteration's stages: "base" or "iter2"."""
    return "base" if iteration == BASE else f"iter{iteration}"


def called(iteration: int) -> str:
    """An iteration in a line of output."""
    return "base model" if iteration == BASE else f"iteration {iteration}"


def decision_file(run: Path, iteration: int) -> Path:
    """What was decided about an iteration, in a run that rolls back worse ones."""
    return run / folder_of(iteration) / "accept" / "decision.json"


def folder_digests(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder by relative path, without volatile files, scratch, state and checkpoints."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts = path.relative_to(folder).parts
        skipped = path.name in VOLATILE or path.name == "stage.json" or parts[0] in (SCRATCH, STATE)
        if not skipped and not any(part.startswith("checkpoint-") for part in parts):
            digests[str(path.relative_to(folder))] = file_digest(path)
    return digests


def discarded(stage: Path) -> list[str]:
    """Folders of a finished stage that were removed on purpose."""
    found: list[str] = read_json(stage / DISCARDED) if (stage / DISCARDED).is_file() else []
    return found


def weights_of(run: Path, iteration: int, config: Config) -> Path:
    """The folder of what an iteration of a run trained. RunError if it was removed to save room."""
    stage, part = run / f"iter{iteration}" / "train", config.training.result
    if part in discarded(stage):
        raise RunError(
            f"the weights of iteration {iteration} were removed, as training.keep_weights "
            f"{config.training.keep_weights} says; delete {stage} and run the loop again to have them trained again"
        )
    return stage / part


def run_config(run: Path) -> Config:
    """The settings of a run folder; RunError or ConfigError if there are none."""
    if not (run / "config.json").is_file():
        raise RunError(f"{run} is not a run folder: config.json is missing; give the output folder of run.py")
    return build_config(read_json(run / "config.json"), str(run / "config.json"))


def iteration_files(run: Path, pattern: str) -> list[tuple[int, Path]]:
    """(iteration, file) of all `iter*/pattern` in a run folder, and of `base/pattern`, in order."""
    found = [(int(file.relative_to(run).parts[0].removeprefix("iter")), file) for file in run.glob(f"iter*/{pattern}")]
    return sorted([(BASE, file) for file in run.glob(f"{folder_of(BASE)}/{pattern}")] + found)


def claimed_inputs(run: Path) -> dict[str, Any] | None:
    """The inputs that a run folder is bound to; None if no run has claimed it."""
    path = run / IDENTITY
    inputs: dict[str, Any] | None = read_json(path)["inputs"] if path.exists() else None
    return inputs


class RunDir:
    """One experiment's folder, held by one process at a time. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current: str | None = None  # the stage that is being made
        self.made: list[str] = []  # stages that were made while the folder was held
        self._lock: int | None = None

    def __enter__(self) -> RunDir:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(self._why(error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):  # e.g. a file system without locks
                os.close(self._lock)
                self._lock = None
                raise RunError(self._why(error)) from error
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            self._lock = None
            raise RunError(
                f"{self.path} is in use by process {holder}; wait for it, or choose another --output"
            ) from None
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        except OSError as error:
            os.close(self._lock)
            self._lock = None
            raise RunError(self._why(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _why(self, error: OSError) -> str:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return f"{self.path} cannot be written ({error.strerror}); choose another folder with --output"
        if error.errno in FULL:
            where = error.filename or self.path
            return f"no space left for {where}; free some and run the same command again: finished stages are kept"
        return f"{self.path} cannot be used as the run folder: {error}"

    def claim(self, identity: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Bind the folder to a configuration and to its inputs; refuse another one, showing the difference."""
        path = self.path / IDENTITY
        wanted = {"config": dict(identity), "inputs": dict(inputs)}
        if path.exists():
            changed = differences(read_json(path), json.loads(json.dumps(wanted)))
            if changed:
                more = [f"... and {len(changed) - 20} more"] if len(changed) > 20 else []
                shown = "\n  ".join([*changed[:20], *more])
                raise RunError(
                    f"{self.path} was started with other settings or data:\n  {shown}\n"
                    "Use the old ones to resume, or another --output to start again (samples in the bank are reused)."
                )
            return
        write_json(path, wanted)

    def done(self, name: str) -> bool:
        return (self.path / name / "stage.json").is_file()

    def stage(self, name: str, make: Callable[[Path], None], *, after: Sequence[str] = ()) -> Path:
        """Run a stage unless it is done; returns its folder.

        `make` writes into the folder it is given, which is empty. `after` names the stages it reads. A stage that is
        done is looked through first: RunError if a file of it, or a stage it was made from, is not what it was then.
        """
        folder = self.path / name
        if self.done(name):
            self._check(name, after)
            return folder
        if folder.exists():  # only hands leave this: a stage's folder appears whole
            raise RunError(f"{folder} is not a finished stage; move it away and run the same command again")
        partial, self.current = self.path / f"{name}.partial", name
        try:
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True)
            started = time.monotonic()
            make(partial)
            write_json(partial / "timing.json", {"seconds": round(time.monotonic() - started, 3)})
            made_from = {other: self._digest(other) for other in after}
            record = {"stage": name, "files": folder_digests(partial), "made_from": made_from}
            write_json(partial / "stage.json", record)
            partial.replace(folder)
            self.made.append(name)
        except OSError as error:
            if error.errno in (*FULL, errno.EROFS):
                raise RunError(self._why(error)) from error
            raise
        finally:
            self.current = None
        return folder

    def finished(self) -> list[str]:
        """The stages that are done, by name."""
        found = self.path.glob("*/stage.json"), self.path.glob("*/*/stage.json")
        return sorted(str(file.parent.relative_to(self.path)) for files in found for file in files)

    def discard(self, name: str, part: str) -> None:
        """Remove a folder of a finished stage to save room. The stage stays done; what was made from it stays valid."""
        folder = self.path / name
        if part not in (before := discarded(folder)):
            write_json(folder / DISCARDED, sorted([*before, part]))  # first: a stop in between leaves no damage
        if (folder / part).exists():
            shutil.rmtree(folder / part)

    def _digest(self, name: str) -> str:
        """One digest for all that a finished stage left."""
        files = read_json(self.path / name / "stage.json")["files"]
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]

    def _check(self, name: str, after: Sequence[str]) -> None:
        folder = self.path / name
        stored = read_json(folder / "stage.json")
        found, gone = folder_digests(folder), discarded(folder)
        wanted = {file: digest for file, digest in stored["files"].items() if Path(file).parts[0] not in gone}
        changed = differences(wanted, {file: found.get(file) for file in wanted})
        if changed:
            raise RunError(
                f"{folder / changed[0].partition(':')[0]} is not what this stage wrote; restore it, or delete {folder} "
                "and run the same command again"
            )
        for other in after:
            if other in stored.get("made_from", {}) and stored["made_from"][other] != self._digest(other):
                raise RunError(
                    f"{folder} was made from another {other} than the one beside it; delete {folder} and run the same "
                    "command again"
                )
