r"""One text for each value: `2.40` and `\frac{12}{5}` are "2.4", `10 sqrt 2` and `√200` are "10*sqrt(2)".

Expressions with letters keep their own text without blanks. Votes count these texts, and `equivalence` compares them.
"""

from __future__ import annotations

import re
from functools import lru_cache

from data_process.judging.maths.forms import alternatives, spell
from data_process.judging.maths.quantity import canonical, clean, read_quantity, trim_words
from data_process.judging.maths.surds import rational, read_exact, surd_text
from data_process.judging.maths.units import UNIT

MAX_SYMBOLIC = 60  # characters of an expression with letters
FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|ln|exp"
_COMMANDS = (
    rf"\\(?:{FUNCTIONS}|[dt]?frac|sqrt|pi|cdot|times|div|pm|le|leq|ge|geq|ne|neq|cup|cap|infty|alpha|beta"
    r"|gamma|theta|phi|lambda|mu|omega|left|right|[{}])(?![A-Za-z])"
)
_ALLOWED = re.compile(rf"(?:{_COMMANDS}|\\[{{}}]|{FUNCTIONS}|sqrt|[0-9A-Za-z+\-*/^_=<>≤≥≠±∪∞π√(){{}}\[\],.| ])*")
_BEARING = re.compile(r"[NSEW]\s?[0-9.]+\s?°?\s?[NSEW]?|.*°\s?[A-Z].*")  # "N 30° W" is text
_OPTION = re.compile(r"\(?[A-D][.):]\)?\s+(?=.*[0-9])")  # "B. 2√3" where no choices were given


# What an answer may be called: "AB = 2√3", "f(x) = 2x", "Area = 9π"; not "Assume AB = 5".
_NAME = re.compile(
    r"(?:[mSCV]\s?(?=[\\∠△A-Z]))?(?:\\(?:angle|triangle)\s?|[∠△]\s?)?(?:[A-Za-z]|(?:[A-Z]'?\s?){2,4})(?:_\{?\w{1,4}\}?)?"
    r"|[A-Za-z]\([A-Za-z]\)|(?i:(?:surface\s|total\s)?(?:area|volume|slope|gradient|perimeter|circumference|length|height"
    r"|width|radius|diameter|distance|speed|time|sum|total|ratio|probability|mean|median|mode|range|answer|value|cost"
    r"|price))"
)


def without_names(text: str, *others: str) -> str:
    """`text` with commands, roots and functions blanked, so that the letters left are variables or words."""
    return re.sub("|".join((r"\\[A-Za-z]+", "sqrt", *others, FUNCTIONS)), " ", text)


def is_expression(text: str) -> bool:
    """Whether `text` is mathematics, not a word or a sentence: known signs, commands and single letters."""
    if len(text) > MAX_SYMBOLIC or not _ALLOWED.fullmatch(text):
        return False
    words = r"[A-Za-z]{3}|\b(?:or|and|is|no|to|of|it|in|at|so|as|an|we)\b"
    return not re.search(words, without_names(text))


def canonical_expression(text: str, variables: str = "") -> str | None:
    r"""The canonical text of an expression without a unit or a sentence around it; None for anything else.

    `2.40` and `\frac{12}{5}` are "2.4", `10 sqrt 2` is "10*sqrt(2)", `x + 1` is "x+1". A letter in `variables` is
    an unknown, not a unit: `2m` stays "2m".
    """
    quantity = None if _ends_in(text, variables) else read_quantity(text, strict=True)
    if quantity is not None:
        return canonical(quantity.value)
    value = read_exact(text)
    if value is not None:
        fraction = rational(value)
        return surd_text(value) if fraction is None else canonical(fraction)
    squeezed = re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text.strip())
    return squeezed if squeezed and is_expression(squeezed) and re.search(r"[A-Za-z0-9]", squeezed) else None


def _ends_in(text: str, variables: str) -> bool:
    return bool(variables) and re.search(rf"[{variables}](?:\^\{{?[0-9]\}}?)?[\s.]*$", text) is not None


