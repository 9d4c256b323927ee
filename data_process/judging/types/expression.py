r"""Expressions: `2√3`, `\frac{2\sqrt{5}}{5}`, `9π cm²`, `x^2 - 1`. Units and degree signs are stripped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from data_process.judging.locate.cues import Place, Reading, find_answer
from data_process.judging.locate.statements import last_statement, read_number_statement
from data_process.judging.locate.yes_no import restates
from data_process.judging.maths.canonical import read_standalone, read_with_unit, without_names
from data_process.judging.maths.equivalence import equivalent
from data_process.judging.maths.forms import is_point, named_values, several_values
from data_process.judging.maths.number_words import to_digits
from data_process.judging.maths.quantity import LEAD, MAX_PAYLOAD, canonical, clean, read_quantity
from data_process.judging.maths.scales import as_expressions, degrees, percentages
from data_process.judging.types.base import AnswerJudge, UnreadableGold, verdict_on
from data_process.schema import Problem, Verdict

# Where a sentence ends, or continues with a reason.
_END = re.compile(
    r"[.;!?](?=\s|$)|,\s(?=[A-Za-z])|\s(?=(?:because|since|so|as|which|where|when|based|using|from|by)\b)"
)
_VALUE = re.compile(r"(?:[0-9.+*/() ^-]|sqrt|pi)+")  # the canonical text of a number, no letters
_EQUALS = re.compile(r"=|\b(?:is|equals|equal to)\s")
_APPROXIMATELY = re.compile(r"≈|\\approx(?![A-Za-z])|\bor (?:about|approximately)\b|\b(?:about|approximately)\b")


_HEDGE = re.compile(
    r"[.,;]\s+(?:or|alternatively|maybe|perhaps|possibly|otherwise)\b|;\s*[-0-9√\\]|^[^.!?]{1,60}\?", re.IGNORECASE
)
# A letter that the question uses as an unknown although it could be a unit: "the range of m", "$m^2 = 4$".
_UNKNOWN = re.compile(
    r"(?<![A-Za-z0-9\\])([mgshL])(?=\s?[=+<>^≤≥-])|[-=+<>≤≥0-9]\s?([mgshL])(?=\s?[=+<>^≤≥$)-])|\b(?:of|for|find)\s\$?([mgshL])\b(?!\.\w)"
    r"|\b(?:sides?|lengths?|widths?|heights?|number|variables?|let|and)\s\$?([mgshL])\b(?![./]\w|\s?\))"
)


@lru_cache(maxsize=1 << 12)
def unknowns(question: str) -> str:
    """The letters among m, g, s, h and L that the question uses as unknowns."""
    return "".join(sorted({next(filter(None, m.groups())) for m in _UNKNOWN.finditer(question)}))


@lru_cache(maxsize=1 << 14)
def _inline(text: str, variables: str = "") -> str | None:
    """The canonical text of what follows a cue, up to the end of its sentence."""
    text = clean(to_digits(text))
    lead = LEAD.match(text)
    text = text[lead.end() :] if lead else text
    if _HEDGE.search(text) or re.search(r"\bnot\b", text):
        return None
    if (found := read_standalone(text, variables)) is not None:
        return found
    end = _END.search(text)
    whole, text = text, text[: end.start()] if end else text
    exact, *rounded = _APPROXIMATELY.split(text, maxsplit=1)  # "2√3 ≈ 3.46": the exact side
    if not rounded and (found := read_standalone(text, variables)) is not None:
        return found
    for side in [exact, *_EQUALS.split(exact)[-1:]] if rounded else []:
        if side.strip() and (found := read_standalone(side, variables)) and _VALUE.fullmatch(found):
            return found
    quantity = read_quantity(whole)
    if quantity is not None:
        return canonical(quantity.value)
    *names, last = _EQUALS.split(text)
    named = names and not re.search(r"[-+*/^√|<>]|\\frac|\\sqrt", "".join(names))  # "x^2 + y^2 = 4" is an equation
    return read_with_unit(last, variables) if named else None


def _statement(sentence: str, question: str) -> str | None:
    """A root or a multiple of π that ends a sentence, or the number that the sentence states."""
    stated = last_statement(sentence, question)
    found = read_standalone(stated) if stated else None
    if found is not None and _VALUE.fullmatch(found) and ("sqrt" in found or "pi" in found):
        return found
    quantity = read_number_statement(sentence, question)
    return None if quantity is None else canonical(quantity.value)


@dataclass(frozen=True)
class _Form:
    """What the form of a gold answer says about how responses are read; its value says nothing."""

    variables: str = ""  # as in `canonical_expression`
    several: bool = False  # it holds several values
    point: bool = False  # it is a tuple, for which "x=2, y=3" may stand
    radians: bool = False  # a multiple of π: 30° is π/6
    degrees: bool = False  # with a degree sign: π/6 is 30
    shares: bool = False  # 75% is 3/4


@lru_cache(maxsize=1 << 12)
def _form(gold: str, answer: str, question: str, unit: str | None) -> _Form:
    named = unknowns(question)
    letters = "".join(sorted({*named, *re.findall("[mgshL]", without_names(gold))}))
    angular = "°" in clean(answer) or "degree" in (unit or "")
    return _Form(
        variables=letters,
        several=several_values(gold),
        point=is_point(gold),
        radians=not angular and re.search(r"pi|π", gold) is not None,
        degrees=angular,
        shares=percentages(question, unit, answer) in ("share", "decimal"),
    )


_SCALED = re.compile(r"[°%]|circ|degree")


def read_expression(payload: str, place: Place, form: _Form, question: str = "") -> Reading:
    """The expression that `payload` states, as canonical text; several values are an answer only where the gold's form
    has several."""
    if not payload.strip():
        return Reading(None, "no_answer")
    if place in ("statement", "opening"):
        found = _statement(payload, question) if place == "statement" or restates(payload, question) else None
        return Reading(found, "expression" if found else "unreadable_answer")
    if len(payload) > MAX_PAYLOAD:
        payload = payload[:MAX_PAYLOAD].rpartition(". ")[0]  # only the sentences that are whole
    if (form.radians or form.shares) and _SCALED.search(payload):
        payload = as_expressions(clean(payload), radians=form.radians, shares=form.shares)
    inline = place in ("inline", "bold")
    found = _inline(payload, form.variables) if inline else read_standalone(payload, form.variables)
    if found is None or (place != "inline" and not re.search(r"[0-9]|pi", found)):
        return Reading(None, "unreadable_answer")
    if form.degrees and "pi" in found and (angle := degrees(found)) is not None:
        found = canonical(angle)
    if several_values(found) and not form.several and not (form.point and named_values(found)):
        return Reading(None, "several_answers")
    return Reading(found, "expression")


def read_gold(problem: Problem) -> str:
    """The gold answer as canonical text; UnreadableGold where it cannot be read."""
    gold = read_standalone(problem.answer, unknowns(problem.question))
    if gold is None:
        raise UnreadableGold(
            f"problem {problem.id}: gold {problem.answer!r} is not an expression that can be read; "
            "write it as 2\\sqrt{3}, 3\\pi, \\frac{12}{5} or x^2+1, at most 60 characters"
        )
    return gold


def judge_expression(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Correct where the expression is equivalent to the gold answer; DataError where the gold cannot be read."""
    gold = read_gold(problem)
    form = _form(gold, problem.answer, problem.question, problem.unit)

    def read(payload: str, place: Place) -> Reading:
        return read_expression(payload, place, form, problem.question)

    found = find_answer(text, read, truncated)
    return verdict_on(found, lambda answer: equivalent(answer, gold))


EXPRESSION = AnswerJudge(
    judge_expression, read_gold, "Write it as the mathematical expression that the response gives."
)
