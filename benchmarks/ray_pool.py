"""What spreading rows over Ray actors costs and gains, against the engine that each actor runs.

    python -m benchmarks.ray_pool --model models/tiny-qwen2vl --actors 1 2 --json out.json

Both answer the same requests in turn, each a whole call; the first round warms up and does not count. Besides the
model there are two engines that answer from a script: `script` at once, so that what a call takes is Ray and this
package alone, and `wait` after a time for each row in which it needs no core, as a model on a GPU of its own would.
"CPU" is how many times the CPU seconds a call takes with Ray, all processes counted: on a busy machine it says more
than the clock, and there more actors of `hf` than free cores gain nothing.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measuring import machine, show, table
from benchmarks.sampling import make_requests
from selftrain.engine_settings import HFSettings, RaySettings
from selftrain.engines.base import Completion, Engine, Request, SamplingParams
from selftrain.engines.hf import HFEngine
from selftrain.engines.ray_pool import RayEngine, blocks
from selftrain.engines.scripted import ScriptedEngine

ANSWER = "From the figure the known values are read, and with them the angle is found.\nAnswer: B"
ROW_S = 0.004


@dataclass(frozen=True)
class Measured:
    """An engine in so many actors, and the same engine alone, round by round."""

    inner: str
    actors: int
    start_s: float  # from nothing to all copies open, Ray's own start included
    alone: list[float]  # seconds of a call
    spread: list[float]  # of the call beside it
    alone_cpu: list[float]  # CPU seconds of this process and all that it started: those of Ray, and its actors
    spread_cpu: list[float]

    @property
    def median_ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.alone, self.spread, strict=True))


def say(request: Request, seed: int) -> str:
    return ANSWER


class Waiting(ScriptedEngine):
    """Takes ROW_S seconds for each row, and no core."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        time.sleep(ROW_S * sum(len(request.seeds) for request in requests))
        return super().generate(requests, params)


def cpu_of_all() -> float:
    """CPU seconds so far of this process and of its descendants that are alive."""
    parents, spent = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(stat.parent.name)
        parents[pid], spent[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(spent[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


def timed(engine: Engine, requests: Sequence[Request], params: SamplingParams) -> tuple[float, float]:
    """Seconds and CPU seconds of a call."""
    cpu, start = cpu_of_all(), time.perf_counter()
    answers = engine.generate(requests, params)
    spent = time.perf_counter() - start, cpu_of_all() - cpu
    assert [len(of_one) for of_one in answers] == [len(request.seeds) for request in requests]
    return spent


def measure(
    inner: str,
    open_inner: Callable[[], Engine],
    alone: Engine,
    actors: int,
    requests: Sequence[Request],
    params: SamplingParams,
    block_rows: int,
    rounds: int,
) -> Measured:
    """Both in turn, so that a busy spell of the machine hits both."""
    start = time.perf_counter()
    with RayEngine(open_inner, RaySettings(actors=actors, engine=HFSettings(batch_size=block_rows))) as engine:
        while len(engine._ready) < actors:
            engine.generate(requests[:1], params)
        found = Measured(inner, actors, time.perf_counter() - start, [], [], [], [])
        for number in range(rounds + 1):
            (a, a_cpu), (b, b_cpu) = timed(alone, requests, params), timed(engine, requests, params)
            if number:
                found.alone.append(a)
                found.spread.append(b)
                found.alone_cpu.append(a_cpu)
                found.spread_cpu.append(b_cpu)
                print(f"  {inner}, round {number}: alone {a:.2f} s, in {actors} actors {b:.2f} s", flush=True)
    return found


def report(found: Sequence[Measured], samples: int, n_blocks: int) -> str:
    header = ["engine", "actors", "alone, s", "with Ray, s", "samples/s", "x alone, best", "x alone, median", "CPU"]
    rows = [
        [
            *(m.inner, str(m.actors), f"{min(m.alone):.3f}", f"{min(m.spread):.3f}"),
            *(f"{samples / min(m.spread):.0f}", f"{min(m.alone) / min(m.spread):.2f}", f"{m.median_ratio:.2f}"),
            f"{statistics.median(m.spread_cpu) / max(statistics.median(m.alone_cpu), 0.01):.2f}",
            *(f"{1000 * (min(m.spread) - min(m.alone)) / n_blocks:.1f}", f"{m.start_s:.1f}"),
        ]
        for m in found
    ]
    return table([*header, "ms added per block", "start, s"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny-qwen2vl"))
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--problems", type=int, default=252)
    parser.add_argument("--n", type=int, default=3, help="samples per problem")
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=64, help="rows of a batch, and of a block")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    params = SamplingParams(temperature=0.9, max_tokens=args.max_tokens, top_p=0.95, top_k=50)
    settings = HFSettings(batch_size=args.batch_size, device=args.device, threads=1)
    inners: dict[str, Callable[[], Engine]] = {
        "hf": functools.partial(HFEngine, args.model.resolve(), settings=settings),
        "script": functools.partial(ScriptedEngine, say),
        "wait": functools.partial(Waiting, say),
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        requests = make_requests(Path(folder), args.problems, args.n, "base", "short")
        requests.sort(key=lambda request: len(request.prompt))  # as the sampler does
        n_blocks = len(blocks(requests, args.batch_size))
        found = []
        for inner, open_inner in inners.items():
            alone = held.enter_context(open_inner())
            for actors in args.actors:
                found.append(measure(inner, open_inner, alone, actors, requests, params, args.batch_size, args.rounds))
    about = machine(
        ray=importlib.metadata.version("ray"),
        torch=importlib.metadata.version("torch"),
        usable_cores=len(os.sched_getaffinity(0)),
        samples=args.problems * args.n,
        blocks=n_blocks,
    )
    rows = [{**asdict(m), "median_ratio": m.median_ratio} for m in found]
    show(about, [report(found, args.problems * args.n, n_blocks)], {"rows": rows}, args.json)


if __name__ == "__main__":
    main()
