"""Every answer type as a table of cases, and what a gold answer must look like."""

from __future__ import annotations

import pytest

from data_process.judging import check_gold, judge
from data_process.schema import DataError, Problem
from tests.data_process.judging.cases import STATED, TYPES, of


@pytest.mark.parametrize(("problem", "text", "extracted", "right"), TYPES)
def test_types(problem, text, extracted, right):
    verdict = judge(text, problem)
    assert verdict.extracted == extracted, verdict
    assert verdict.status == ("abstain" if extracted is None else "correct" if right else "wrong")


@pytest.mark.parametrize(("problem", "text", "letter"), STATED)
def test_stated_choices(problem, text, letter):
    verdict = judge(text, problem)
    assert verdict.extracted == letter, verdict
    assert verdict.status == ("abstain" if letter is None else "correct" if letter == problem.answer else "wrong")


def test_two_choices_of_one_text_are_one_answer():
    problem = Problem("p", "?", "B", ("9", "18", "18", "12"))
    assert judge("Answer: C", problem).correct
    assert judge("Answer: B", problem).correct
    assert judge("Answer: D", problem).status == "wrong"


def test_statements_say_so_in_their_rule():
    assert judge("There are 7 cars.", of("integer", "7")).rule == "statement/number"
    assert judge("Yes, it is.", Problem("p", "Is it?", "A", ("yes", "no"))).rule.endswith("/yes_no")


def test_statements_are_never_read_from_a_cut_text():
    for _, text, extracted, _ in TYPES:
        for problem in (of("integer", "7"), of("expression", "2√{3}")):
            verdict = judge(text, problem, truncated=True)
            assert not verdict.rule.startswith(("statement", "opening", "bold", "first_line")), (text, extracted)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (of("integer", "3.5"), "not an integer"),
        (of("integer", "seven"), "not a number"),
        (of("float", "1.5"), "needs precision"),
        (of("number", "2√3"), "not a number"),
        (of("list", "2014"), "not a list"),
        (of("text", " . "), "no word"),
        (of("expression", "the square"), "not an expression"),
        (Problem("p", "?", "E", ("1", "2")), "not one of the letters"),
    ],
)
def test_gold_that_cannot_be_read(problem, message):
    with pytest.raises(DataError, match=message):
        check_gold(problem)
    with pytest.raises(DataError, match=message):
        judge("Answer: 1", problem)
