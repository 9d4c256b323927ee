r"""When two canonical answers say the same: exact values first, rounded decimals next, algebra last.

`canonical_expression` gives one text per value ("2.4", "2*sqrt(3)", "9*pi/4") and, for what has letters or functions,
the text itself without blanks. math-verify is asked only where that text cannot decide, and only about expressions of
a class that sympy handles in milliseconds: it is never given a signal or a time limit, so it runs in any thread or
process.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from fractions import Fraction
from functools import lru_cache

from data_process.judging.answers import canonical, read_quantity, same_value
from data_process.judging.exact import Surd, approximate, rational, read_exact, surd_text
from data_process.judging.probe import same_function

MIN_DIGITS = 3  # significant digits from which a decimal may stand for 2√3 or 9π: "3.46", "28.3", not "3" or "28"
SCHOOL_PI = (Fraction(314, 100), Fraction(31416, 10_000), Fraction(22, 7))  # values of π that exercises compute with

# ---- What may be given to sympy ----
MAX_SYMBOLIC = 60  # characters; algebra on longer input can take seconds
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|ln|exp"
_COMMANDS = (
    rf"\\(?:{_FUNCTIONS}|[dt]?frac|sqrt|pi|cdot|times|div|pm|le|leq|ge|geq|ne|neq|cup|cap|infty|alpha|beta"
    r"|gamma|theta|phi|lambda|mu|omega|left|right|[{}])(?![A-Za-z])"
)
_ALLOWED = re.compile(rf"(?:{_COMMANDS}|\\[{{}}]|{_FUNCTIONS}|sqrt|[0-9A-Za-z+\-*/^_=<>≤≥≠±∪∞π√(){{}}\[\],.| ])*")
_POWER = re.compile(r"\^\s*(?:\{\s*)?(-?[0-9]+|[A-Za-z])?(?:\s*/\s*[0-9]{1,2})?")
MAX_EXPONENT = 12


def _tame(text: str) -> bool:
    """Whether `text` is of the class that math-verify reads and compares in milliseconds.

    Refused before sympy sees it: long input, towers of powers, exponents above 12 or with brackets, factorials,
    numbers beyond 12 digits, deep brackets, many letters, nested or many functions, integrals, sums and matrices.
    """
    if len(text) > MAX_SYMBOLIC or not _ALLOWED.fullmatch(text):
        return False
    if re.search(r"[0-9]{13}", text) or len(re.findall(rf"{_FUNCTIONS}", text)) > 2:
        return False
    plain = re.sub(r"\\[A-Za-z]+|sqrt|" + _FUNCTIONS, " ", text)
    if len(set(re.findall(r"[A-Za-z]", plain))) > 4 or re.search(r"[A-Za-z]{3}", plain):
        return False
    depth = deepest = 0
    for c in text:
        depth += (c in "({[") - (c in ")}]")
        deepest = max(deepest, depth)
    if deepest > 4:
        return False
    powers = _POWER.findall(text)
    numbers = [abs(int(p)) for p in powers if p.lstrip("-").isdigit() and len(p) <= 4]
    letters = [p for p in powers if p.isalpha()]
    if len(numbers) + len(letters) != len(powers) or len(letters) > 1:
        return False
    if re.search(r"\^[^+\-*/,]{0,12}\^", text):
        return False
    return sum(numbers) <= 2 * MAX_EXPONENT and all(n <= MAX_EXPONENT for n in numbers)


def _kind(text: str) -> str:
    """A relation, a collection (set, interval, tuple) or a value: none of them equals one of another kind."""
    if re.search(r"[=<>≤≥≠]|\\(?:leq?|geq?|neq?)(?![A-Za-z])", text):
        return "relation"
    return "collection" if re.search(r"[,∪∩]|\\cup|\\cap|\\\{", text) else "value"


_lock = threading.Lock()  # the parser behind math-verify shares tables that are filled while it reads


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()  # a fork may happen while another thread holds it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@lru_cache(maxsize=1 << 12)
def _algebra(a: str, b: str) -> bool:
    """math-verify's opinion in both directions (its verify() is not symmetric), for tame expressions only."""
    if not (_tame(a) and _tame(b)) or _kind(a) != _kind(b):
        return False
    from math_verify import LatexExtractionConfig, parse, verify  # brings sympy: half a second, and rarely needed

    for module in ("parser", "grader", "utils"):  # it logs what it cannot read, and that no time limit is set
        logging.getLogger(f"math_verify.{module}").setLevel(logging.CRITICAL)
    with _lock:
        left, right = (
            parse(f"${_latex(text)}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
            for text in (a, b)
        )
        if not left or not right:
            return False
        return bool(verify(left, right, timeout_seconds=None)) and bool(verify(right, left, timeout_seconds=None))


def _latex(text: str) -> str:
    """Plain roots and functions as LaTeX, which is what math-verify reads."""
    text = re.sub(r"√\s?([0-9A-Za-z]|\{)", lambda m: r"\sqrt" + (m[1] if m[1] == "{" else f"{{{m[1]}}}"), text)
    text = re.sub(r"(?:\\sqrt|(?<![A-Za-z\\])sqrt|√)\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])", r"\\\1", text)
    return text.replace("π", r"\pi ").replace("*", r"\cdot ").replace("≤", r"\le ").replace("≥", r"\ge ")


# ---- One text per value ----


def canonical_expression(text: str) -> str | None:
    """The canonical text of an expression that stands alone (no unit, no sentence), or None where it is none.

    `2.40` and `\\frac{12}{5}` are "2.4", `10 sqrt 2` is "10*sqrt(2)", `x + 1` is "x+1".
    """
    quantity = read_quantity(text, strict=True)
    if quantity is not None:
        return canonical(quantity.value)
    value = read_exact(text)
    if value is not None:
        fraction = rational(value)
        return surd_text(value) if fraction is None else canonical(fraction)
    squeezed = re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", text.strip())
    return squeezed if squeezed and _tame(squeezed) and re.search(r"[A-Za-z0-9]", squeezed) else None


@lru_cache(maxsize=1 << 14)
def _surd(text: str) -> Surd | None:
    return read_exact(text)


def _is_decimal(value: Fraction) -> bool:
    d = value.denominator
    while d % 2 == 0:
        d //= 2
    while d % 5 == 0:
        d //= 5
    return d == 1


def _rounded(text: str, decimal: Fraction, value: Surd) -> bool:
    """`decimal`, written as `text`, is `value` rounded to the decimals it has (at least MIN_DIGITS digits)."""
    digits = text.lstrip("-").replace(".", "").lstrip("0")
    if len(digits) < MIN_DIGITS or not _is_decimal(decimal):
        return False
    places = len(text.partition(".")[2])
    # A float of 15 digits decides: half a unit of the last place, and a little for the rounding of the float itself.
    step = max(0.5 * 10.0**-places, 1e-12 * abs(float(decimal)))
    values = [approximate(value)]
    if any(power for _, power in value):
        values += [approximate(value, pi) for pi in SCHOOL_PI]
    return any(abs(float(decimal) - v) <= step * (1 + 1e-9) for v in values)


def equivalent(a: str, b: str) -> bool:
    """Whether two canonical expressions say the same; symmetric.

    Fractions and decimals compare exactly (1 in 10^6). A root or π compares with a decimal that is its value rounded
    to at least three significant digits, π being 3.14159..., 3.1416, 3.14 or 22/7. Letters and functions: math-verify.
    """
    if a == b:
        return True
    left, right = _surd(a), _surd(b)
    if left is not None and right is not None:
        p, q = rational(left), rational(right)
        if p is not None and q is not None:
            return same_value(p, q) or same_value(q, p)
        if p is None and q is None:
            return dict(left) == dict(right)
        return _rounded(a, p, right) if p is not None else _rounded(b, q, left)  # type: ignore[arg-type]
    same = same_function(a, b)
    if same is not None:
        return same
    first, second = sorted((a, b))
    return _algebra(first, second)
