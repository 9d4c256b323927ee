r"""One text for each value: `2.40` and `\frac{12}{5}` are "2.4", `10 sqrt 2` and `√200` are "10*sqrt(2)".

Expressions with letters keep their own text without blanks. Votes count these texts, and `equivalence` compares them.
"""

from __future__ import annotations

import re
from functools import lru_cache

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
_RATIO = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,4})?)\s?[:∶]\s?([0-9]{1,4}(?:\.[0-9]{1,4})?)")  # 1:4 is the ratio 1/4


def without_names(text: str, *others: str) -> str:
    """`text` with commands, roots and functions blanked, so that the letters left are variables or words."""
    return re.sub("|".join((r"\\[A-Za-z]+", "sqrt", *others, FUNCTIONS)), " ", text)


def is_expression(text: str) -> bool:
    """Whether `text` is mathematics, not a word or a sentence: known signs, commands and single letters."""
    if len(text) > MAX_SYMBOLIC or not _ALLOWED.fullmatch(text):
        return False
    words = r"[A-Za-z]{3}|\b(?:or|and|is|no|to|of|it|in|at|so|as|an|we)\b"
    return not re.search(words, without_names(text))


def canonical_expression(text: str) -> str | None:
    r"""The canonical text of an expression without a unit or a sentence around it; None for anything else.

    `2.40` and `\frac{12}{5}` are "2.4", `10 sqrt 2` is "10*sqrt(2)", `x + 1` is "x+1".
    """
    quantity = read_quantity(text, strict=True)
    if quantity is not None:
        return canonical(quantity.value)
    value = read_exact(text)
    if value is not None:
        fraction = rational(value)
        return surd_text(value) if fraction is None else canonical(fraction)
    squeezed = re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text.strip())
    return squeezed if squeezed and is_expression(squeezed) and re.search(r"[A-Za-z0-9]", squeezed) else None


@lru_cache(maxsize=1 << 14)
def read_standalone(text: str) -> str | None:
    """The canonical text of a gold answer, or of a line that is an answer and nothing else; None where it is neither.

    Reads over a unit ("30√{3}m"), a name ("AB = 2√3") and a derivation ("BC = 3 * 5 / 2 = 7.5").
    """
    text = clean(text)
    if text.count("=") > 1:
        text = text.rpartition("=")[2]
    found = read_with_unit(text)
    if found is None or not re.search(r"(?<![<>!≤≥])=(?!=)", text):
        return found
    left, _, right = text.rpartition("=")
    return read_with_unit(right) if re.fullmatch(r"[A-Za-z∠△\\ ]{1,12}", left.strip()) else found


def read_with_unit(text: str) -> str | None:
    """The canonical text of one expression that may have a unit; a ratio `1:4` is 1/4."""
    text = text.strip().rstrip(".,;").strip()
    if not text:
        return None
    if ratio := _RATIO.fullmatch(text):
        text = f"({ratio[1]})/({ratio[2]})"
    bare = _without_unit(text)
    return canonical_expression(bare) or canonical_expression(trim_words(bare))


def _without_unit(text: str) -> str:
    """`text` without a unit at its end: "30√{3}m", "65π square units", "(√{3}+1)小时"."""
    for m in UNIT.finditer(text):
        before = text[: m.start()].strip()
        # "3m" may be a unit or a letter: a unit only behind what is a value by itself.
        at_end = before and re.fullmatch(r"[\s.]*", text[m.end() :])
        if at_end and not re.search(r"[A-Za-z]$", before) and canonical_expression(before):
            return before
    return text
