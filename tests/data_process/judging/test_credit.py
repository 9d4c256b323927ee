"""The rows of `credit_cases`: denied and hedged answers, letters with signs, plain wordings, forms of one value."""

from __future__ import annotations

import pytest

from data_process.judging import judge
from tests.data_process.judging import credit_cases as cases

ROWS = [*cases.NEGATED, *cases.HEDGED, *cases.LETTER, *cases.PLAIN, *cases.EXPR, *cases.TEXT, *cases.EAST]


@pytest.mark.parametrize(("problem", "text", "credited"), ROWS)
def test_credit(problem, text, credited):
    assert judge(text, problem).correct == credited
