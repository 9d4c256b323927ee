"""s1's data recipe on pools of its size and larger: its counts, the time and the memory.

    python -m benchmarks.curation --rows 10000 59029 1000000 --json out.json

A pool has s1's 16 sources, domains, traces, samples of two models and 730 test problems, all made up. At 59,029 rows as
many fall to each filter as in s1's paper, and the steps must give its counts: 54,116, 51,581, 24,496 and 1,000, of
which 384 are taken directly. Other sizes have the same shares, chosen problems included. Each size is curated in a
process of its own.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Spent, in_own_process, machine, show, table, timed
from data_process.io import write_jsonl

# Table 6 of the paper (arXiv 2501.19393).
SOURCES = {
    "NuminaMATH": 30660, "MATH": 11999, "OlympicArena": 4250, "OmniMath": 4238, "AGIEval": 2385, "xword": 999,
    "OlympiadBench": 896, "AIME": 890, "TheoremQA": 747, "USACO": 519, "JEEBench": 515, "GPQA": 348, "SciEval": 227,
    "s1-prob": 182, "LiveCodeBench": 151, "s1-teasers": 23,
}  # fmt: skip
ROWS = sum(SOURCES.values())
WITHOUT_TRACE, MALFORMED, TOO_EASY = ROWS - 54_116, 54_116 - 51_581, 51_581 - 24_496
CHOSEN = 1000
DIRECT = {"AIME": 100, "GPQA": 50, "MATH": 234}  # 384 in all; the paper does not say how many are of which
DOMAINS, TESTS = 50, 730  # MATH500, GPQA Diamond and AIME24 are 728 problems
LONG = 5600  # tokens of a trace of MATH, above which a right one is taken directly
BROKEN = ("![Image](a.png)", "p1. First part.", "**Example 7**")
RECIPE = Path("configs/curate/s1.yaml")
_SYLLABLES = ("ta", "ri", "mo", "len", "so", "vek", "du", "pa", "ni", "gor", "el", "ka", "us", "fi", "bre")


@dataclass(frozen=True)
class Row:
    """What was planned for one row."""

    origin: str
    fate: str  # trace, malformed, easy, direct or ""


def plan(rows: int, seed: int = 0) -> list[Row]:
    """The fate of each row, in random order; the numbers of each fate are s1's, scaled."""
    rng, scale = random.Random(seed), rows / ROWS
    found: list[Row] = []
    free: list[str] = []
    for origin, n in SOURCES.items():
        direct = round(DIRECT.get(origin, 0) * scale)
        found += [Row(origin, "direct")] * direct
        free += [origin] * (round(n * scale) - direct)
    rng.shuffle(free)
    free = (free + ["NuminaMATH"] * rows)[: rows - len(found)]  # shares are rounded
    fates = ["trace"] * round(WITHOUT_TRACE * scale) + ["malformed"] * round(MALFORMED * scale)
    fates += ["easy"] * round(TOO_EASY * scale)
    fates += [""] * (len(free) - len(fates))
    found += [Row(origin, fate) for origin, fate in zip(free, fates, strict=True)]
    rng.shuffle(found)
    return found


def problems(planned: Sequence[Row], seed: int = 1) -> Iterator[dict[str, Any]]:
    """Rows of the pool."""
    rng = random.Random(seed)
    words = vocabulary()
    for k, row in enumerate(planned):
        question = sentence(rng, words)
        if row.fate == "malformed":
            question = f"{BROKEN[k % len(BROKEN)]} {question}"
        answer = str(rng.randrange(1000))
        right = row.fate == "direct" or (row.origin not in DIRECT and rng.random() < 0.5)
        tokens = int(rng.lognormvariate(8, 0.6)) + (LONG if row.fate == "direct" else 0)
        said = answer if right else f"{answer}7"
        yield {
            "id": f"s{k}",
            "question": question,
            "answer": answer,
            "origin": row.origin,
            "domain": f"domain {int(DOMAINS * rng.random() ** 2)}",
            "trace": "" if row.fate == "trace" else f"{sentence(rng, words)} Answer: {said}",
            "trace_tokens": tokens,
        }


def vocabulary() -> list[str]:
    """3,375 made-up words; the first are used most."""
    return [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]


def sentence(rng: random.Random, words: Sequence[str]) -> str:
    """About 40 words and numbers, no two alike."""
    chosen = [words[int(len(words) * rng.random() ** 3)] for _ in range(rng.randrange(25, 55))]
    chosen[5] = str(rng.randrange(10_000))
    return " ".join(chosen).capitalize() + "."


def write_pool(folder: Path, rows: int) -> None:
    """`train.jsonl`, `test.jsonl` and the samples of two models."""
    planned = plan(rows)
    write_jsonl(folder / "train.jsonl", problems(planned))
    tests = problems([Row("MATH", "")] * TESTS, seed=2)
    write_jsonl(folder / "test.jsonl", ({**row, "id": f"t{k}"} for k, row in enumerate(tests)))
    rng = random.Random(3)
    solved = [(rng.random() < 0.9, rng.random() < 0.8) if row.fate in ("easy", "direct") else (False, False)
              for row in planned]  # fmt: skip
    solved = [(a, b) if row.fate != "easy" else (a, b or not a) for row, (a, b) in zip(planned, solved, strict=True)]
    for model, name in enumerate(("7b", "32b")):
        write_jsonl(folder / f"{name}.jsonl", ({"id": f"s{k}", "correct": s[model]} for k, s in enumerate(solved)))


def overrides(folder: Path, size: int) -> list[str]:
    models = ", ".join(f"{name}: {{file: {folder / name}.jsonl}}" for name in ("7b", "32b"))
    return [f"difficulty.models={{{models}}}", "length.of=trace_tokens", f"size={size}"]


def curate_pool(folder: Path, size: int, out: Path) -> dict[str, Any]:
    """s1's recipe; returns the card."""
    from selftrain.curation.run import curate
    from selftrain.curation.settings import load_recipe
    from selftrain.progress import Progress

    recipe = load_recipe(RECIPE, overrides(folder, size), {})
    return curate(folder, recipe, out, progress=Progress(quiet=True))


def measure(folder: Path, size: int) -> tuple[list[dict[str, Any]], Spent]:
    card, spent = timed(curate_pool, folder, size, folder / "curated")
    return card["curated"]["steps"], spent


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, ROWS], help="sizes of pools")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)
    found = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as name:
            in_own_process(write_pool, Path(name), rows)
            steps, spent = in_own_process(measure, Path(name), round(CHOSEN * rows / ROWS))
            size = (Path(name) / "train.jsonl").stat().st_size / 2**20
        found.append({"rows": rows, "pool_mib": size, "steps": steps, **asdict(spent)})
    names = [step["step"] for step in found[0]["steps"]]
    numbers = table(
        ["rows", "MiB", *names, "s", "CPU s", "CPU ms/row", "peak, MiB"],
        [
            [
                f"{one['rows']:,}", f"{one['pool_mib']:.0f}", *(f"{step['kept']:,}" for step in one["steps"]),
                f"{one['seconds']:.1f}", f"{one['cpu_seconds']:.1f}",
                f"{1000 * one['cpu_seconds'] / one['rows']:.2f}", f"{one['peak_mib']:.0f}",
            ]
            for one in found
        ],
    )  # fmt: skip
    show(machine(), [numbers], {"curation": found}, args.json)


if __name__ == "__main__":
    main()
