"""What the benchmarks of our own parts share: a process of its own for each measurement, the machine, the files."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spent:
    """What one piece of work took."""

    seconds: float
    cpu_seconds: float  # of the process, user and system
    peak_mib: float  # largest resident memory of the process up to then, the interpreter's included


def peak_mib() -> float:
    """Largest resident memory of this process so far, in MiB.

    From VmHWM and not from getrusage, whose figure a process takes over from the one that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM; these benchmarks need Linux")


def timed(work: Callable[..., Any], *args: Any) -> tuple[Any, Spent]:
    """`work(*args)`, and what it took."""
    start, cpu = time.perf_counter(), time.process_time()
    result = work(*args)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return result, Spent(seconds, cpu_seconds, peak_mib())


def in_own_process(work: Callable[..., Any], *args: Any) -> Any:
    """`work(*args)` in a fresh process, so that no other work's memory, caches or garbage are counted in."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args).result()


def machine(**more: Any) -> dict[str, Any]:
    """Where and with what something was measured."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **more,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(about: Mapping[str, Any], tables: Sequence[str], numbers: Mapping[str, Any], path: Path | None) -> None:
    """Print the tables under a line about the machine; write `numbers` to `path`, whole or not at all."""
    print("\n\n".join([", ".join(f"{key} {value}" for key, value in about.items()) + ".", *tables]))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"machine": about, **numbers}, indent=2) + "\n")
        partial.replace(path)
