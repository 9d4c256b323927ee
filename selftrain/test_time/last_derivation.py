"""The last derivation of a candidate: what a budget's ignore string made the model write anew."""

from __future__ import annotations

from data_process.judging import judge, same_answer
from data_process.schema import Problem
from selftrain.engines.budget import Budget
from selftrain.test_time.records import Attempt

THINK = "<think>"  # an opening tag that the cut text keeps


def last_derivation(attempt: Attempt, problem: Problem, budget: Budget | None) -> str:
    """The candidate's text after its last ignore string; all of it where nothing was ignored.

    A forced candidate holds several derivations, and a prompt that shows all of them is longer than any of its kind.
    A cut text still gives the candidate's answer: where what follows the last ignore string has no derivation, or is
    judged otherwise than the whole text, it is cut at the ignore string before.
    """
    text = attempt.completion.text
    if budget is None or attempt.completion.forcing is None or not attempt.completion.forcing.ignores:
        return text
    for end in sorted(_ends(text, budget), reverse=True):
        rest = text[end:].lstrip(" ,.\n")
        if not rest.partition(budget.end)[0].strip():
            continue
        cut = THINK + rest.removeprefix(THINK) if text.lstrip().startswith(THINK) else rest
        verdict = judge(cut, problem, truncated=attempt.completion.finish == "length")
        if attempt.answer is None or same_answer(verdict, attempt.verdict):
            return cut
    return text


def _ends(text: str, budget: Budget) -> set[int]:
    """Where each ignore string in the text ends. A text of the model's own that reads the same counts, too."""
    ends = set()
    for mark in {ignore.strip() for ignore in budget.ignore}:
        start = text.find(mark)
        while start >= 0:
            ends.add(start + len(mark))
            start = text.find(mark, start + 1)
    return ends
