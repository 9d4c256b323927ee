"""Numbers: a decimal, a fraction, a percentage, scientific notation, or words. Units and degree signs are stripped.

Three answer types are read in the same way and compared differently: "number" within a tolerance, "integer" exactly,
"float" after rounding to the problem's decimals. The extracted text alone decides the verdict, so a vote counts what
was judged.
"""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from data_process.judging.locate.cues import Found, Place, Reading, find_answer
from data_process.judging.locate.statements import read_number_statement
from data_process.judging.locate.yes_no import restates
from data_process.judging.maths.canonical import read_standalone
from data_process.judging.maths.number_words import COUNTERS, to_digits
from data_process.judging.maths.quantity import REL_TOL, Quantity, canonical, clean, read_quantity
from data_process.judging.maths.scales import degrees, on_scale, percentages, written_out
from data_process.judging.maths.units import factor, read_unit
from data_process.judging.types.base import AnswerJudge, UnreadableGold, verdict_on
from data_process.limits import MAX_PRECISION
from data_process.schema import DataError, Problem, Verdict

# A plain four-digit gold in this range without a unit is a year: a tolerance of 5% would forgive a century.
_YEARS = range(1800, 2101)

# "in millions", not "to the nearest hundred" or "a town of 2 million people"
_SCALE = re.compile(r"(?<!nearest )(?<![0-9]\s)\b(hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)
_IN_SCALE = re.compile(
    r"(?:\bin|\bhow many|[(:])\s?(?:the\s|US\s|\$\s?)?(?:hundred|thousand|million|billion|trillion|dozen)",
    re.IGNORECASE,
)
_SIZES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_BELOW_13 = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"


_COUNT = re.compile(
    rf"(?:一?共(?:有|计)?|总共(?:有)?|总计|合计|合計|全部で|大?约(?:为)?|約)?\s?([+-]?[0-9]+(?:\.[0-9]+)?)\s?[{COUNTERS}]?(?:です|である|だ)?[.。]?"
)


def read_value(payload: str, place: Place) -> Quantity | None:
    """The one value that `payload` states; digits are tried before number words."""
    strict = place not in ("inline", "bold")
    if not payload.isascii() and (count := _COUNT.fullmatch(to_digits(clean(payload[:40])))):
        payload = count[1]  # 共有5辆
    found = read_quantity(payload, strict=strict)
    if found is None and (digits := to_digits(payload[:400])) != payload[:400]:
        found = read_quantity(digits, strict=strict)
    return found


def _in_unit(quantity: Quantity, unit: str) -> Fraction:
    """The value in the unit that the problem asks for; a unit of another dimension is ignored."""
    scale = factor(quantity.unit, unit) if unit and quantity.unit != unit else None
    return quantity.value * scale if scale is not None else quantity.value


def _angle(payload: str) -> Quantity | None:
    """The degrees of an angle that stands as a multiple of π and nothing else: π/6 is 30."""
    if not re.search(r"π|pi(?![a-z])", payload):
        return None
    found = read_standalone(re.sub(r"\s?rad(?:ians?)?\b", "", payload))
    angle = degrees(found) if found else None
    return None if angle is None else Quantity(angle, "°")


def _find(text: str, problem: Problem, truncated: bool, gold: Quantity) -> Found:
    unit = read_unit(problem.unit) or gold.unit
    scale = _SCALE.search(f"{problem.question} {problem.unit or ''}")
    if (
        scale
        and not problem.unit
        and abs(gold.value) >= _SIZES[scale[1].lower()]
        and not _IN_SCALE.search(problem.question)
    ):
        scale = None  # the answer is written out: 5,000,000
    wanted = percentages(problem.question, problem.unit, problem.answer)

    def read(payload: str, place: Place) -> Reading:
        if not payload.strip():
            return Reading(None, "no_answer")
        payload = written_out(payload, problem)
        if scale:  # "5 million" is 5 where the question asks for millions
            payload = re.sub(rf"(?<=[0-9])\s?{scale[1]}s?(?![A-Za-z])", "", payload, flags=re.IGNORECASE)
            payload = re.sub(rf"\b({_BELOW_13})\s{scale[1]}s?(?![A-Za-z])", r"\1", payload, flags=re.IGNORECASE)
        if place == "statement":
            quantity = read_number_statement(payload, problem.question)
        elif place == "opening":  # it must restate the question: a derivation opens with given values
            restated = restates(payload, problem.question)
            quantity = read_number_statement(payload, problem.question, verb=True) if restated else None
        else:
            quantity = read_value(payload, place)
            if quantity is None and unit == "°" and place in ("inline", "bare", "below", "bold"):
                quantity = _angle(payload)
        if quantity is None:
            return Reading(None, "unreadable_answer")
        quantity = replace(quantity, value=on_scale(quantity, payload, wanted))
        return Reading(canonical(_in_unit(quantity, unit)), "number", closed=quantity.ended)

    return find_answer(text, read, truncated)


def read_gold(problem: Problem) -> Quantity:
    """The gold value; DataError where the gold answer is not a plain number, or not one of its type."""
    gold = read_quantity(problem.answer, strict=True)
    if gold is None:
        raise UnreadableGold(
            f"problem {problem.id}: gold {problem.answer!r} is not a number; write it as 12.5, -3 or 3/4"
        )
    if problem.answer_type == "integer" and gold.value.denominator != 1:
        raise DataError(f"problem {problem.id}: gold {problem.answer!r} is not an integer; use number or float")
    if problem.answer_type == "float" and problem.precision is None:
        raise DataError(f"problem {problem.id}: a float problem needs precision, the decimals of its answer")
    return gold


def allowed_error(problem: Problem, gold: Fraction) -> Fraction:
    """How far the answer to a number problem may be from its gold value, boundary included.

    Without a tolerance it is REL_TOL of the gold value. A relative tolerance does not apply to a year.
    """
    if problem.absolute_tolerance is not None:
        return Fraction(repr(problem.absolute_tolerance))
    is_year = re.fullmatch(r"[12][0-9]{3}", problem.answer.strip()) and int(problem.answer) in _YEARS
    if problem.tolerance is None or (is_year and not problem.unit):
        return REL_TOL * abs(gold)
    # From its decimal text: 0.05 is 1/20, so that the boundary itself is inside.
    return Fraction(repr(problem.tolerance)) * abs(gold)


def judge_number(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Correct within the problem's tolerance; DataError where the gold answer is not a plain number."""
    gold = read_gold(problem)
    allowed = allowed_error(problem, gold.value)
    found = _find(text, problem, truncated, gold)
    return verdict_on(found, lambda answer: abs(Fraction(answer) - gold.value) <= allowed)


def judge_integer(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Correct where the values are equal: `3.0` is 3, and `3.7` is an answer, but a wrong one.

    The official MathVista score cuts 3.7 to 3 and may credit it.
    """
    gold = read_gold(problem)
    return verdict_on(_find(text, problem, truncated, gold), lambda answer: Fraction(answer) == gold.value)


def judge_float(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Correct where response and gold are equal after rounding to the problem's `precision`."""
    gold, places = read_gold(problem), min(problem.precision or 0, MAX_PRECISION)
    found = _find(text, problem, truncated, gold)
    if found.answer is not None:
        found = replace(found, answer=round_to(Fraction(found.answer), places))
    return verdict_on(found, lambda answer: answer == round_to(gold.value, places))


def round_to(value: Fraction, places: int) -> str:
    """`value` with `places` decimals, a tie away from zero as in school: 1.255 with 2 is "1.26"."""
    scaled = abs(value) * 10**places
    whole = int(scaled + Fraction(1, 2))
    text = format(Decimal(whole).scaleb(-places), "f")
    return f"-{text}" if value < 0 and whole else text


INTEGER = AnswerJudge(judge_integer, read_gold, "Write it as a whole number in digits.")
FLOAT = AnswerJudge(judge_float, read_gold, "Write it as a decimal number in digits.")
NUMBER = AnswerJudge(judge_number, read_gold, "Write it as a number in digits.")
