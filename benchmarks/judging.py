"""How the judge compares with published verdicts, and how fast it is.

    python -m benchmarks.judging --data ../shared/data                  # agreement, one line per MathVista file, and GeoQA
    python -m benchmarks.judging --data ../shared/data --list gpt4      # every disagreement of one file
    python -m benchmarks.judging --data ../shared/data --speed          # judgements per second, hostile input

Agreement is counted over rows whose published extraction is an answer at all (a letter, a choice, a number, a list) and
where this judge does not abstain. A published verdict is another judge's opinion: docs/judging.md goes through the rows.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_process.judging import judge
from data_process.schema import LETTERS, Problem, Verdict

MATHVISTA = {
    "bard": "mathvista/output_bard.jsonl.gz",
    "claude": "mathvista/output_claude.jsonl.gz",
    "gpt4": "mathvista/output_gpt4.jsonl.gz",
    "llava": "mathvista/output_llava_llama_2_13b.jsonl.gz",
    "qwen2vl": "s1m/qwen2vl_7b_mathvista_outputs.jsonl.gz",
}
GEOQA = "geoqa/qwen2vl_7b_instruct_test_outputs.jsonl"


@dataclass(frozen=True)
class Row:
    """One published judgement and ours."""

    id: str
    problem: Problem
    response: str
    extraction: str
    published: bool
    readable: bool  # the published extraction is an answer at all
    ours: Verdict

    @property
    def disagrees(self) -> bool:
        return self.ours.status != "abstain" and self.ours.correct != self.published


def read_rows(path: Path) -> list[dict]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def mathvista_problem(row: dict) -> Problem:
    """A MathVista row as a problem: multi_choice with the gold letter, the free forms as they are."""
    question = row["question"]
    if row["question_type"] == "multi_choice":
        letter = LETTERS[row["choices"].index(row["answer"])]
        return Problem(row["pid"], question, letter, tuple(row["choices"]), unit=row["unit"])
    precision = None if row["precision"] is None else int(row["precision"])
    return Problem(
        row["pid"], question, row["answer"], answer_type=row["answer_type"], precision=precision, unit=row["unit"]
    )


def is_answer(extraction: str, problem: Problem) -> bool:
    """Whether a published extraction is a letter, a choice, a number or a list."""
    text = extraction.strip()
    if problem.choices:
        letter = re.fullmatch(r"\(?([A-Ja-j])\)?[.:]?", text)
        if letter and letter[1].upper() in problem.letters:
            return True
        if text.lower() in {c.lower() for c in problem.choices}:
            return True
    try:
        float(text)
        return True
    except ValueError:
        pass
    try:
        return text.startswith("[") and isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError):
        return False


def mathvista_rows(data: Path, name: str) -> Iterator[Row]:
    problems = {r["pid"]: mathvista_problem(r) for r in read_rows(data / "mathvista" / "testmini.jsonl.gz")}
    for row in read_rows(data / MATHVISTA[name]):
        problem = problems[row["pid"]]
        published = row["true_false"] if "true_false" in row else row["true_or_false"]
        extraction = str(row["extraction"])
        yield Row(
            row["pid"],
            problem,
            row["response"],
            extraction,
            published,
            is_answer(extraction, problem),
            judge(row["response"], problem),
        )


def summary(name: str, rows: list[Row]) -> str:
    answered = [r for r in rows if r.readable]
    said = [r for r in answered if r.ours.status != "abstain"]
    agree = sum(not r.disagrees for r in said)
    return (
        f"{name:10} {len(rows):5} {len(answered):8} {len(said):5} {100 * agree / max(1, len(said)):9.2f}% "
        f"{100 * (1 - len(said) / max(1, len(answered))):8.2f}% {len(said) - agree:9}"
    )


HEADER = f"{'file':10} {'rows':>5} {'answers':>8} {'said':>5} {'agreement':>10} {'abstain':>9} {'disagree':>9}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--files", nargs="*", choices=[*MATHVISTA], default=[*MATHVISTA])
    parser.add_argument("--list", choices=["none", "disagree", "abstain", "both"], default="none")
    args = parser.parse_args()
    print(HEADER)
    for name in args.files:
        rows = list(mathvista_rows(args.data, name))
        print(summary(name, rows))
        for row in rows:
            shown = row.readable and (
                (row.disagrees and args.list in ("disagree", "both"))
                or (row.ours.status == "abstain" and args.list in ("abstain", "both"))
            )
            if shown:
                print(
                    f"  {row.id:>4} {row.ours.status[:7]:7} {row.ours.extracted!s:8} {row.ours.rule:28} published"
                    f" {row.extraction!r} {row.published} gold {row.problem.answer}"
                    f" {list(row.problem.choices) or row.problem.answer_type}\n"
                    f"       Q: {row.problem.question[-200:]!r}\n       R: {row.response[-330:]!r}"
                )


if __name__ == "__main__":
    main()
