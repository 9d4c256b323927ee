r"""Reading an expression: `2√3`, `\frac{2\sqrt{5}}{5}`, `9π cm²`, `x^2 - 1`; units and degree signs are stripped."""

from __future__ import annotations

import re
from functools import lru_cache

from data_process.judging.locate.cues import Place, Reading, find_answer
from data_process.judging.locate.statements import last_statement, read_number_statement
from data_process.judging.locate.yes_no import restates
from data_process.judging.maths.equivalence import canonical_expression, equivalent
from data_process.judging.maths.number_words import to_digits
from data_process.judging.maths.quantity import LEAD, MAX_PAYLOAD, canonical, clean, read_quantity, trim_words
from data_process.judging.maths.units import UNIT
from data_process.schema import DataError, Problem, Verdict

# Where a sentence ends, or goes on with a reason.
_END = re.compile(
    r"[.;!?](?=\s|$)|,\s(?=[A-Za-z])|\s(?=(?:because|since|so|as|which|where|when|based|using|from|by)\b)"
)
_VALUE = re.compile(r"(?:[0-9.+*/() ^-]|sqrt|pi)+")  # the canonical text of a number, no letters
_EQUALS = re.compile(r"=|\b(?:is|equals|equal to)\s")
_RATIO = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,4})?)\s?[:∶]\s?([0-9]{1,4}(?:\.[0-9]{1,4})?)")  # 1:4 is the ratio 1/4
_APPROXIMATELY = re.compile(r"≈|\\approx(?![A-Za-z])|\bor (?:about|approximately)\b|\b(?:about|approximately)\b")


def _without_unit(text: str) -> str:
    """`text` without a unit at its end: "30√{3}m", "65π square units", "(√{3}+1)小时"."""
    for m in UNIT.finditer(text):
        before = text[: m.start()].strip()
        # "3m" may be a unit or a letter: a unit only behind what is a value by itself.
        at_end = before and re.fullmatch(r"[\s.]*", text[m.end() :])
        if at_end and not re.search(r"[A-Za-z]$", before) and canonical_expression(before):
            return before
    return text


def _whole(text: str) -> str | None:
    """The canonical text of `text` as one expression, with or without its unit."""
    text = text.strip().rstrip(".,;").strip()
    if not text:
        return None
    if ratio := _RATIO.fullmatch(text):
        text = f"({ratio[1]})/({ratio[2]})"
    bare = _without_unit(text)
    return canonical_expression(bare) or canonical_expression(trim_words(bare))


@lru_cache(maxsize=1 << 14)
def read_gold(text: str) -> str | None:
    """The canonical text of a gold answer or of a line that is an answer and nothing else."""
    text = clean(text)
    if text.count("=") > 1:  # a derivation: "BC = 3 * 5 / 2 = 7.5"
        text = text.rpartition("=")[2]
    found = _whole(text)
    if found is None or not re.search(r"(?<![<>!≤≥])=(?!=)", text):
        return found
    left, _, right = text.rpartition("=")
    return _whole(right) if re.fullmatch(r"[A-Za-z∠△\\ ]{1,12}", left.strip()) else found  # "AB = 2√3", "x = 5"


@lru_cache(maxsize=1 << 14)
def _inline(text: str) -> str | None:
    text = clean(to_digits(text))
    lead = LEAD.match(text)
    text = text[lead.end() :] if lead else text
    end = _END.search(text)
    whole, text = text, text[: end.start()] if end else text
    exact, *rounded = _APPROXIMATELY.split(text, maxsplit=1)  # "2√3 ≈ 3.46": the exact side
    if not rounded and (found := read_gold(text)) is not None:
        return found
    sides = [exact, *_EQUALS.split(exact)[-1:]] if rounded else []
    if found := next((f for side in sides if side.strip() and (f := read_gold(side)) and _VALUE.fullmatch(f)), None):
        return found
    quantity = read_quantity(whole)
    if quantity is not None:
        return canonical(quantity.value)
    *names, last = _EQUALS.split(text)
    named = names and not re.search(r"[-+*/^√|<>]|\\frac|\\sqrt", "".join(names))  # "x^2 + y^2 = 4" is an equation
    return _whole(last) if named else None


def read_expression(payload: str, place: Place, question: str = "") -> Reading:
    """What `payload` says, as canonical text."""
    if not payload.strip():
        return Reading(None, "no_answer")
    if place in ("statement", "opening"):
        found = _statement(payload, question) if place == "statement" or restates(payload, question) else None
        return Reading(found, "expression" if found else "unreadable_answer")
    if len(payload) > MAX_PAYLOAD:
        payload = payload[:MAX_PAYLOAD].rpartition(". ")[0]  # only whole sentences of what is cut
    found = _inline(payload) if place in ("inline", "bold") else read_gold(payload)
    if found is None or (place != "inline" and not re.search(r"[0-9]|pi", found)):
        return Reading(None, "unreadable_answer")
    return Reading(found, "expression")


def _statement(sentence: str, question: str) -> str | None:
    """A root or a multiple of π that ends a sentence, or the number that it states."""
    stated = last_statement(sentence)
    found = read_gold(stated) if stated else None
    if found is not None and _VALUE.fullmatch(found) and ("sqrt" in found or "pi" in found):
        return found
    quantity = read_number_statement(sentence, question)
    return None if quantity is None else canonical(quantity.value)


def check_gold(problem: Problem) -> str:
    """The gold answer in canonical text; DataError where it cannot be read."""
    gold = read_gold(problem.answer)
    if gold is None:
        raise DataError(
            f"problem {problem.id}: gold {problem.answer!r} is not an expression that can be read; "
            "write it as 2\\sqrt{3}, 3\\pi, \\frac{12}{5} or x^2+1, at most 60 characters"
        )
    return gold


def judge_expression(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Verdict on a response whose answer is an expression; DataError when the gold answer cannot be read."""
    gold = check_gold(problem)

    found = find_answer(text, lambda payload, place: read_expression(payload, place, problem.question), truncated)
    if found.answer is None:
        return Verdict("abstain", None, found.rule)
    status = "correct" if equivalent(found.answer, gold) else "wrong"
    return Verdict(status, found.answer, found.rule, found.span)
