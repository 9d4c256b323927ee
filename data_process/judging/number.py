"""Reading a number: decimal, fraction, percent, scientific; units and degree signs are stripped."""

from __future__ import annotations

from fractions import Fraction

from data_process.judging.answers import canonical, read_quantity, same_value
from data_process.judging.cues import Place, Reading, find_answer
from data_process.schema import DataError, Problem, Verdict


def read_number(payload: str, place: Place) -> Reading:
    """What `payload` says, as canonical decimal text."""
    if not payload.strip():
        return Reading(None, "no_answer")
    quantity = read_quantity(payload, strict=place != "inline")
    if quantity is None:
        return Reading(None, "unreadable_answer")
    return Reading(canonical(quantity.value), "number", closed=quantity.ended)


def judge_number(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Verdict on a response whose answer is a number; DataError when the gold answer is not a plain number."""
    gold = read_quantity(problem.answer, strict=True)
    if gold is None:
        raise DataError(f"problem {problem.id}: gold {problem.answer!r} is not a number; write it as 12.5, -3 or 3/4")
    found = find_answer(text, read_number, truncated)
    if found.answer is None:
        return Verdict("abstain", None, found.rule)
    status = "correct" if same_value(Fraction(found.answer), gold.value) else "wrong"
    return Verdict(status, found.answer, found.rule, found.span)
