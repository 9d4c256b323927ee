"""Wall-clock time and memory of a run folder: written at the end of every session, summed for the report."""

from __future__ import annotations

import contextlib
import resource
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from selftrain.files import read_json, write_json


def timing(path: Path) -> dict[str, Any]:
    """Wall-clock seconds of all sessions on this folder, and how they divide."""
    stage_seconds: Counter[str] = Counter()
    kinds = {"sample": "sampling", "train": "training", "dev": "evaluation", "test": "evaluation"}
    for file in path.glob("iter*/*/timing.json"):
        kind = kinds.get(file.parent.name)
        if kind:
            stage_seconds[kind] += read_json(file)["seconds"]
    sessions = read_json(path / "sessions.json") if (path / "sessions.json").exists() else []
    # A session that was killed left no entry, but the stages that it finished did.
    wall = max(sum(session["seconds"] for session in sessions), sum(stage_seconds.values()))
    stage_seconds["controller"] = max(0.0, wall - sum(stage_seconds.values()))
    started = sessions[0]["started"] if sessions else None
    return {"started": started, "wall_seconds": wall, "stage_seconds": dict(stage_seconds)}


class Clock:
    """Adds this session's wall time and memory to those before it, also when it ends in an error."""

    def __init__(self, path: Path, started: float) -> None:
        self._path, self._started = path, started

    def __enter__(self) -> None:
        # Read now, so that a damaged file is told at once and not after hours of work.
        self._sessions = read_json(self._path) if self._path.exists() else []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun = datetime.fromtimestamp(self._started, UTC).isoformat(timespec="seconds")
        # Largest resident memory in MiB (ru_maxrss is in KiB on Linux): of this process, and of its largest child.
        peak, child = (
            resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        session = {
            "started": begun,
            "seconds": round(time.time() - self._started, 3),
            "peak_mib": peak,
            "peak_child_mib": child,
        }
        with contextlib.suppress(*([OSError] if error else [])):  # a full disk: the first error is the one to tell
            write_json(self._path, [*self._sessions, session])
