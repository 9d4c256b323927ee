"""Whether a long run stays as fast and as small as a short one.

    python -m benchmarks.soak --samples 1000000 --iters 12 --json out.json

The scripted engine answers text-only problems, 100,000 samples for each weights, through the sampler and the bank into
one file of candidates for each weights, as the sampling stage does, and the judge reads them from the file. Then comes
one loop of the rehearsal with `--iters` iterations. Exit status 1 if a rate is further than 10% from the median of all,
or if the memory grows by 50 MB or more after the first 100,000 samples. Rates are samples per second of CPU time, which
other work on the machine changes less than wall time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import in_own_process, machine, show, table
from data_process import prompts as wording
from data_process.io import each_row, write_jsonl
from data_process.judging import judge
from data_process.prompts import prompt_set
from data_process.schema import Candidate, Problem, to_json
from selftrain.config import load_config
from selftrain.progress import NotedUpdate, Progress
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.sampler import Ask, Picture
from selftrain.sampling.second_thoughts import candidate_of
from selftrain.sampling.weights import sampler_of

WINDOW = 100_000  # samples between two readings: those of one iteration's weights
N = 4  # samples per problem
REHEARSAL = Path("configs/rehearsal.yaml")
MOST_GROWTH = 50  # MB after the first window
MOST_DRIFT = 0.1  # of a window's rate from the median


def resident_mb() -> float:
    """Resident memory of this process now, in MB (10**6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status has no VmRSS; this benchmark needs Linux")


def problems(number: int) -> list[Problem]:
    question = "In a triangle two angles are {} and {} degrees. How large is the third one, in degrees? Problem {}."
    choices = ("62", "75", "88", "104")
    return [
        Problem(f"p{k}", question.format(20 + k % 60, 30 + k % 50, k), "ABCD"[k % 4], choices) for k in range(number)
    ]


def no_picture(name: str) -> Picture:
    raise AssertionError(f"text-only problems show no picture, and {name} was asked for")


def sample(folder: Path, samples: int) -> list[dict[str, Any]]:
    """A row for each window of samples."""
    config = load_config(REHEARSAL, [f"bank={folder / 'bank.sqlite'}", f"output={folder / 'run'}"])
    asked, prompts, params = problems(WINDOW // N), prompt_set(config.prompts), sampling_params(config.sampling)
    by_id = {problem.id: problem for problem in asked}
    rows = []
    with Bank(config.bank) as bank:
        for iteration in range(samples // WINDOW):
            started, cpu, file = time.perf_counter(), time.process_time(), folder / f"{iteration}.jsonl"
            with sampler_of(config, bank, no_picture, asked, None, iteration) as sampler:
                asks = [Ask(problem.id, wording.cot(problem, prompts), ()) for problem in asked]
                found = sampler.stream(asks, params, N)
                candidates = (
                    candidate_of(problem_id, iteration, index, completion)
                    for problem_id, completions in found
                    for index, completion in enumerate(completions)
                )
                write_jsonl(file, map(to_json, candidates))
            read = (Candidate(**row) for row in each_row(file))
            right = sum(judge(c.text, by_id[c.problem_id]).status == "correct" for c in read)
            spent, wall = time.process_time() - cpu, time.perf_counter() - started
            stored = sum(path.stat().st_size for path in folder.glob("bank.sqlite*"))
            made = (iteration + 1) * WINDOW
            row = {
                "samples": made, "per_cpu_s": WINDOW / spent, "per_s": WINDOW / wall, "resident_mb": resident_mb(),
                "bytes_per_sample": stored / made, "right": right,
            }  # fmt: skip
            rows.append(row)
            print(f"  {made:,} samples: {row['per_s']:.0f}/s, {row['resident_mb']:.0f} MB", file=sys.stderr, flush=True)
        if bank.count() != samples // WINDOW * WINDOW:
            raise AssertionError(f"{bank.count()} samples are in the bank, and {samples} were drawn")
    return rows


class Readings(Progress):
    """Time and memory at the start of each iteration."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def stage(self, title: str, unit: str) -> Iterator[NotedUpdate]:
        if title.endswith(": sampling"):
            self.rows.append({"cpu_s": time.process_time(), "resident_mb": resident_mb()})
        with super().stage(title, unit) as update:
            yield update


def loop(folder: Path, iters: int) -> list[dict[str, Any]]:
    """A row for each iteration of a whole loop."""
    from data_process.sources import minigeo
    from selftrain.loop import run_loop

    minigeo.write(folder / "data", {"train": 200, "dev": 50, "test": 50}, seed=0)
    chosen = [f"data.folder={folder / 'data'}", f"bank={folder / 'bank.sqlite'}", f"output={folder / 'run'}"]
    readings = Readings()
    metrics = run_loop(load_config(REHEARSAL, [*chosen, f"iters={iters}"]), readings).metrics
    if [row.iteration for row in metrics.iterations] != list(range(iters + 1)):
        raise AssertionError(f"the loop did {len(metrics.iterations) - 1} of {iters} iterations: {metrics.stopped}")
    ends = [*(row["cpu_s"] for row in readings.rows[1:]), time.process_time()]
    return [
        {"iteration": k, "cpu_s": end - row["cpu_s"], "resident_mb": row["resident_mb"]}
        for k, (row, end) in enumerate(zip(readings.rows, ends, strict=True), 1)
    ]


def faults(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was not flat; [] if everything was."""
    median = statistics.median(row["per_cpu_s"] for row in rows)
    drift = max(abs(row["per_cpu_s"] / median - 1) for row in rows)
    growth = rows[-1]["resident_mb"] - rows[0]["resident_mb"]
    found = [f"a rate is {100 * drift:.0f}% from the median"] if drift > MOST_DRIFT else []
    return found + ([f"memory grew by {growth:.0f} MB"] if growth >= MOST_GROWTH else [])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=200_000, help=f"in steps of {WINDOW:,} (default 200,000)")
    parser.add_argument("--iters", type=int, default=12, help="of the loop; 0 leaves it out")
    parser.add_argument("--folder", type=Path, help="where the files go (default: /tmp)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)
    if args.samples < WINDOW:
        parser.error(f"--samples {args.samples}: {WINDOW} at least")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        sampled = in_own_process(sample, Path(folder), args.samples)
    looped = []
    if args.iters:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            looped = in_own_process(loop, Path(folder), args.iters)
    columns = ("per_cpu_s", "per_s", "resident_mb", "bytes_per_sample")
    tables = [
        table(
            ["samples", "per CPU second", "per second", "resident MB", "bytes per sample in the bank"],
            [
                [
                    f"{r['samples']:,}",
                    *(f"{r[key]:.0f}" for key in columns),
                ]
                for r in sampled
            ],
        ),
        table(
            ["iteration", "CPU seconds", "resident MB at its start"],
            [[str(r["iteration"]), f"{r['cpu_s']:.1f}", f"{r['resident_mb']:.0f}"] for r in looped],
        ),
    ]
    wrong = faults(sampled)
    verdict = f"Not flat: {'; '.join(wrong)}." if wrong else "Flat."
    show(machine(), [*tables, verdict], {"samples": sampled, "loop": looped, "faults": wrong}, args.json)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
