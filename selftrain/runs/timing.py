"""Wall-clock time and memory of a run folder: written at the end of every session, summed for the report."""

from __future__ import annotations

import contextlib
import resource
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated

from pydantic import Field

from selftrain.files import Record, RunError, read_json, write_json
from selftrain.runs.run_dir import iteration_files

# By stage, in order.
KINDS = {
    "sample": "sampling",
    "rethink": "sampling",
    "temperature": "sampling",
    "train": "training",
    "dev": "evaluation",
    "test": "evaluation",
}


@dataclass(frozen=True)
class Timing:
    """Wall-clock time of a run folder, in seconds.

    A stage counts with the session that finished it: what an interrupted session had done of it is in "controller".
    """

    started: str | None = None  # of the first session, ISO 8601
    wall_seconds: float | None = None  # of all sessions
    stage_seconds: Mapping[str, float] = field(default_factory=dict)  # sampling, training, evaluation, controller
    by_iteration: Mapping[int, Mapping[str, float]] = field(default_factory=dict)  # the same, of each iteration


class _Seconds(Record):
    """What a stage took."""

    seconds: Annotated[float, Field(ge=0)]


class _Session(_Seconds):
    started: str | None = None


def _sessions(path: Path) -> list[_Session]:
    found = read_json(path)
    if not isinstance(found, list):
        raise RunError(f"{path} is damaged: it holds no list of sessions; delete it, and the times are not reported")
    return [_Session.from_json(session, str(path)) for session in found]


def timing(path: Path) -> Timing:
    """How long the sessions on this folder took, and how that divides."""
    stage_seconds: defaultdict[str, float] = defaultdict(float)
    by_iteration: dict[int, defaultdict[str, float]] = {}
    for stage, kind in KINDS.items():
        for iteration, file in iteration_files(path, f"{stage}/timing.json"):
            seconds = _Seconds.read(file).seconds
            stage_seconds[kind] += seconds
            by_iteration.setdefault(iteration, defaultdict(float))[kind] += seconds
    there = (path / "sessions.json").exists()
    sessions = _sessions(path / "sessions.json") if there else []
    # A session that was killed left no entry, but the stages that it finished did.
    wall = max(sum(session.seconds for session in sessions), sum(stage_seconds.values()))
    stage_seconds["controller"] = max(0.0, wall - sum(stage_seconds.values()))
    started = sessions[0].started if sessions else None
    return Timing(started, wall, dict(stage_seconds), {k: dict(several) for k, several in by_iteration.items()})


class Clock:
    """Adds this session's wall time and memory to those before it, also when it ends in an error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        # Read now, so that a damaged file is reported at once and not after hours of work.
        self._sessions = read_json(self._path) if self._path.exists() else []
        # The clock of the machine may be set while a run works, so that it says when, and not how long.
        self._begun, self._started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = {"started": self._begun, "seconds": round(time.monotonic() - self._started, 3)}
        # Largest resident memory in MiB (ru_maxrss is in KiB on Linux): of this process, and of its largest child.
        for name, who in (("peak_mib", resource.RUSAGE_SELF), ("peak_child_mib", resource.RUSAGE_CHILDREN)):
            session[name] = resource.getrusage(who).ru_maxrss // 1024
        with contextlib.suppress(*([OSError] if error else [])):  # a full disk: the first error is the one to tell
            write_json(self._path, [*self._sessions, session])
