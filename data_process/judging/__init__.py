"""One judge for filtering training data, for voting and for scoring.

A verdict is correct, wrong or abstain. The judge abstains where it cannot read an answer: an abstention gets no credit
and no vote. It never guesses a letter.

    locate/      finds the final answer in a response: cues, closing sentences, yes or no
    maths/       reads and compares values: numbers, units, roots and π, expressions
    types/       one module for each answer type; an answer type is an entry of JUDGES
    published/   the judges of MathVista and of published work, under their own names
    extractor    an optional LLM that copies out an answer where the rules abstain
    consistency  finds responses that contradict themselves
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from data_process.judging.maths.equivalence import equivalent
from data_process.judging.maths.quantity import same_value
from data_process.judging.types.base import AnswerJudge, UnreadableGold
from data_process.judging.types.choice import CHOICE
from data_process.judging.types.expression import EXPRESSION
from data_process.judging.types.number import FLOAT, INTEGER, NUMBER
from data_process.judging.types.number_list import LIST
from data_process.judging.types.text import TEXT
from data_process.schema import DataError, Problem, Verdict

# Stored with every verdict. Raise it with any change that can change a verdict, then rejudge the runs that you keep.
JUDGE_VERSION = "4"

# By answer type: the names of schema.AnswerType.
JUDGES: dict[str, AnswerJudge] = {
    "choice": CHOICE,
    "integer": INTEGER,
    "float": FLOAT,
    "number": NUMBER,
    "list": LIST,
    "text": TEXT,
    "expression": EXPRESSION,
}


def judge(text: str, problem: Problem, *, truncated: bool = False) -> Verdict:
    """The verdict on a response to a problem.

    An answer is correct if it is the gold answer or one of the problem's alternatives.
    `truncated`: the token limit cut the text, so only an answer that was complete before the cut counts.
    Never raises because of `text`; raises DataError where the problem's gold answer or answer type cannot be used.
    """
    verdict = _judge_of(problem).judge(text, problem, truncated)
    for answer in problem.alternatives:
        if verdict.correct:
            break
        other = _judge_of(problem).judge(text, replace(problem, answer=answer, alternatives=()), truncated)
        if other.correct or verdict.status == "abstain":
            verdict = other
    return verdict


def same_answer(a: Verdict, b: Verdict) -> bool:
    """Whether the judge holds the answers of two responses to one problem equal: 2√3 and 3.46. No gold answer is used.

    Only numbers and expressions have several canonical texts for one value. False where one is an abstention.
    """
    if a.extracted is None or b.extracted is None:
        return False
    forms = {a.rule.rpartition("/")[2], b.rule.rpartition("/")[2]}
    if a.extracted == b.extracted:
        return True
    if forms == {"expression"}:
        return equivalent(a.extracted, b.extracted)
    # 0.33333333 is 0.333333333333; whole numbers compare exactly.
    rounded = forms == {"number"} and "." in a.extracted and "." in b.extracted
    return rounded and same_value(Fraction(a.extracted), Fraction(b.extracted))


def has_other_forms(verdict: Verdict) -> bool:
    """Whether `same_answer` may hold another text equal to this answer; otherwise its text is its only form."""
    form = verdict.rule.rpartition("/")[2]
    return verdict.extracted is not None and (form == "expression" or (form == "number" and "." in verdict.extracted))


def check_gold(problem: Problem) -> None:
    """Raises UnreadableGold, a DataError, where the judge of the problem's type cannot read a gold answer."""
    _judge_of(problem).check_gold(problem)
    for answer in problem.alternatives:
        _judge_of(problem).check_gold(replace(problem, answer=answer))


def _judge_of(problem: Problem) -> AnswerJudge:
    if problem.answer_type not in JUDGES:
        raise DataError(
            f"problem {problem.id}: no judge for answer type {problem.answer_type!r}; known: {', '.join(JUDGES)}"
        )
    return JUDGES[problem.answer_type]


__all__ = [
    "JUDGES",
    "JUDGE_VERSION",
    "AnswerJudge",
    "UnreadableGold",
    "check_gold",
    "has_other_forms",
    "judge",
    "same_answer",
]
