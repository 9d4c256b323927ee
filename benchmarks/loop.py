"""What a run costs beside its models: wall time by kind of work, the controller's share, and memory.

    python -m benchmarks.loop outputs/demo [outputs/demo-1 ...]
    python -m benchmarks.loop --rehearse 2000 8000 --json out.json

The first form reads finished run folders; the controller is all wall time outside sampling, training, evaluation. The
second runs the demo's loop for one iteration on so many MiniGeo problems with the scripted engine, and takes the time
within `generate` off every stage: what is left is what the loop itself adds to any engine, the writing of the training
rows included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measuring import in_own_process, machine, peak_mib, show, table
from selftrain.engines.base import Completion, Engine, Request, SamplingParams
from selftrain.files import read_json
from selftrain.runs.timing import timing

KINDS = ("sampling", "training", "evaluation", "controller")
REHEARSAL = Path(__file__).parents[1] / "configs/rehearsal.yaml"
# Samples a second of engines that the loop's own time is set against: the demo's on two cores, a fast one.
RATES = (90, 1000)


def of_runs(runs: Sequence[Path]) -> str:
    """A row for each finished run."""
    rows = []
    for run in runs:
        spent = timing(run)
        wall = spent.wall_seconds or 0.0
        parts = [spent.stage_seconds.get(kind, 0.0) for kind in KINDS]
        sessions = read_json(run / "sessions.json")
        # The largest child runs while the controller waits, so both are resident at once.
        peak = max(session["peak_mib"] + session["peak_child_mib"] for session in sessions)
        cells = [f"{wall / 60:.1f} min", *(f"{part:.0f} s" for part in parts), f"{100 * parts[-1] / wall:.1f}%"]
        rows.append([str(run), *cells, f"{peak / 1024:.1f} GiB"])
    return table(["run", "wall", *KINDS, "controller share", "peak memory"], rows)


class Timed:
    """An engine whose calls are timed."""

    def __init__(self, engine: Engine, clock: dict[str, float]) -> None:
        self._engine, self._clock = engine, clock

    def __enter__(self) -> Timed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._engine.close()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        start = time.perf_counter()
        answers = self._engine.generate(requests, params)
        self._clock["engine"] += time.perf_counter() - start
        self._clock["samples"] += sum(map(len, answers))
        return answers


def _rehearse(folder: Path, problems: int) -> dict[str, Any]:
    from data_process.sources import minigeo
    from selftrain.config import load_config
    from selftrain.loop import run_loop
    from selftrain.progress import Progress
    from selftrain.sampling.engine_factory import open_engine

    few = max(problems // 4, 24)
    minigeo.write(folder / "data", {"train": problems, "dev": few, "test": few}, seed=0)
    places = {"output": folder / "run", "bank": folder / "bank.sqlite", "data.folder": folder / "data"}
    settings = [*(f"{key}={path}" for key, path in places.items()), "iters=1", "build.max_rows=null"]
    config = load_config(REHEARSAL, settings)
    clock = {"engine": 0.0, "samples": 0.0}
    start, cpu = time.perf_counter(), time.process_time()
    run_loop(config, Progress(quiet=True), open_engine=lambda *what: Timed(open_engine(*what), clock))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    stages = {
        f"{file.parts[-3]}/{file.parts[-2]}": read_json(file)["seconds"]
        for file in sorted((folder / "run").glob("iter*/*/timing.json"))
    }
    own = wall - clock["engine"]
    return {
        "problems": problems,
        "samples": int(clock["samples"]),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "engine_seconds": clock["engine"],
        "own_seconds": own,
        "own_ms_per_sample": 1000 * own / clock["samples"],
        "shares": {str(rate): own / (own + clock["samples"] / rate) for rate in RATES},
        "stage_seconds": stages,  # the engine's part included
        "peak_mib": peak_mib(),
    }


def rehearsal(problems: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return in_own_process(_rehearse, Path(folder), problems)


def of_rehearsals(found: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        [
            f"{one['problems']:,}",
            f"{one['samples']:,}",
            f"{one['wall_seconds']:.1f}",
            f"{one['engine_seconds']:.1f}",
            f"{one['own_seconds']:.1f}",
            f"{one['own_ms_per_sample']:.2f}",
            *(f"{100 * one['shares'][str(rate)]:.1f}%" for rate in RATES),
            f"{one['peak_mib']:.0f}",
        ]
        for one in found
    ]
    shares = [f"share at {rate} samples/s" for rate in RATES]
    head = ["problems", "samples", "wall, s", "engine, s", "loop's own, s", "own ms/sample", *shares, "peak MiB"]
    names = sorted({name for one in found for name in one["stage_seconds"]})
    stages = [[f"{one['problems']:,}", *(f"{one['stage_seconds'][name]:.2f}" for name in names)] for one in found]
    return [table(head, rows), table(["seconds by stage", *names], stages)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="finished run folders")
    parser.add_argument("--rehearse", type=int, nargs="+", metavar="PROBLEMS", help="run the loop without a model")
    parser.add_argument("--json", type=Path, help="also write the rehearsals' numbers here")
    args = parser.parse_args(argv)
    if not args.runs and not args.rehearse:
        parser.error("name run folders, or numbers of problems with --rehearse")
    if args.runs:
        print(of_runs(args.runs))
    if args.rehearse:
        found = [rehearsal(problems) for problems in args.rehearse]
        show(machine(), of_rehearsals(found), {"rehearsals": found}, args.json)


if __name__ == "__main__":
    main()
