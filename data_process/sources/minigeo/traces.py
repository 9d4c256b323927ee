"""Solutions of MiniGeo's problems as a stronger model would write them: thinking between tags, often checked once.

    python -m data_process.sources.minigeo.traces --problems data/minigeo/train.jsonl --out data/minigeo/traces.jsonl

Each row names its problem and holds a solution, made from the problem's own derivation. In every second one the model
checks itself after ` Wait,`, as in the traces of s1: sums are done again, in tens and then units.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_process.io import load_problems, write_jsonl
from data_process.outputs import check_outputs
from data_process.schema import DataError, Problem

FILE = "traces.jsonl"  # in the data folder, where a run writes it if it names it
ROWS = 200
WAIT = " Wait,"  # the ignore string of the budget `tiny`
_STEP = re.compile(r"(\d+)([-+/])(\d+)=(\d+)")


def in_small_steps(step: str) -> str:
    """A sum in tens and then units: 80+38=118 is 80+30=110+8=118, and 94/2=47 is 94/2=45+2=47.

    ValueError for anything else.
    """
    found = _STEP.fullmatch(step)
    if found is None:
        raise ValueError(f"not a step: {step!r}")
    a, sign, b, result = int(found[1]), found[2], int(found[3]), int(found[4])
    tens, units = b // 10 * 10, b % 10
    if sign == "/":
        half, rest = a // 10 * 5, a % 10 // 2
        return f"{a}/2={half}+{rest}={result}" if rest and half else step
    if not units or not tens:
        return step
    return f"{a}{sign}{tens}={a + tens if sign == '+' else a - tens}{sign}{units}={result}"


def solution(problem: Problem, checked: bool) -> str:
    """A right solution; `checked`: its thinking goes through the sums twice. DataError for another source's problem."""
    try:
        labels, steps = " and ".join(problem.meta["labels"]), problem.meta["steps"]
        drafts = [steps, [in_small_steps(step) for step in steps]] if checked else [steps]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"problem {problem.id!r} has no derivation of MiniGeo ({error})") from error
    ending = f"{problem.gold_text} is ({problem.answer})."
    thoughts = [f"I see {labels}. {'. '.join([*draft, ending])}" for draft in drafts]
    return f"<think>{f'{WAIT} '.join(thoughts)}</think>\nAnswer: ({problem.answer})"


def rows(problems: Sequence[Problem]) -> Iterator[dict[str, str]]:
    """A row of the kind `cot` for each problem."""
    for index, problem in enumerate(problems):
        yield {"id": problem.id, "response": solution(problem, checked=index % 2 == 1)}


def write(problems: Path, out: Path, n: int = ROWS) -> int:
    """Solutions of the first `n` problems of a file; returns their number."""
    check_outputs({"--out": out}, [problems])
    return write_jsonl(out, rows(load_problems(problems, problems.parent)[:n]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write solutions of MiniGeo's problems, for `traces:`.")
    parser.add_argument("--problems", type=Path, required=True, help="train.jsonl of MiniGeo")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--n", type=int, default=ROWS, help=f"how many (default {ROWS})")
    args = parser.parse_args(argv)
    try:
        print(f"{args.out}: {write(args.problems, args.out, args.n)} solutions")
    except DataError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
