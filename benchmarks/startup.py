"""How long the commands take to answer, and what importing costs.

    python -m benchmarks.startup --rounds 10 --json out.json

Each command runs in a process of its own; the fastest run counts, as other work only adds time. A bare interpreter is
the floor, and `import torch`, with which the usual scripts begin even for --help, the comparison.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measuring import machine, show, table

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 0.2  # for importing the package
BARE, USUAL = "bare interpreter", "import torch"
COMMANDS: dict[str, tuple[str, ...]] = {
    BARE: ("-c", "pass"),
    "import selftrain": ("-c", "import selftrain"),
    "import data_process.building.mixture": ("-c", "import data_process.building.mixture"),
    "run.py --help": ("run.py", "--help"),
    "python -m selftrain --help": ("-m", "selftrain", "--help"),
    "run.py --dry-run": ("run.py", "--dry-run"),
    "import selftrain.loop": ("-c", "import selftrain.loop"),
    USUAL: ("-c", "import torch"),
}


@dataclass(frozen=True)
class Measured:
    """The fastest of the runs of one command."""

    command: str
    seconds: float
    cpu_seconds: float


def run(command: Sequence[str]) -> tuple[float, float]:
    """(wall, processor) seconds of one run; CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int) -> list[Measured]:
    """Every round runs all commands in turn."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            best[name] = min(best.get(name, (float("inf"), 0.0)), run(command))
    return [Measured(name, *times) for name, times in best.items()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    measured = measure(args.rounds)
    by_name = {one.command: one for one in measured}
    bare, usual = by_name[BARE].seconds, by_name[USUAL].seconds
    rows = [
        [
            one.command,
            f"{one.seconds:.3f}",
            f"{one.seconds - bare:.3f}",
            f"{one.cpu_seconds:.3f}",
            f"{one.seconds / usual:.3f}",
        ]
        for one in measured
    ]
    head = ["command", "seconds", "above the bare interpreter", "CPU, s", "x import torch"]
    wanted = f"Wanted: importing the package in under {LIMIT_SECONDS} s."
    show(machine(), [table(head, rows), wanted], {"rows": [asdict(one) for one in measured]}, args.json)


if __name__ == "__main__":
    main()
