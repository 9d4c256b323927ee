"""Nothing that a response denies, supposes, hedges, quotes, takes back or cuts off is credited."""

from __future__ import annotations

import re

import pytest

from data_process.judging import judge
from data_process.schema import Problem
from tests.data_process.judging import no_credit

CHOICE = Problem("p", "What is the size of angle C?", "B", ("30°", "40°", "45°", "60°"))
FREE = [Problem("p", "How long is AB?", "5", answer_type=kind) for kind in ("number", "integer", "expression")]


def texts(table: str) -> list[str]:
    return [re.sub(r"\\n(?!eq)", "\n", line) for line in table.strip().splitlines()]


CASES = (
    [(text, FREE, False) for text in texts(no_credit.VALUES)]
    + [(text, [CHOICE], False) for text in texts(no_credit.LETTERS)]
    + [(text, FREE, True) for text in texts(no_credit.TRUNCATED_VALUES)]
    + [(text, [CHOICE], True) for text in texts(no_credit.TRUNCATED_LETTERS)]
)


def test_the_table_is_large():
    assert len({text for text, _, _ in CASES}) >= 600


@pytest.mark.parametrize(("text", "problems", "truncated"), CASES)
def test_no_credit(text, problems, truncated):
    for problem in problems:
        verdict = judge(text, problem, truncated=truncated)
        assert not verdict.correct, (problem.answer_type, verdict)
