"""The rows of `credit_cases`: denied and hedged answers, letters with signs, plain wordings, forms of one value."""

from __future__ import annotations

import pytest

from data_process.judging import judge, same_answer
from tests.data_process.judging import credit_cases as cases
from tests.data_process.judging import more_credit_cases as more

ROWS = [*cases.NEGATED, *cases.HEDGED, *cases.LETTER, *cases.PLAIN, *cases.EXPR, *cases.TEXT, *cases.EAST]
MORE = [
    *more.DENIED, *more.DENIED_AGAIN, *more.SEVERAL, *more.PLAIN, *more.LETTERS, *more.FORMS, *more.TEXTS, *more.SCALES,
]  # fmt: skip


@pytest.mark.parametrize(("problem", "text", "credited"), [*ROWS, *MORE])
def test_credit(problem, text, credited):
    assert judge(text, problem).correct == credited


@pytest.mark.parametrize(("problem", "one_vote", "texts"), more.VOTES)
def test_votes(problem, one_vote, texts):
    """Equal answers are one vote, whether they are right or not."""
    first, *others = [judge(text, problem) for text in texts]
    assert first.extracted is not None
    assert {same_answer(first, other) for other in others} == {one_vote}
