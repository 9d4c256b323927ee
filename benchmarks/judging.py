"""How the judge compares with published verdicts, and how fast it is.

    python -m benchmarks.judging --data ../shared/data             # agreement, a line per MathVista file; GeoQA
    python -m benchmarks.judging --data ../shared/data --files gpt4 --list disagree
    python -m benchmarks.judging --data ../shared/data --speed     # judgements per second, hostile input

Agreement is counted over rows whose published extraction is an answer (a letter, a choice, a number, a list) and where
our judge does not abstain. A published verdict is another judge's opinion: docs/data/judging_disagreements.csv says who
is right where the two differ.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import multiprocessing
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    readable: bool  # the published extraction is an answer
    ours: Verdict

    @property
    def disagrees(self) -> bool:
        return self.ours.status != "abstain" and self.ours.correct != self.published


def read_rows(path: Path) -> list[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def mathvista_problem(row: dict[str, Any]) -> Problem:
    """A MathVista row as a problem: a multi_choice row gets the gold letter, a free-form row keeps its answer."""
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


def geoqa_rows(data: Path) -> list[Row]:
    """The 754 free answers, judged as expressions; all of them count as readable."""
    found = []
    for row in read_rows(data / GEOQA):
        problem = Problem(row["id"], row["question"], row["gold"], answer_type="expression")
        published = bool(row["published_correct"])
        extraction = str(row["published_extraction"])
        found.append(Row(row["id"], problem, row["output"], extraction, published, True, judge(row["output"], problem)))
    return found


def print_geoqa(rows: list[Row]) -> None:
    from selftrain.stats import paired_test, wilson

    ours = {r.id: r.ours.correct for r in rows}
    theirs = {r.id: r.published for r in rows}
    for name, verdicts in (("ours", ours), ("published", theirs)):
        n, right = len(verdicts), sum(verdicts.values())
        low, high = wilson(right, n)
        print(f"GeoQA {name:10} {right}/{n} = {right / n:.2%}  95% {low:.2%} to {high:.2%}")
    abstentions = sum(r.ours.status == "abstain" for r in rows)
    test = paired_test(ours, theirs)
    print(f"abstentions {abstentions} = {abstentions / len(rows):.2%}; paired (exact McNemar): {test}")


def show(row: Row) -> None:
    shape = list(row.problem.choices) or row.problem.answer_type
    print(
        f"  {row.id:>8} {row.ours.status[:7]:7} {row.ours.extracted!s:8} {row.ours.rule:26} published"
        f" {row.extraction!r} {row.published} gold {row.problem.answer} {shape}\n"
        f"       Q: {row.problem.question[-200:]!r}\n       R: {row.response[-330:]!r}"
    )


# ---- Speed ----


def draws(data: Path, n: int) -> list[tuple[str, Problem]]:
    """`n` pairs drawn with replacement (seed 0) from all six shared files."""
    pool = [(r.response, r.problem) for name in MATHVISTA for r in mathvista_rows(data, name)]
    pool += [(r.response, r.problem) for r in geoqa_rows(data)]
    rng = random.Random(0)
    return [rng.choice(pool) for _ in range(n)]


def _judge_all(pairs: list[tuple[str, Problem]]) -> tuple[int, float]:
    """How many are correct, and the processor time in seconds."""
    started = time.process_time()
    return sum(judge(text, problem).correct for text, problem in pairs), time.process_time() - started


def clear_caches() -> None:
    """Empty every lru_cache of the judging package."""
    for name, module in list(sys.modules.items()):
        if name.startswith("data_process.judging"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _judge_uncached(pairs: list[tuple[str, Problem]]) -> float:
    spent = 0.0
    for text, problem in pairs:
        clear_caches()
        started = time.process_time()
        judge(text, problem)
        spent += time.process_time() - started
    return spent


def print_speed(data: Path, n: int = 100_000, cores: int = 2) -> None:
    pairs = draws(data, n)
    parts = [pairs[i::cores] for i in range(cores)]
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        clear_caches()
        started = time.perf_counter()
        done = pool.map(_judge_all, parts)
        seconds = time.perf_counter() - started
    right, busy = sum(r for r, _ in done), sum(t for _, t in done)
    print(f"{n} draws on {cores} cores: {n / seconds:,.0f} judgements/s ({right} correct, {seconds:.1f} s)")
    print(f"by processor time, which ignores other work on the machine: {cores * n / busy:,.0f}/s on {cores} cores")
    few = pairs[:3000]
    rate = len(few) / _judge_uncached(few)
    print(f"every cache emptied before each judgement: {rate:,.0f}/s of processor time on one core")


def hostile(size: int = 1_000_000) -> dict[str, str]:
    """Texts that try to take long: repeated openings of every pattern, and expressions that algebra cannot finish."""
    long = {
        "brackets": "(", "digits": "9", "answer digits": "Answer: 99999999", "boxes": "\\boxed{",
        "empty boxes": "\\boxed{}", "tags": "<answer>", "thinks": "</think>", "open thinks": "<think>",
        "cues": "Answer:", "cue lines": "Answer: \n", "newlines": "\n", "stars": "*", "bold": "**5** ", "hashes": "# ",
        "groups": "1,000", "fractions": "\\frac{1}{", "phrases": "the answer is ", "equals": "1=", "dollars": "$",
        "sentences": "It is 5. ", "no stop": "word ", "tables": "| a | b |\n", "conclusions": "So x = 5. Therefore ",
        "number words": "one hundred and ", "letters": "(A) (B) ", "comparisons": "teal is not more than less ",
        "choices": "选", "stops": ". ", "questions": "? ", "quotes": '"', "years": "in 2009 ", "text": "\\text{",
        "mixed": "1 1/2 ", "wide digits": "\U0001d7d8", "surrogates": "\ud800",
    }  # fmt: skip
    short = [
        "9^9^9^9", "99999!", "x^{99999999}", "(x+y+z)^{12}(x-y)^{12}", "(x+1)^{-12}(y+1)^{-12}", "(1+√2+√3+√5+√7)^{12}",
        "\\sin(\\cos(\\tan(x)))", "\\int_0^1 e^{x^2} dx", "\\sqrt{999999999989}", "(" * 30 + "x" + ")" * 30,
        "|x^2-4|<3", "(-\\infty,3]\\cup[5,\\infty)", "x\\pm y^6", "\\pm\\infty^6\\pm x^6", "1/(1+1/(1+1/(1+1/x)))",
    ]  # fmt: skip
    texts = {name: part * (size // len(part)) for name, part in long.items()}
    texts["deep box"] = "\\boxed{" + "{" * (size // 2) + "}" * (size // 2) + "}"
    texts["gap"] = "Answer:" + " " * size + "B"
    texts["equals after a cue"] = "Answer: " + "1=" * (size // 2)
    return texts | {text: f"\\boxed{{{text}}}" for text in short}


def hostile_problems() -> list[Problem]:
    return [
        Problem("choice", "Is x more than y?", "B", ("30.0", "40.0", "45.0", "60.0")),
        Problem("yes or no", "Is teal the maximum?", "A", ("yes", "no")),
        Problem("words", "Which shape?", "A", ("red square", "blue circle", "2√{3}")),
        Problem("number", "How many?", "40", answer_type="number"),
        Problem("integer", "How many years?", "40", answer_type="integer"),
        Problem("float", "How many?", "40.5", answer_type="float", precision=1),
        Problem("list", "Which two?", "[1, 2]", answer_type="list"),
        Problem("text", "Is it?", "Yes", answer_type="text"),
        Problem("root", "Find x", "2\\sqrt{3}", answer_type="expression"),
        Problem("letters", "Find y", "x\\pm1", answer_type="expression"),
    ]


def print_hostile() -> None:
    judge("\\boxed{x\\mp1}", hostile_problems()[-1])
    judge("\\boxed{\\pm x}", hostile_problems()[-1])  # loads sympy once, which takes about a second
    spent = []
    for name, text in hostile().items():
        for problem in hostile_problems():
            clear_caches()
            started = time.process_time()
            judge(text, problem)
            spent.append((time.process_time() - started, name, problem.id))
    spent.sort(reverse=True)
    print(f"{len(spent)} hostile judgements; the slowest (bound 0.2 s):")
    for seconds, name, problem_id in spent[:5]:
        print(f"  {seconds:.3f} s  {name} / {problem_id}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shared outputs")
    parser.add_argument("--files", nargs="*", choices=[*MATHVISTA, "geoqa"], default=[*MATHVISTA, "geoqa"])
    parser.add_argument("--list", choices=["none", "disagree", "abstain", "both"], default="none")
    parser.add_argument("--speed", action="store_true", help="judgements per second, with and without caches")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"{args.data}: no such folder; give the folder of the shared outputs with --data")
    if args.speed:
        print_speed(args.data)
        print_hostile()
        return
    if any(name in MATHVISTA for name in args.files):
        print(HEADER)
    for name in args.files:
        rows = geoqa_rows(args.data) if name == "geoqa" else list(mathvista_rows(args.data, name))
        if name == "geoqa":
            print_geoqa(rows)
        else:
            print(summary(name, rows))
        for row in rows:
            abstains = row.ours.status == "abstain"
            wanted = args.list == "both" or args.list == ("abstain" if abstains else "disagree")
            if row.readable and wanted and (abstains or row.disagrees):
                show(row)


if __name__ == "__main__":
    main()