_TEXT_UNIT = re.compile(
    r"(?<=[0-9})π])\s?\\(?:text|mathrm|textrm)\s?\{[~\s\\]{0,3}(?!or\b|and\b)"
    r"[A-Za-z][A-Za-z/· ]{0,20}\}(?:\^\{?-?[23]\}?)?[\s$.]*$"
)
_PLAIN_UNIT = re.compile(r"(?<=[0-9])\s(N|J|W|V|Pa|kPa|Hz|kN|kJ|kW|Ω|mol)$")  # "8N" may be 8 times N
_MEMBER = re.compile(r"^[A-Za-z]\s?(?:∈|\\in(?![a-z]))\s?(?=[\[({\\])")  # k ∈ (1, 2)
_POINT = re.compile(r"[A-Z]'?\s?(\([^()]{1,40},[^()]{1,40}\))")  # A(1, 2)


@lru_cache(maxsize=1 << 14)
def read_standalone(text: str, variables: str = "") -> str | None:
    """The canonical text of a gold answer, or of a line that is an answer and nothing else; None where it is neither.

    Reads over a unit ("30√{3}m"), a name ("AB = 2√3") and a derivation ("BC = 3 * 5 / 2 = 7.5"). Several values are a
    set ("5 or -5") or a list ("5, 6"). `variables` as in `canonical_expression`.
    """
    text = clean(_TEXT_UNIT.sub("", text)).rstrip(".,;").strip()
    if whole := re.fullmatch(r"\{([^{}]*)\}", text):  # \text{12 cm}
        text = whole[1].strip()
    text = _MEMBER.sub("", text)
    if point := _POINT.fullmatch(text):
        text = point[1]
    if (unit := _PLAIN_UNIT.search(text)) and unit[1] not in variables:
        text = text[: unit.start()]
    if _BEARING.fullmatch(text):
        return None
    text = spell(text)
    if option := _OPTION.match(text):
        text = text[option.end() :]
    if re.search(r",|±|;|、|\b(?:or|and)\b|[或和]|または", text):
        several = alternatives(text, lambda part: _read_one(part, variables))
        if several is not None:
            return several
    return _read_one(text, variables)


def _read_one(text: str, variables: str) -> str | None:
    """The canonical text of one value, equation or inequality."""
    if text.count("=") > 1 and not re.search(r"[,;]|\bor\b", text):
        text = text.rpartition("=")[2]
    if not re.search(r"(?<![<>!≤≥])=(?!=)", text):
        return read_with_unit(text, variables)
    left, _, right = text.rpartition("=")
    return read_with_unit(right if _NAME.fullmatch(left.strip()) else text, variables)


def read_with_unit(text: str, variables: str = "") -> str | None:
    """The canonical text of one expression that may have a unit; a ratio `1:4` is 1/4, and `2:4:8` is 1:2:4."""
    text = text.strip().rstrip(".,;").strip()
    if not text:
        return None
    if re.search(r"[:∶]", text):
        return _ratio(text)
    bare = _without_unit(text, variables)
    return canonical_expression(bare, variables) or canonical_expression(trim_words(bare), variables)


def _ratio(text: str) -> str | None:
    parts = [canonical_expression(part) for part in re.split(r"[:∶]", text)]
    items = [part for part in parts if part is not None and not re.search(r"[=<>,]", part)]
    if len(items) != len(parts) or not 2 <= len(items) <= 5:
        return None
    if len(items) == 2:
        return canonical_expression(f"({items[0]})/({items[1]})")
    shares = [canonical_expression(f"({item})/({items[0]})") for item in items]
    known = [share for share in shares if share is not None]
    return ":".join(known) if len(known) == len(items) else None


_LAST_TERM = re.compile(r"[^\s(*/^]\s?[-+]\s?[0-9.]+$")


def _without_unit(text: str, variables: str = "") -> str:
    """`text` without a unit at its end: "30√{3}m", "65π square units", "(√{3}+1)小时"."""
    for m in UNIT.finditer(text):
        before = text[: m.start()].strip()
        # "3m" may be a unit or a letter: a unit only behind what is a value by itself.
        # "1+2m" is a sum with a letter; "(1+2)m" and "1+√2 m" are lengths.
        if len(m["base"]) == 1 and _LAST_TERM.search(before) and not text[m.start()].isspace():
            continue
        at_end = before and m["base"] not in variables and re.fullmatch(r"[\s.]*", text[m.end() :])
        if (
            at_end
            and not re.search(r"(?<!\\pi)(?<![A-Za-z])[A-Za-z]+$", before.removesuffix(r"\pi"))
            and canonical_expression(before, variables)
        ):
            return before
    return text
