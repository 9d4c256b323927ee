"""How long training rows take to build, from samples in the bank to ShareGPT rows on disk, and how much memory.

    python -m benchmarks.building --problems 1000 10000 100000 --json out.json

The stages of the loop themselves run on made-up problems with 12 candidates each, about half of them right: find the
candidates in the bank and write them down, judge them, build cot, refine and select rows from the judged ones, write
them for LLaMA-Factory. Each size is one process, whose largest resident memory is given. The measuring of row lengths
before training depends on the tokenizer and is timed apart.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bank import PICTURES, PROMPT, TEXT, TOKENS, VOCABULARY, InstantEngine, make_pictures
from benchmarks.measuring import Spent, in_own_process, machine, show, table, timed
from data_process.building.sharegpt import write_dataset
from data_process.images.store import ImageStore
from data_process.io import read_examples
from data_process.schema import Problem
from selftrain.config import build_config
from selftrain.engines.base import Completion
from selftrain.progress import Progress
from selftrain.runs.run_dir import RunDir
from selftrain.sampling.bank import Bank
from selftrain.stages.building import build_stage
from selftrain.stages.context import RunContext
from selftrain.stages.sampling import judge_stage, sample_stage

N = 12  # candidates per problem
LIMIT_SECONDS, LIMIT_MIB = 60, 2048  # for 100,000 problems
PREFLIGHT_ROWS = 4000


class Guesser(InstantEngine):
    """Chains of thought that end in one of two answers, so that most problems get right and wrong ones."""

    def __init__(self) -> None:
        rng = random.Random(0)
        words = ("so", "the angle", "at B", "is", "40 degrees", "and", "by", "the sum", "of all three", "twice", "C")
        self._ids = [tuple(rng.choices(VOCABULARY, k=TOKENS)) for _ in range(997)]
        self._bodies = [" ".join(rng.choices(words, k=TEXT))[: TEXT - 30] for _ in range(997)]

    def answer(self, seed: int) -> Completion:
        text = f"Step {seed}: {self._bodies[seed % 997]}\nAnswer: ({'AB'[seed % 2]})"
        return Completion(text, self._ids[seed % 997], 300, "stop", -0.25)


def make_problems(n: int) -> list[Problem]:
    """Choice problems whose prompt has about PROMPT characters; a picture each."""
    words = ("in", "the figure", "triangle", "ABC", "has", "a right angle", "at C", "and", "D", "lies", "on", "AB")
    rng = random.Random(1)
    questions = [" ".join(rng.choices(words, k=PROMPT))[: PROMPT - 100] for _ in range(997)]
    choices = ("30 degrees", "40 degrees", "45 degrees", "60 degrees")
    return [
        Problem(f"train-{k}", f"{k}. {questions[k % 997]}", "AB"[k % 2], choices, f"images/{k}.png") for k in range(n)
    ]


def open_run(folder: Path, problems: Sequence[Problem], bank: Bank) -> RunContext:
    config = build_config(
        {
            "output": str(folder / "run"),
            "bank": str(bank.path),
            "engine": {"kind": "scripted"},
            "sampling": {"n": N},
            "build": {"max_cot_per_problem": 3, "parts": {"qa": 0}},
        },
        "the benchmark",
    )
    pictures = bank.path.parent
    store = ImageStore(pictures / "images", pictures / "data", min_pixels=3136, max_pixels=50_176)
    splits = {"train": list(problems), "dev": [], "test": []}
    progress = Progress(quiet=True)
    return RunContext(config, RunDir(config.output), bank, store, splits, progress, lambda *_: Guesser())


def _rows(run: RunContext) -> int:
    """As `train_stage` begins: read the examples again, write them for LLaMA-Factory."""
    examples = read_examples(run.folder.path / "iter1/build/examples.jsonl")
    return write_dataset(run.folder.path / "rows", "selftrain", examples, run.store.path)["written"]


def _fill(folder: Path, n_problems: int) -> None:
    """Pictures, and all samples into the bank, as a run that was stopped before it wrote them down leaves it."""
    make_pictures(folder)
    (folder / "data/images").mkdir()
    for k in range(n_problems):
        (folder / f"data/images/{k}.png").hardlink_to(folder / f"data/{k % PICTURES}.png")
    problems = make_problems(n_problems)
    with Bank(folder / "bank.sqlite") as bank, open_run(folder / "before", problems, bank) as run, run.folder:
        sample_stage(run, 1)


def _chain(folder: Path, n_problems: int) -> dict[str, Any]:
    with Bank(folder / "bank.sqlite") as bank, open_run(folder, make_problems(n_problems), bank) as run, run.folder:
        stages: dict[str, Callable[[], Any]] = {
            "find": lambda: sample_stage(run, 1),
            "judge": lambda: judge_stage(run, 1),
            "build": lambda: build_stage(run, 1),
            "write": lambda: _rows(run),
        }
        spent: dict[str, Spent] = {}
        for name, stage in stages.items():
            result, spent[name] = timed(stage)
    return {"rows": result, "stages": {name: asdict(one) for name, one in spent.items()}}


def building(n_problems: int, parent: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        in_own_process(_fill, Path(folder), n_problems)
        result = in_own_process(_chain, Path(folder), n_problems)
    parts = [result["stages"][name] for name in ("build", "write")]
    return {
        "problems": n_problems,
        "candidates": n_problems * N,
        "seconds": sum(part["seconds"] for part in parts),
        "cpu_seconds": sum(part["cpu_seconds"] for part in parts),
        "peak_mib": result["stages"]["write"]["peak_mib"],
        **result,
    }


def preflight_rate(model: Path) -> float:
    """Rows a second whose length is measured before training, on one thread, the loading of the tokenizer left out."""
    from transformers import AutoProcessor

    from data_process.building.mixture import build
    from data_process.judging import judge
    from data_process.prompts import R3V
    from data_process.schema import Candidate, Judged
    from selftrain.training.row_lengths import row_lengths

    problems, guesser = make_problems(PREFLIGHT_ROWS // 4), Guesser()
    candidates = [
        Candidate(p.id, 0, k, guesser.answer(N * i + k).text, TOKENS, 300, "stop", -0.25)
        for i, p in enumerate(problems)
        for k in range(N)
    ]
    by_id = {problem.id: problem for problem in problems}
    judged = [Judged(c, judge(c.text, by_id[c.problem_id])) for c in candidates]
    examples = build(problems, judged, rule="a-orig", prompts=R3V, seed=0, parts={"qa": 0}).examples
    images = {image: 16 for problem in problems for image in problem.images}
    processor = AutoProcessor.from_pretrained(model)
    row_lengths(examples[:100], processor, images)
    return len(examples) / timed(row_lengths, examples, processor, images)[1].seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--model", type=Path, help="also measure the preflight with this model's tokenizer")
    parser.add_argument("--folder", type=Path, help="where the files go; 100,000 problems take 6 GB (default: /tmp)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)

    found = [building(n, args.folder) for n in args.problems]
    rate = preflight_rate(args.model) if args.model else None
    rows = []
    for row in found:
        cpu = {name: stage["cpu_seconds"] for name, stage in row["stages"].items()}
        rows.append(
            [
                f"{row['candidates']:,}",
                f"{row['rows']:,}",
                *(f"{cpu[name]:.1f}" for name in ("find", "judge", "build", "write")),
                f"{row['cpu_seconds']:.1f}",
                f"{row['seconds']:.1f}",
                f"{1e6 * row['cpu_seconds'] / row['candidates']:.1f}",
                f"{row['peak_mib']:.0f}",
            ]
        )
    stages = ["find, CPU s", "judge, CPU s", "build, CPU s", "write, CPU s", "build + write, CPU s", "wall, s"]
    tables = [table(["candidates", "rows", *stages, "CPU us/candidate", "peak MiB"], rows)]
    if rate is not None:
        tables.append(f"Preflight with the tokenizer of {args.model}: {rate:.0f} rows/s.")
    tables.append(f"Wanted for build and write of 100,000 problems: at most {LIMIT_SECONDS} s and {LIMIT_MIB} MiB.")
    show(machine(candidates_per_problem=N), tables, {"sizes": found, "preflight_rows_per_s": rate}, args.json)


if __name__ == "__main__":
    main()
