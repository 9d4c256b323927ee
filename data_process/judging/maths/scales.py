r"""One scale for percentages, angles and large numbers: 75% is 3/4, π/6 is 30°, 5M is 5 million, as a problem asks.

What a problem asks is read from its question, its unit and the form of its gold answer. The value of the gold answer
counts for nothing, so that votes do not depend on it.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from data_process.judging.maths.quantity import NUMBER, Quantity, number_value
from data_process.judging.maths.surds import read_exact
from data_process.schema import Problem

# "percent": 3/4 is 75. "share": 75% is 3/4. "decimal": so too, but 0.75% is 0.75, as charts label it.
Percentages = Literal["percent", "share", "decimal"]

_PERCENT = re.compile(r"[%％]|\bper\s?cent(?!ile)|百分|パーセント", re.IGNORECASE)
_SHARE = re.compile(
    r"\b(?:fractions?|probabilit(?:y|ies)|proportions?|ratios?|likelihood|odds|what (?:part|share) of)\b|概率|几分之几"
    r"|確率|何分のいくつ",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"[$\s]*[-+]?\s?(?:\\[dt]?frac\s?.{2,60}|[0-9]{1,9}\s?/\s?[0-9]{1,9})[$\s.]*")
_BELOW_ONE = re.compile(r"\s*[-+]?0?\.[0-9]+\s*")


@lru_cache(maxsize=1 << 12)
def percentages(question: str, unit: str | None, gold: str) -> Percentages | None:
    """How a problem wants a percentage to be read; None where it does not say: then 75% is 75."""
    if _PERCENT.search(gold) or (unit and _PERCENT.search(unit)):
        return "percent"
    if _FRACTION.fullmatch(gold):
        return "share"
    if _PERCENT.search(question):
        return "percent"
    if _SHARE.search(question):
        return "share"
    return "decimal" if _BELOW_ONE.fullmatch(gold) else None


def on_scale(quantity: Quantity, payload: str, wanted: Percentages | None) -> Fraction:
    """The value of a quantity that `payload` states, on the scale that the problem wants."""
    value = quantity.value
    if quantity.unit == "%" and (wanted == "share" or (wanted == "decimal" and abs(value) >= 1)):
        return value / 100
    # "3/4" where a percentage is asked for; "0.75" may be 0.75%.
    if wanted == "percent" and not quantity.unit and abs(value) <= 1 and _written_as_fraction(value, payload):
        return value * 100
    return value


def _written_as_fraction(value: Fraction, payload: str) -> bool:
    if value.denominator == 1:
        return False
    found = [m for m in NUMBER.finditer(payload) if number_value(m) == value]
    return bool(found) and all(m["ln"] or m["sn"] or m["n"] or m["mixed"] for m in found)


def degrees(canonical: str) -> Fraction | None:
    """The degrees of an angle that the canonical text of an expression gives as a multiple of π: 30 for "pi/6"."""
    value = read_exact(canonical)
    if value is None or set(value) != {(1, 1)}:
        return None
    return value[(1, 1)] * 180


_TRIGONOMETRIC = re.compile(r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"(?<![\w.])(-?[0-9]+(?:\.[0-9]+)?)\s?(?:°|degrees?\b)")
_PERCENTAGE = re.compile(r"(?<![\w.])(-?[0-9]+(?:\.[0-9]+)?)\s?\\?%")


def as_expressions(text: str, *, radians: bool, shares: bool) -> str:
    """A cleaned text with its degrees as multiples of π, and its percentages as fractions, where these are wanted."""
    if radians and not re.search(r"π|pi", text) and not _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"(\1*π/180)", text)
    return _PERCENTAGE.sub(r"(\1/100)", text) if shares else text


# "5M", "$3.2bn", "12k"; not "5m" (metres), "5M/s" or "5Mb". "40 B" may be a letter.
_SUFFIXED = re.compile(
    r"(?<![\w.,])(?P<number>[0-9]{1,3}(?:,[0-9]{3}){1,3}(?:\.[0-9]{1,6})?|[0-9]{1,9}(?:\.[0-9]{1,6})?)"
    r"(?:(?P<letter>[KkMBT]|\s[KM])|\s?(?P<short>bn|mn|mln|mio|tn))(?=$|[\s.,;:!?)}\]*_$\"'”’、。，<]|[\u3040-\u9fff])"
)
_SIZES = {
    "k": "thousand", "m": "million", "mn": "million", "mln": "million", "mio": "million", "b": "billion",
    "bn": "billion", "t": "trillion", "tn": "trillion",
}  # fmt: skip
# What a letter stands for where the problem speaks of it.
_UNITS = {
    "k": r"kelvin|temperature|温度", "m": r"\bmol|concentration|摩尔|浓度|濃度", "t": r"tesla|magnetic|磁",
    "b": r"\bbytes?\b|bel\b",
}  # fmt: skip


def written_out(text: str, problem: Problem) -> str:
    """`text` with "5M" as "5 million", or as 5 where the problem speaks of a unit of that letter, such as molar.

    It stays where the letter occurs in the problem by itself, for instance as an unknown.
    """
    if not re.search(r"[0-9]\s?(?:[KkMBT]|bn|mn|mln|mio|tn)", text):
        return text
    about = f"{problem.question} {problem.unit or ''}"

    def words(m: re.Match[str]) -> str:
        letter = (m["letter"] or "").strip().lower()
        if letter and re.search(_UNITS[letter], about, re.IGNORECASE):
            return m["number"]
        if letter and re.search(rf"(?<![A-Za-z'’]){letter}(?![A-Za-z'’.])", about, re.IGNORECASE):
            return m[0]
        return f"{m['number']} {_SIZES[letter or m['short']]}"

    return _SUFFIXED.sub(words, text)
