"""docs/data/judging_disagreements.csv: what can be checked without the outputs, and the summary on the page."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.judging import MATHVISTA
from data_process.judging import check_gold, judge
from data_process.schema import LETTERS, Problem
from tests.data_process.judging.cases import of

DOCS = Path(__file__).parents[3] / "docs"
with (DOCS / "data" / "judging_disagreements.csv").open(encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))
PAGE = (DOCS / "judging.md").read_text("utf-8")


def problem_of(row: dict[str, str]) -> Problem:
    """The row's problem with its gold answer; the wording of its choices is not in the file."""
    if row["answer_type"] == "choice":
        return Problem(row["item"], "Which one is it?", row["gold"], tuple(f"thing {letter}" for letter in LETTERS[:5]))
    return of(row["answer_type"], row["gold"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['outputs']}-{row['item']}")
def test_rows_hold(row):
    problem = problem_of(row)
    check_gold(problem)
    assert row["outputs"] in {*MATHVISTA, "geoqa"}
    assert row["right"] in {"ours", "published", "open"}
    assert row["published_correct"] in {"true", "false"}
    assert row["note"].endswith(".")
    assert (row["judge_status"] == "correct") != (row["published_correct"] == "true")
    if row["judge_status"] == "abstain":
        assert row["judge_answer"] == ""
        assert row["cause"] == "no_answer"
        return
    verdict = judge(f"Answer: {row['judge_answer']}", problem)
    assert (verdict.status, verdict.extracted) == (row["judge_status"], row["judge_answer"])


def test_each_row_stands_once():
    assert len({(row["outputs"], row["item"]) for row in ROWS}) == len(ROWS) == 54


def test_the_page_sums_the_rows_up():
    table = re.findall(r"^\| `(\w+)` \| (\d+) \| .+\. ?.*\|$", PAGE, re.MULTILINE)
    assert {cause: int(n) for cause, n in table} == Counter(row["cause"] for row in ROWS)
    right = Counter(row["right"] for row in ROWS)
    said = re.search(r"Our judge is right in (\d+) rows and the published one in (\d+); .+ in (\d+)\.", PAGE)
    assert [int(n) for n in said.groups()] == [right["ours"], right["published"], right["open"]]
    assert "(data/judging_disagreements.csv)" in PAGE
