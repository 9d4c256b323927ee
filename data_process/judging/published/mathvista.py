"""MathVista's official rule: normalise the extracted answer, then compare it exactly with the gold text.

This reproduces lupantech/MathVista@e999481 (`evaluation/calculate_score.py`) with its defects, so that totals equal the
published ones. Use it for comparison only: it credits a refusal by nearest string (`states_answer` finds those rows),
cuts 3.7 to 3, and cannot read `12%` or `1,234`. Our own judge is `data_process.judging.judge`.

Two cases where this code must choose:
- A free-form problem whose type is not integer, float or list stops the official script (UnboundLocalError). Here the
  row has no prediction and no credit, and its rule is "official:undefined".
- Most result files in that repository were scored before its first commit, by a rule that accepted no decimals for an
  integer: "3.4" had no prediction, where the public script predicts "3". `decimals=False` applies that older rule. It
  changes the score of 8 of 23 result files there, by 1 to 10 answers in 1,000. The public script is the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from data_process.judging.maths.quantity import plain, read_quantity
from data_process.schema import LETTERS, DataError, Problem, Verdict

SOURCE = "lupantech/MathVista@e999481"

_BRACKETED = re.compile(r"\(([a-zA-Z])\)")
_CHOICE_BRACKETED = re.compile(r"(?<!\w)\(([a-zA-Z])\)")  # not the argument of f(a)
_LETTER_ALONE = re.compile(r"\(?([A-Za-z])\)?\s?[.:)]?")
_LIST = re.compile(r"\[[^\[\]]*\d[^\[\]]*\]")
MAX_WORDS = 8  # a longer extraction with a choice's word in it is a sentence about the question


def most_similar(text: str, choices: tuple[str, ...]) -> str:
    """The choice with the smallest edit distance to `text`; the first of them where several are equally near."""
    from rapidfuzz.distance import Levenshtein

    return min(choices, key=lambda choice: Levenshtein.distance(text, choice))


def _multi_choice(extraction: Any, choices: tuple[str, ...]) -> tuple[str, str]:
    """(choice text, rule). A string is stripped; any other value becomes text as it is: null is "None"."""
    text = extraction.strip() if isinstance(extraction, str) else str(extraction)
    bracketed = _BRACKETED.findall(text)
    said = bracketed[0].upper() if bracketed else text
    letters = LETTERS[: len(choices)]
    if len(said) == 1 and said in letters:
        return choices[letters.index(said)], "letter"
    if said in choices:  # distance 0: the nearest string is the choice itself
        return said, "choice"
    return most_similar(said, choices), "nearest" if text else "nearest_to_nothing"


def _number(extraction: Any, convert: Callable[[Any], float]) -> str | None:
    try:
        return str(convert(extraction))
    except (TypeError, ValueError, OverflowError):  # a list; "12%"; "1e999", which is infinite
        return None


def normalise(extraction: Any, problem: Problem, *, decimals: bool = True) -> tuple[str | None, str]:
    """The official prediction for an extraction (any JSON value), and the rule that gave it.

    The prediction is a choice's text, or a number or a list as text; None where the official rule finds nothing.
    `decimals`: an integer may be written with decimals, which are cut off.
    Never raises because of an extraction; raises DataError for a choice problem without choices.
    """
    if problem.answer_type == "choice":
        if not problem.choices:
            raise DataError(f"problem {problem.id}: a multiple-choice problem needs 'choices'")
        return _multi_choice(extraction, problem.choices)
    if problem.answer_type == "integer":
        found = _number(extraction, lambda value: int(float(value) if decimals else value))
    elif problem.answer_type == "float":
        precision = problem.precision
        found = None if precision is None else _number(extraction, lambda value: round(float(value), precision))
    elif problem.answer_type == "list":
        found = str(extraction)
    else:
        return None, "undefined"
    return found, problem.answer_type if found is not None else "unreadable"


def official_verdict(problem: Problem, extraction: Any, *, decimals: bool = True) -> Verdict:
    """The official verdict on an extraction; `extracted` is the official prediction.

    `correct` counts what the official script counts as true. Its false is "wrong" where there is a prediction and
    "abstain" where there is none. `decimals` as in `normalise`.
    """
    prediction, rule = normalise(extraction, problem, decimals=decimals)
    if prediction is None:
        return Verdict("abstain", None, f"official:{rule}")
    # Texts are compared as they stand: "1.20" is not the gold of a prediction rounded to "1.2".
    correct = prediction == problem.gold_text
    return Verdict("correct" if correct else "wrong", prediction, f"official:{rule}")


def states_answer(problem: Problem, extraction: Any) -> bool:
    """Whether the extraction is an answer: a letter, a choice (or clearly a part of one), a number or a list.

    False for an empty extraction, "N/A" or a refusal, which the nearest-string rule may still credit. The strict score
    uses it, and so does the share of an official score that is such credit; it decides no official verdict.
    """
    if problem.answer_type != "choice":
        return normalise(extraction, problem)[0] is not None
    text = extraction.strip() if isinstance(extraction, str) else "" if extraction is None else str(extraction)
    if not text:
        return False
    in_brackets = _CHOICE_BRACKETED.search(text)
    if _LETTER_ALONE.fullmatch(text) or (in_brackets and in_brackets[1].upper() in problem.letters):
        return True
    if text in problem.choices or read_quantity(text, strict=True) is not None or _LIST.fullmatch(text):
        return True
    return _names_choice(text, problem.choices)


def _names_choice(text: str, choices: tuple[str, ...]) -> bool:
    """Whether exactly one choice has this wording, holds it, or is held by it (in at most MAX_WORDS words)."""
    said = plain(text)
    wordings = [plain(choice) for choice in choices]
    if not said or said in wordings:
        return bool(said)
    if len(said.split()) > MAX_WORDS:
        return False

    def within(part: str, whole: str) -> bool:
        # Four characters: "no" stands in "no correct option is given".
        return len(part) >= 4 and re.search(rf"(?<!\w){re.escape(part)}(?!\w)", whole) is not None

    return sum(within(said, wording) or within(wording, said) for wording in wordings) == 1
