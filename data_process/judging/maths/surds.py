r"""Exact values of short expressions: sums of `q * sqrt(n) * pi^k`, with q a fraction.

`10√{2}`, `10 sqrt 2`, `10 root 2`, `\frac{2\sqrt{5}}{5}`, `2/√5`, `(√{3}+1)` and `9π/4` each have one value and one
canonical text, so equal values are equal texts and no computer algebra is needed. Letters, nested roots and functions
give None. Every number is bounded, so no input takes long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache

from data_process.judging.maths.parser import UnreadableError, evaluate, tokenize

MAX_CHARS = 200  # of an expression; the longest gold answer of GeoQA has 20
MAX_TERMS = 8
MAX_BITS = 400  # of a numerator or denominator
MAX_RADICAND = 10**12  # its square factor is searched by trial division up to the cube root
MAX_POWER = 12

# (square-free radicand, power of pi) -> coefficient, none of them 0. The value 0 is {}.
Surd = Mapping[tuple[int, int], Fraction]
_RATIONAL = (1, 0)


def _square_part(n: int) -> tuple[int, int]:
    """(s, f) with n = s*s*f and f square-free."""
    square, free, d = 1, 1, 2
    while d * d * d <= n:
        while n % (d * d) == 0:
            square, n = square * d, n // (d * d)
        if n % d == 0:
            free, n = free * d, n // d
        d += 1
    root = math.isqrt(n)  # what is left has at most two prime factors
    return (square * root, free) if root * root == n else (square, free * n)


def _checked(terms: dict[tuple[int, int], Fraction]) -> Surd:
    terms = {key: q for key, q in terms.items() if q}
    for (_, power), q in terms.items():
        if abs(power) > MAX_POWER or max(abs(q.numerator), q.denominator).bit_length() > MAX_BITS:
            raise UnreadableError
    if len(terms) > MAX_TERMS:
        raise UnreadableError
    return terms


def _constant(kind: str, text: str) -> Surd:
    if kind == "pi":
        return {(1, 1): Fraction(1)}
    if kind not in ("number", "digit"):
        raise UnreadableError
    return _checked({_RATIONAL: Fraction(text.replace(",", ""))})


def _negate(a: Surd) -> Surd:
    return {key: -q for key, q in a.items()}


def _add(a: Surd, b: Surd) -> Surd:
    terms = dict(a)
    for key, q in b.items():
        terms[key] = terms.get(key, Fraction(0)) + q
    return _checked(terms)


def _multiply(a: Surd, b: Surd) -> Surd:
    terms: dict[tuple[int, int], Fraction] = {}
    for (n, i), p in a.items():
        for (m, j), q in b.items():
            common = math.gcd(n, m)
            key = ((n // common) * (m // common), i + j)
            if key[0] > MAX_RADICAND**2:
                raise UnreadableError
            terms[key] = terms.get(key, Fraction(0)) + p * q * common
    return _checked(terms)


def _mixed(a: Surd, b: Surd) -> Surd:
    r"""`2\frac{1}{2}` is a mixed number; `2\frac{√3}{3}` and `2\frac{4}{3}` are products."""
    whole, part = rational(a), rational(b)
    if whole and whole.denominator == 1 and part and 0 < part < 1:
        return _add(a, b) if whole > 0 else _add(a, _negate(b))
    return _multiply(a, b)


def _divide(a: Surd, b: Surd) -> Surd:
    if len(b) == 1:
        ((n, power), q) = next(iter(b.items()))
        return _multiply(a, {(n, -power): 1 / (q * n)})  # 1/√n is √n/n
    if len(b) == 2 and all(power == 0 for _, power in b):  # one conjugate makes the denominator rational
        (key_p, p), (key_q, q) = b.items()
        conjugate: Surd = {key_p: p, key_q: -q}
        return _divide(_multiply(a, conjugate), _multiply(b, conjugate))
    raise UnreadableError


def _power(a: Surd, exponent: Surd) -> Surd:
    whole = rational(exponent)
    if whole == Fraction(1, 2):
        return _sqrt(a)
    if whole is None or whole.denominator != 1 or abs(whole) > MAX_POWER or (not a and whole <= 0):
        raise UnreadableError
    result: Surd = {_RATIONAL: Fraction(1)}
    for _ in range(abs(int(whole))):
        result = _multiply(result, a)
    return result if whole >= 0 else _divide({_RATIONAL: Fraction(1)}, result)


def _sqrt(a: Surd) -> Surd:
    q = rational(a)
    if q is None or q < 0:
        raise UnreadableError
    if q.numerator * q.denominator > MAX_RADICAND:
        top, bottom = math.isqrt(q.numerator), math.isqrt(q.denominator)
        if top * top == q.numerator and bottom * bottom == q.denominator:
            return {_RATIONAL: Fraction(top, bottom)}
        raise UnreadableError
    square, free = _square_part(q.numerator * q.denominator)
    return {(free, 0): Fraction(square, q.denominator)} if q else a


def _root(a: Surd, degree: Surd) -> Surd:
    if rational(degree) != 2:
        raise UnreadableError
    return _sqrt(a)


_OPERATIONS: dict[str, Callable[..., Surd]] = {
    "+": _add, "-": lambda a, b: _add(a, _negate(b)), "*": _multiply, "/": _divide, "^": _power,
    "negate": _negate, "mixed": _mixed, "sqrt": _sqrt, "root": _root,
}  # fmt: skip
# Spellings of a root or π that stand for letters in an expression with letters, such as "Pi".
_WORDS = re.compile(
    r"(?P<root>√|(?<![A-Za-z\\])(?:square\s)?root(?:\sof)?(?![A-Za-z]))|𝜋|(?<![A-Za-z\\])[Pp][Ii](?![A-Za-z])"
)
# The only letters of an exact expression. Most texts fail here, at their first word, and so cost no parsing.
_LETTERS = re.compile(
    r"(?:[^A-Za-z\\]|\\?(?:sqrt|[Pp][Ii])|(?:square\s)?root(?:\sof)?|\\(?:[dtc]?frac|times|cdot|div))*"
)


@lru_cache(maxsize=1 << 14)
def read_exact(text: str) -> Surd | None:
    """The exact value of an expression of numbers, roots, π and + - * / ^, LaTeX or plain; None for anything else."""
    if len(text) > MAX_CHARS or not text.strip() or not _LETTERS.fullmatch(text):
        return None
    tokens = tokenize(_WORDS.sub(lambda m: r"\sqrt " if m["root"] else r"\pi ", text))
    return evaluate(tokens, _constant, lambda operation, *values: _OPERATIONS[operation](*values))


def rational(value: Surd) -> Fraction | None:
    """The value as a fraction; None where it has a root or π."""
    if not value:
        return Fraction(0)
    return value[_RATIONAL] if set(value) == {_RATIONAL} else None


def approximate(value: Surd, pi: Fraction | None = None) -> float:
    """The value as a float, with `pi` for π where it is given."""
    base = math.pi if pi is None else float(pi)
    return math.fsum(float(q) * math.sqrt(n) * base**power for (n, power), q in value.items())


def surd_text(value: Surd) -> str:
    """The canonical text of an irrational value, terms in a fixed order: "3 + 2*sqrt(3)", "9*pi/4"."""
    parts = []
    for (n, power), q in sorted(value.items()):
        factors = [f"sqrt({n})"] if n != 1 else []
        if power:
            factors.append("pi" if power == 1 else f"pi^{power}" if power > 0 else f"pi^({power})")
        top = abs(q.numerator)
        head = "*".join(([] if top == 1 and factors else [str(top)]) + factors)
        parts.append(("-" if q < 0 else "+", head + (f"/{q.denominator}" if q.denominator != 1 else "")))
    sign, first = parts[0]
    return ("-" if sign == "-" else "") + first + "".join(f" {s} {p}" for s, p in parts[1:])
