"""Answers of the kinds that were once misread, from ../shared/cases; where it is absent the tests skip."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_process.io import read_jsonl
from data_process.judging import UnreadableGold, check_gold, judge
from data_process.schema import Problem

CASES = Path(__file__).parents[3].parent / "shared" / "cases"
SCORED = (
    "negated_values", "hedged_answers", "letter_then_sign", "plain_wordings_unread", "expression_forms", "text_forms",
    "vote_split_note",
)  # fmt: skip


def case(name: str) -> Path:
    """A folder of examples, or a skip that names it."""
    if not (CASES / name).is_dir():
        pytest.skip(f"needs ../shared/cases/{name}")
    return CASES / name


@pytest.mark.parametrize("name", SCORED)
def test_verdicts(name):
    folder = case(name)
    problems = {
        row["id"]: Problem(**{**row, "choices": tuple(row.get("choices", ()))})
        for row in read_jsonl(folder / "problems.jsonl")
    }
    said = {row["id"]: row["response"] for row in read_jsonl(folder / "answers.jsonl")}
    expected = {row["id"]: row["verdict"] for row in read_jsonl(folder / "expected.jsonl")}
    found = {key: judge(text, problems[key]) for key, text in said.items()}
    assert {key: v for key, v in found.items() if v.status not in expected[key].split(" or ")} == {}


def test_golds_are_readable_or_said_not_to_be():
    golds = (case("expression_golds_refused") / "golds.txt").read_text("utf-8").splitlines()
    unread = []
    for gold in golds:
        problem = Problem("p", "What is it?", gold, answer_type="expression")
        try:
            check_gold(problem)
        except UnreadableGold:
            unread.append(gold)
        else:
            assert judge(f"\\boxed{{{gold}}}", problem).status != "wrong"
    assert len(unread) <= 3  # bearings, and a gold answer with a remark
