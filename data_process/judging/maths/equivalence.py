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

from data_process.judging.maths.numeric import letters_of, same_function, values_at
from data_process.judging.maths.quantity import canonical, read_quantity, same_value
from data_process.judging.maths.surds import Surd, approximate, rational, read_exact, surd_text

MIN_DIGITS = 3  # significant digits from which a decimal may stand for 2√3 or 9π: "3.46", "28.3", not "3" or "28"
SCHOOL_PI = (Fraction(314, 100), Fraction(31416, 10_000), Fraction(22, 7))  # values of π that exercises compute with

# ---- What is taken for an expression, and what of it may be given to sympy ----
MAX_SYMBOLIC = 60  # characters of an expression with letters
MAX_ALGEBRA = 24  # characters that math-verify is given: its parser needs seconds for longer ones
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|ln|exp"
_COMMANDS = (
    rf"\\(?:{_FUNCTIONS}|[dt]?frac|sqrt|pi|cdot|times|div|pm|le|leq|ge|geq|ne|neq|cup|cap|infty|alpha|beta"
    r"|gamma|theta|phi|lambda|mu|omega|left|right|[{}])(?![A-Za-z])"
)
_ALLOWED = re.compile(rf"(?:{_COMMANDS}|\\[{{}}]|{_FUNCTIONS}|sqrt|[0-9A-Za-z+\-*/^_=<>≤≥≠±∪∞π√(){{}}\[\],.| ])*")
MAX_EXPONENT = 6


def _is_expression(text: str) -> bool:
    """Whether `text` is mathematics and not a word or a sentence: known signs, commands and single letters."""
    if len(text) > MAX_SYMBOLIC or not _ALLOWED.fullmatch(text):
        return False
    return not re.search(
        r"[A-Za-z]{3}|\b(?:or|and|is|no|to|of|it|in|at|so|as|an|we)\b",
        re.sub(r"\\[A-Za-z]+|sqrt|" + _FUNCTIONS, " ", text),
    )


def _has_letter(text: str) -> bool:
    return bool(re.search(r"[A-Zabcdf-z]", re.sub(r"\\[A-Za-z]+|sqrt|pi|" + _FUNCTIONS, " ", text)))


def _depth(text: str) -> int:
    depth = deepest = 0
    for c in text:
        depth += (c in "({[") - (c in ")}]")
        deepest = max(deepest, depth)
    return deepest


def _tame(text: str) -> bool:
    """Whether `text` is of the class that math-verify reads and compares in milliseconds.

    Refused before sympy sees it: more than 24 characters, brackets in brackets, functions (but for a logarithm with a
    base), more than one absolute value or two letters, exponents above 6, in brackets or stacked, factorials and
    numbers beyond 6 digits.
    """
    if len(text) > MAX_ALGEBRA or _depth(text) > 1 or text.count("|") > 2 or not _is_expression(text):
        return False
    if re.search(r"[0-9]{7}", text) or re.search(_FUNCTIONS, re.sub(r"^\\?log_", "", text)):
        return False
    plain = re.sub(r"\\[A-Za-z]+|sqrt|" + _FUNCTIONS, " ", text)
    powers = re.findall(r"\^\s?\{?\s?([0-9]+|[A-Za-z])?", text)
    return (
        len(set(re.findall(r"[A-Za-z]", plain))) <= 2
        and all(p and (p.isalpha() or (len(p) < 3 and int(p) <= MAX_EXPONENT)) for p in powers)
        and len(powers) <= 3
    )


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
    if not (_tame(a) and _tame(b)):
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
    return squeezed if squeezed and _is_expression(squeezed) and re.search(r"[A-Za-z0-9]", squeezed) else None


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
    if _kind(a) != _kind(b):
        return False
    for compare in (same_function, _same_union, _same_collection, _same_relation):
        if (same := compare(a, b)) is not None:
            return same
    if (left is not None and _has_letter(b)) or (right is not None and _has_letter(a)):
        return False  # a number is no formula in x
    first, second = sorted((a, b))
    return _algebra(first, second)


_COLLECTION = re.compile(r"(\(|\[|\\?\{)([^()\[\]{}]{1,60})(\)|\]|\\?\})")


_UNION = re.compile(r"∪|\\cup(?![A-Za-z])")


def _same_union(a: str, b: str) -> bool | None:
    """Unions of intervals or sets, in any order."""
    left, right = _UNION.split(a), _UNION.split(b)
    if len(left) == len(right) == 1 or max(len(left), len(right)) > 4:
        return None
    if len(left) != len(right):
        return False
    for part in left:
        same = [other for other in right if _same_collection(part.strip(), other.strip())]
        if not same:
            return False
        right.remove(same[0])
    return True


def _same_collection(a: str, b: str) -> bool | None:
    """Tuples, intervals and sets item by item; the order counts except in a set."""
    m, n = _COLLECTION.fullmatch(a), _COLLECTION.fullmatch(b)
    if not m or not n:
        return None
    if (m[1][-1], m[3][-1]) != (n[1][-1], n[3][-1]):
        return False
    left = [canonical_expression(item) for item in m[2].split(",")]
    right = [canonical_expression(item) for item in n[2].split(",")]
    if None in left or None in right:
        return None
    if m[1][-1] == "{":
        left, right = sorted(set(left)), sorted(set(right))  # type: ignore[type-var]
    return len(left) == len(right) and all(equivalent(p, q) for p, q in zip(left, right, strict=True))  # type: ignore[arg-type]


_RELATION = re.compile(r"=|<|>|≤|≥|\\leq?(?![A-Za-z])|\\geq?(?![A-Za-z])")
_SIGNS = {"\\le": "≤", "\\leq": "≤", "\\ge": "≥", "\\geq": "≥"}


def _same_relation(a: str, b: str) -> bool | None:
    """One equation or inequality each: the differences of their sides are proportional at every point."""
    found = []
    for text in (a, b):
        signs = list(_RELATION.finditer(text))
        if len(signs) != 1:
            return None
        m = signs[0]
        sign = _SIGNS.get(m[0], m[0])
        difference = f"({text[: m.start()]})-({text[m.end() :]})"
        turned = sign in ">≥"
        found.append((sign.translate(str.maketrans(">≥", "<≤")), difference, -1.0 if turned else 1.0))
    (sign_a, left, turn_a), (sign_b, right, turn_b) = found
    names_a, names_b = letters_of(left), letters_of(right)
    if names_a is None or names_b is None:
        return None
    p, q = values_at(left, names_a | names_b), values_at(right, names_a | names_b)
    if p is None or q is None or any(abs(v) < 1e-9 for v in (*p, *q)):
        return None
    ratios = [u / v * turn_a * turn_b for u, v in zip(p, q, strict=True)]
    same = all(abs(r - ratios[0]) <= 1e-9 * abs(ratios[0]) for r in ratios)
    return sign_a == sign_b and same and (sign_a == "=" or ratios[0].real > 0)
