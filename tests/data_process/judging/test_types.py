"""Every answer type as a table of cases, and what a gold answer must look like."""

from __future__ import annotations

import pytest

from data_process.judging import JUDGES, AnswerJudge, check_gold, judge
from data_process.judging.extractor import extraction_prompt
from data_process.judging.locate.cues import Reading, find_answer
from data_process.judging.types.base import verdict_on
from data_process.schema import DataError, Problem, Verdict
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


def test_a_new_answer_type_is_one_record(monkeypatch):
    """A type from outside the package: one record serves the judge, the check of gold answers and the extractor."""

    def judge_colour(text: str, problem: Problem, truncated: bool) -> Verdict:
        found = find_answer(text, lambda payload, place: Reading(payload.strip(" .").lower(), "colour"), truncated)
        return verdict_on(found, lambda colour: colour == problem.answer)

    def check_colour(problem: Problem) -> None:
        if problem.answer not in ("red", "blue"):
            raise DataError(f"problem {problem.id}: not a colour")

    monkeypatch.setitem(JUDGES, "colour", AnswerJudge(judge_colour, check_colour, "Write it as a colour."))
    assert judge("Answer: Red.", of("colour", "red")).rule == "answer_cue/colour"
    assert judge("Answer: Red.", of("colour", "red")).correct
    assert judge("Answer: Blue.", of("colour", "red")).status == "wrong"
    assert judge("", of("colour", "red")).status == "abstain"
    with pytest.raises(DataError, match="not a colour"):
        check_gold(of("colour", "7"))
    assert "Write it as a colour." in extraction_prompt("It is red.", question="Which?", answer_type="colour")


def test_an_unknown_answer_type_is_an_error():
    for function in (check_gold, lambda problem: judge("Answer: red", problem)):
        with pytest.raises(DataError, match="no judge for answer type 'colour'; known: choice, integer"):
            function(of("colour", "red"))
