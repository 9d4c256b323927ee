"""Every reading of the held-out splits of a run, kept for ever in `test_readings.jsonl` of its folder.

A reading is one occasion: weights that were fixed before any of its results could be seen, on test and, where there is
one, on the second test split. Its line is on the disk before the first of them is evaluated, and when all of them are
another line says so. A run that is killed in between goes on with the same reading.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from data_process.errors import naming
from selftrain.files import Record, RunError
from selftrain.runs.run_dir import iteration_files
from selftrain.test_time.results import Count, IterationNumber

FILE = "test_readings.jsonl"
HELD_OUT = ("test", "hard")


class Reading(Record):
    """What was read at once. The line in the file also has `time`, when it began."""

    by: Literal["run", "scale"]
    iters: Count | None = None  # iterations that the run had been told to make; None for scale
    weights: tuple[IterationNumber | str, ...]  # iterations; for scale its names of the weights
    splits: tuple[str, ...]
    settings: str | None  # digest of the configuration; None for what was read before there was this file
    strategies: tuple[str, ...]

    @field_validator("weights", mode="before")
    @classmethod
    def _as_in_the_file(cls, weights: Any) -> Any:
        """Iterations are words in the file beside the names of `scale`: readers of tables want one type in a column."""
        if not isinstance(weights, list | tuple):
            return weights
        return [int(one) if isinstance(one, str) and re.fullmatch(r"-?\d+", one) else one for one in weights]

    def to_row(self, when: str | None) -> dict[str, Any]:
        """Its line in the file."""
        return {**self.to_json(), "weights": [str(one) for one in self.weights], "time": when}

    def covers(self, other: Reading) -> bool:
        """Whether nothing of `other` lies outside this one."""
        same = (self.by, self.settings, self.strategies) == (other.by, other.settings, other.strategies)
        return same and {*other.weights} <= {*self.weights} and {*other.splits} <= {*self.splits}


def readings_of(run: Path) -> tuple[Reading, ...]:
    """The readings of a run folder, in order; () where none is recorded. RunError for a file that is damaged."""
    return tuple(reading for reading, _ in _lines(run))


def record(run: Path, reading: Reading) -> int:
    """Write down a reading that is about to begin, and return its number.

    A reading that was begun and never finished is resumed, and `scale` finds the same samples as before: neither is a
    new one. RunError if the file cannot be written; then nothing may be read.
    """
    try:
        with (run / FILE).open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # a run and `scale` may be at it together
            known = list(_lines(run))
            for number, (before, finished) in enumerate(known, 1):
                if before.covers(reading) and (not finished or reading.by == "scale"):
                    return number
            if reading.by == "run" and (old := _unrecorded(run, [before for before, _ in known])) is not None:
                _append(file.fileno(), old.to_row(None))
                known.append((old, True))
            _append(file.fileno(), reading.to_row(_now()))
            return len(known) + 1
    except OSError as error:
        raise RunError(
            f"{run / FILE} cannot be written ({error.strerror}), and no test split is read without a record; make the "
            "folder writable, or free some space, and run the same command again"
        ) from error


def close(run: Path) -> None:
    """Write down which readings of the loop are finished: all their results lie in the run folder."""
    unfinished = [(number, one) for number, (one, finished) in enumerate(_lines(run), 1) if not finished]
    for number, reading in unfinished:
        if reading.by == "run" and _pairs(reading) <= _evaluated(run):
            with naming(run / FILE), (run / FILE).open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _append(file.fileno(), {"finished": number, "time": _now()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append(file: int, row: dict[str, Any]) -> None:
    """Add a line and flush it to the disk. A line that was cut off goes: what it announced had not begun."""
    content = os.pread(file, os.fstat(file).st_size, 0)
    os.ftruncate(file, content.rfind(b"\n") + 1)
    line = (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n").encode()
    if os.write(file, line) != len(line):
        raise OSError(28, "no space left")
    os.fsync(file)


def _lines(run: Path) -> Iterator[tuple[Reading, bool]]:
    """Each reading and whether it was finished."""
    path = run / FILE
    if not path.exists():
        return
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    readings: list[Reading] = []
    finished: set[int] = set()
    for place, line in enumerate(whole.splitlines(), 1):
        where = f"{path}, line {place}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RunError(f"{where}: {error}; restore the file, which says how often test was read") from error
        if isinstance(row, dict) and "finished" in row:
            finished.add(row["finished"])
        else:
            readings.append(Reading.from_json(row, where))
    for number, reading in enumerate(readings, 1):
        yield reading, number in finished or reading.settings is None


def _pairs(reading: Reading) -> set[tuple[IterationNumber | str, str]]:
    return {(k, split) for k in reading.weights for split in reading.splits}


def _evaluated(run: Path) -> set[tuple[IterationNumber | str, str]]:
    """(iteration, split) whose results lie in a run folder."""
    return {(k, split) for split in HELD_OUT for k, _ in iteration_files(run, f"{split}/stage.json")}


def _unrecorded(run: Path, known: Sequence[Reading]) -> Reading | None:
    """What a run folder from before there was this file has already read."""
    found = _evaluated(run).difference(*(_pairs(one) for one in known if one.by == "run"))
    if not found:
        return None
    weights = tuple(sorted({k for k, _ in found if isinstance(k, int)}))
    splits = tuple(split for split in HELD_OUT if split in {name for _, name in found})
    return Reading(by="run", weights=weights, splits=splits, settings=None, strategies=())
