"""Whether two canonical expressions are equal: exact values first, then decimals, values at points, algebra."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from data_process.judging.maths.algebra import same_by_algebra
from data_process.judging.maths.canonical import FUNCTIONS, canonical_expression, without_names
from data_process.judging.maths.forms import same_form
from data_process.judging.maths.numeric import Values, letters_of, same_function, values_at
from data_process.judging.maths.quantity import same_value
from data_process.judging.maths.surds import Surd, approximate, rational, read_exact

MIN_DIGITS = 3  # significant digits from which a decimal may stand for 2√3 or 9π: "3.46", "28.3", not "3" or "28"
SCHOOL_PI = (Fraction(314, 100), Fraction(31416, 10_000), Fraction(22, 7))  # values of π that exercises compute with


@lru_cache(maxsize=1 << 14)
def equivalent(a: str, b: str) -> bool:
    """Whether two canonical expressions are equal; symmetric.

    Fractions and decimals compare exactly (1 in 10^6). A root or π equals a decimal that is its value rounded to at
    least three significant digits, π being 3.14159..., 3.1416, 3.14 or 22/7. Letters and functions compare by values
    at points; unions, sets, intervals and tuples by their items; relations by their sides; the rest by math-verify.
    """
    if a == b:
        return True
    left, right = read_exact(a), read_exact(b)
    if left is not None and right is not None:
        p, q = rational(left), rational(right)
        if p is not None and q is not None:
            return same_value(p, q) or same_value(q, p)
        if p is not None:
            return _is_rounded(a, p, right)
        if q is not None:
            return _is_rounded(b, q, left)
        return dict(left) == dict(right)
    if (same := same_form(a, b, equivalent)) is not None:
        return same
    if _kind(a) != _kind(b):
        return _solves(a, b) or _solves(b, a)
    for compare in (same_function, _same_union, _same_collection, _same_relation):
        if (same := compare(a, b)) is not None:
            return same
    if (left is not None and _has_letter(b)) or (right is not None and _has_letter(a)):
        return False  # a number is not a formula in x
    first, second = sorted((a, b))
    return same_by_algebra(first, second)


def _kind(text: str) -> str:
    """A relation, a collection (set, interval, tuple) or a value: none of them equals one of another kind."""
    if re.search(r"[=<>≤≥≠]|\\(?:leq?|geq?|neq?)(?![A-Za-z])", text):
        return "relation"
    return "collection" if re.search(r"[,∪∩]|\\cup|\\cap|\\\{", text) else "value"


def _solves(value: str, relation: str) -> bool:
    """Whether `value` is the letter that it lacks in an equation: 3x+13 is y in 3x-y+13=0, and 6/x in xy=6.

    The equation must be linear in that letter, so that it has no other solution.
    """
    if _kind(value) != "value" or relation.count("=") != 1 or re.match(r"[A-Za-z]\s?=|.*=\s?[A-Za-z]$", relation):
        return False
    left, _, right = relation.partition("=")
    difference = f"({left})-({right})"
    known, letters = letters_of(value), letters_of(difference)
    unknown = letters - known if known is not None and letters is not None else frozenset()
    if known is None or letters is None or len(unknown) != 1 or not known <= letters:
        return False
    name = next(iter(unknown))
    words = re.compile(rf"\\[A-Za-z]+|sqrt|{FUNCTIONS}|{re.escape(name)}")

    def put(step: int) -> Values | None:
        there = f"({value}+{step})"
        return values_at(words.sub(lambda m: there if m[0] == name else m[0], difference), letters)

    zero, one, two = put(0), put(1), put(2)
    if zero is None or one is None or two is None:
        return False
    return all(abs(u) <= 1e-9 for u in zero) and all(
        abs(v) > 1e-9 and abs(w - 2 * v) <= 1e-9 * max(1, abs(w)) for v, w in zip(one, two, strict=True)
    )


def _has_letter(text: str) -> bool:
    """Whether `text` has a letter other than e."""
    return bool(re.search(r"[A-Zabcdf-z]", without_names(text, "pi")))


def _is_rounded(text: str, decimal: Fraction, value: Surd) -> bool:
    """Whether `decimal`, written as `text`, is `value` rounded to its decimals (at least MIN_DIGITS digits)."""
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


def _is_decimal(value: Fraction) -> bool:
    """Whether the value has finitely many decimals: its denominator divides a power of ten."""
    return pow(10, value.denominator.bit_length(), value.denominator) == 0


_COLLECTION = re.compile(r"(\(|\[|\\?\{)((?:[^()\[\]{}]|(?<=[a-z}])\{[^{}]{1,20}\}){1,60})(\)|\]|\\?\})")
_UNION = re.compile(r"∪|\\cup(?![A-Za-z])")
_RELATION = re.compile(r"=|<|>|≤|≥|\\leq?(?![A-Za-z])|\\geq?(?![A-Za-z])")
_SIGNS = {"\\le": "≤", "\\leq": "≤", "\\ge": "≥", "\\geq": "≥"}


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
    left, right = _items(m[2]), _items(n[2])
    if left is None or right is None:
        return None
    if m[1][-1] == "{":
        left, right = sorted(set(left)), sorted(set(right))
    return len(left) == len(right) and all(equivalent(p, q) for p, q in zip(left, right, strict=True))


def _items(text: str) -> list[str] | None:
    """The canonical texts of items between commas; None where one of them cannot be read."""
    items = text.split(",")
    read = [item for item in map(canonical_expression, items) if item is not None]
    return read if len(read) == len(items) else None


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
