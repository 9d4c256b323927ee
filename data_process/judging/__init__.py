"""One judge for filtering training data, for voting and for scoring.

Three verdicts: correct, wrong, abstain (nothing readable: never credited, never a vote). No letter is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from data_process.judging.types import expression, number, number_list
from data_process.judging.types import text as text_judge
from data_process.judging.types.choice import check_letter, judge_choice
from data_process.judging.types.expression import judge_expression
from data_process.judging.types.number import judge_float, judge_integer, judge_number
from data_process.judging.types.number_list import judge_list
from data_process.judging.types.text import judge_text
from data_process.schema import DataError, Problem, Verdict

# Recorded with every verdict file: raise it with any change that can change a verdict, then re-judge the bank.
JUDGE_VERSION = "2"

# (text, problem, truncated) -> Verdict. A new answer type is a function here and a name in schema.AnswerType.
JUDGES: dict[str, Callable[[str, Problem, bool], Verdict]] = {
    "choice": judge_choice,
    "integer": judge_integer,
    "float": judge_float,
    "number": judge_number,
    "list": judge_list,
    "text": judge_text,
    "expression": judge_expression,
}


def judge(text: str, problem: Problem, *, truncated: bool = False) -> Verdict:
    """Does `text` answer `problem`?

    `truncated`: the text was cut by the token limit, so only an answer that was complete before the cut counts.
    Never raises because of `text`; DataError when the problem's own answer or answer type cannot be used.
    """
    if problem.answer_type not in JUDGES:
        raise DataError(
            f"problem {problem.id}: no judge for answer type {problem.answer_type!r}; known: {', '.join(JUDGES)}"
        )
    return JUDGES[problem.answer_type](text, problem, truncated)


def check_gold(problem: Problem) -> None:
    """DataError where the judge of the problem's type cannot read the gold answer."""
    if problem.answer_type == "choice":
        check_letter(problem)
    elif problem.answer_type == "expression":
        expression.check_gold(problem)
    elif problem.answer_type == "list":
        number_list.read_gold(problem)
    elif problem.answer_type == "text":
        text_judge.read_gold(problem)
    else:
        number.read_gold(problem)


__all__ = ["JUDGES", "JUDGE_VERSION", "check_gold", "judge"]
