"""Where a command may write: never onto what it reads, and never into a run folder that is not its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_process.schema import DataError

RUN_MARKS = ("identity.json", "stage.json")  # a run folder and a finished stage have these
SPLIT_FILES = frozenset(f"{name}.jsonl" for name in ("train", "dev", "test", "hard", "questions"))
CARD = "card.json"  # of a prepared data folder


def check_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Iterable[Path | None] = (),
    *,
    runs: Iterable[Path | None] = (),
    owner: Path | None = None,
    resumes: bool = False,
) -> None:
    """Refuse outputs that would destroy something. Called before anything is read or written.

    `outputs`: what the user names each of them by ("--out") -> its file or folder; None is one that is not written.
    `inputs`: files and folders that the command reads. `runs`: run folders that it reads. `owner`: the run whose
    folder the outputs may lie in, as new folders beside its stages. `resumes`: an output may be a folder that the same
    command began, which is added to and never replaced.
    DataError for an output that is an input, lies in a folder of inputs and exists, or contains an input; that lies
    inside a run folder or is a file of a prepared data folder; that is no plain file or folder; or that is given twice.
    """
    read = [path for path in inputs if path is not None]
    closed = [path.resolve() for path in (*runs, owner) if path is not None]
    own = None if owner is None else owner.resolve()
    seen: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        try:
            real = path.resolve()
            _check_kind(name, path)
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, a loop of links
            raise _refused(name, path, f"cannot be written ({error})") from error
        if real in seen:
            raise _refused(name, path, f"is also the file of {seen[real]}")
        seen[real] = name
        for source in read:
            if _same(path, source):
                raise _refused(name, path, "is read by this command, which would overwrite it")
            inside = source.resolve()
            if inside.is_relative_to(real) and not resumes:
                raise _refused(name, path, f"contains {source}, which this command reads")
            if real.is_relative_to(inside) and path.exists() and not path.is_dir():
                raise _refused(name, path, f"is a file of {source}, which this command reads")
        for run in closed:
            if run.is_relative_to(real):
                raise _refused(name, path, f"contains the run folder {run}")
        run_folder = _run_around(real.parent if resumes else real, closed)
        if run_folder is not None and not (own is not None and _beside_stages(real, own)):
            raise _refused(name, path, f"lies inside the run folder {run_folder}, which holds results")
        if real.name in {*SPLIT_FILES, CARD} and real.is_file() and (real.parent / CARD).is_file():
            raise _refused(name, path, f"is a file of the prepared data folder {real.parent}")


def _refused(name: str, path: Path, why: str) -> DataError:
    text = str(path)
    return DataError(f"{name} {text if len(text) <= 300 else text[:300] + '...'} {why}; name another place")


def _check_kind(name: str, path: Path) -> None:
    """DataError for a device, a pipe or a socket: what is written aside and renamed would take its place."""
    if path.exists() and not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
        raise _refused(name, path, "is neither a file nor a folder")


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, also by links."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return one.resolve() == other.resolve()


def _run_around(real: Path, closed: Iterable[Path]) -> Path | None:
    """The run folder, or stage, that a path is or lies in."""
    for folder in (real, *real.parents):
        if folder in closed or any((folder / mark).is_file() for mark in RUN_MARKS):
            return folder
    return None


def _beside_stages(real: Path, own: Path) -> bool:
    """Whether a path is a folder directly in a run, or below such a folder, that no stage of the run has made."""
    if not real.is_relative_to(own) or real == own:
        return False
    first = own / real.relative_to(own).parts[0]
    if not first.exists():
        return not first.name.startswith("iter") and first.name not in ("base", "leakage")
    # A folder of its own: what the command made there before.
    return first.is_dir() and any((first / made).exists() for made in ("scale.json", "identity.json", "scale"))
