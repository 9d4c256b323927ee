r"""Exact values of short expressions: sums of `q * sqrt(n) * pi^k`, with q a fraction.

`10√{2}`, `10 sqrt 2`, `10 root 2`, `\frac{2\sqrt{5}}{5}`, `2/√5`, `(√{3}+1)`, `9π/4` have one value and one canonical
text each, so equivalence is equality here and no computer algebra is asked. What goes beyond (letters, nested roots,
functions) is None. Every number is bounded, so no input takes long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

MAX_CHARS = 200  # of an expression; the longest gold answer of GeoQA has 20
MAX_DEPTH = 12  # of brackets
MAX_TERMS = 8
MAX_DIGITS = 30  # of one written number, and about 100 bits of what is computed from it
MAX_RADICAND = 10**12  # its square factor is searched by trial division up to the cube root
MAX_POWER = 12

# (square-free radicand, power of pi) -> coefficient, none of them 0. The value 0 is {}.
Surd = Mapping[tuple[int, int], Fraction]


class _NotExactError(Exception):
    """Not an expression of this kind, or too large."""


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
        if abs(power) > MAX_POWER or max(abs(q.numerator), q.denominator).bit_length() > 400:
            raise _NotExactError
    if len(terms) > MAX_TERMS:
        raise _NotExactError
    return terms


def _add(a: Surd, b: Surd, sign: int = 1) -> Surd:
    terms = dict(a)
    for key, q in b.items():
        terms[key] = terms.get(key, Fraction(0)) + sign * q
    return _checked(terms)


def _times(a: Surd, b: Surd) -> Surd:
    terms: dict[tuple[int, int], Fraction] = {}
    for (n, i), p in a.items():
        for (m, j), q in b.items():
            common = math.gcd(n, m)
            key = ((n // common) * (m // common), i + j)
            if key[0] > MAX_RADICAND**2:
                raise _NotExactError
            terms[key] = terms.get(key, Fraction(0)) + p * q * common
    return _checked(terms)


def _over(a: Surd, b: Surd) -> Surd:
    if len(b) == 1:
        ((n, power), q) = next(iter(b.items()))
        return _times(a, {(n, -power): 1 / (q * n)})  # 1/√n is √n/n
    if len(b) == 2 and all(power == 0 for _, power in b):  # one conjugate makes the denominator rational
        (key_p, p), (key_q, q) = b.items()
        conjugate: Surd = {key_p: p, key_q: -q}
        return _over(_times(a, conjugate), _times(b, conjugate))
    raise _NotExactError


def _power(a: Surd, exponent: Surd) -> Surd:
    if exponent == {(1, 0): Fraction(1, 2)}:
        return _sqrt(a)
    whole = exponent.get((1, 0), Fraction(0)) if set(exponent) <= {(1, 0)} else None
    if whole is None or whole.denominator != 1 or abs(whole) > MAX_POWER or (not a and whole <= 0):
        raise _NotExactError
    result: Surd = {(1, 0): Fraction(1)}
    for _ in range(abs(int(whole))):
        result = _times(result, a)
    return result if whole >= 0 else _over({(1, 0): Fraction(1)}, result)


def _sqrt(a: Surd) -> Surd:
    if not a:
        return a
    if set(a) != {(1, 0)} or a[1, 0] < 0:
        raise _NotExactError
    q = a[1, 0]
    if q.numerator * q.denominator > MAX_RADICAND:
        top, bottom = math.isqrt(q.numerator), math.isqrt(q.denominator)
        if top * top == q.numerator and bottom * bottom == q.denominator:
            return {(1, 0): Fraction(top, bottom)}
        raise _NotExactError
    square, free = _square_part(q.numerator * q.denominator)
    return {(free, 0): Fraction(square, q.denominator)}


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<pi>\\pi(?![A-Za-z])|[ππ𝜋]|(?<![A-Za-z])[Pp][Ii](?![A-Za-z]))"
    r"|(?P<root>\\sqrt(?![A-Za-z])|√|(?<![A-Za-z])(?:sqrt|(?:square\s)?root(?:\sof)?)(?![A-Za-z]))"
    r"|(?P<frac>\\[dtc]?frac(?![A-Za-z]))"
    r"|(?P<op>\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\\div(?![A-Za-z])|\*\*|[-+*/^(){}\[\]×·÷]))"
)
_SAME = {"\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "\\div": "/", "÷": "/", "**": "^"}
_CLOSER = {"(": ")", "{": "}", "[": "]"}


class _Parser:
    """Recursive descent over tokens (kind, text); held open only while one expression is read."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        self.depth = 0
        position = 0
        while position < len(text):
            m = _TOKEN.match(text, position)
            if m is None or m.end() == position:
                raise _NotExactError
            kind = m.lastgroup or ""
            self.tokens.append((kind, _SAME.get(m[kind], m[kind])))
            position = m.end()

    def peek(self) -> str:
        """The next token: an operator's own sign, otherwise its kind, "" at the end."""
        if self.at >= len(self.tokens):
            return ""
        kind, text = self.tokens[self.at]
        return text if kind == "op" else kind

    def sum(self) -> Surd:
        value = self.product()
        while (sign := self.peek()) in ("+", "-"):
            self.at += 1
            value = _add(value, self.product(), 1 if sign == "+" else -1)
        return value

    def product(self) -> Surd:
        value, written = self.signed(), self.tokens[self.at - 1][0] == "number" if self.at else False
        while True:
            sign = self.peek()
            if sign in ("*", "/"):
                self.at += 1
                right = self.signed()
                value = _times(value, right) if sign == "*" else _over(value, right)
                written = False
            elif sign in ("pi", "root", "frac", "(", "{", "["):
                start = self.at
                right = self.power()
                # "2\frac{1}{2}" is a mixed number, "2\frac{√3}{3}" and "2\frac{4}{3}" are products.
                proper = written and self.tokens[start][1].endswith("frac") and set(right) == {(1, 0)}
                if proper and 0 < right[1, 0] < 1 and set(value) == {(1, 0)} and value[1, 0].denominator == 1:
                    value = _add(value, right, 1 if value[1, 0] > 0 else -1)
                else:
                    value = _times(value, right)
                written = False
            else:
                return value

    def signed(self) -> Surd:
        if self.peek() in ("+", "-"):
            negative = self.peek() == "-"
            self.at += 1
            value = self.power()
            return _times(value, {(1, 0): Fraction(-1)}) if negative else value
        return self.power()

    def power(self) -> Surd:
        value = self.atom()
        if self.peek() == "^":
            self.at += 1
            negative = self.peek() == "-"
            self.at += negative
            exponent = self.atom()
            value = _power(value, _times(exponent, {(1, 0): Fraction(-1)}) if negative else exponent)
            if self.peek() == "^":  # a tower of powers is no answer
                raise _NotExactError
        return value

    def bracket(self) -> Surd:
        opener = self.peek()
        if opener not in _CLOSER or self.depth >= MAX_DEPTH:
            raise _NotExactError
        self.at += 1
        self.depth += 1
        value = self.sum()
        self.depth -= 1
        if self.peek() != _CLOSER[opener]:
            raise _NotExactError
        self.at += 1
        return value

    def atom(self) -> Surd:
        kind = self.peek()
        if kind in _CLOSER:
            return self.bracket()
        self.at += 1
        if kind == "number":
            digits = self.tokens[self.at - 1][1].replace(",", "")
            if len(digits) > MAX_DIGITS:
                raise _NotExactError
            return _checked({(1, 0): Fraction(digits)})
        if kind == "pi":
            return {(1, 1): Fraction(1)}
        if kind == "root":
            if self.peek() == "[" and self.bracket() != {(1, 0): Fraction(2)}:  # \sqrt[3]{2}
                raise _NotExactError
            return _sqrt(self.atom())
        if kind == "frac":
            return _over(self.part(), self.part())
        raise _NotExactError

    def part(self) -> Surd:
        """An argument of \\frac: braces, or one digit of what follows ("\\frac12")."""
        if self.peek() != "number":
            return self.bracket()
        digits = self.tokens[self.at][1]
        if not digits.isdigit():
            raise _NotExactError
        if len(digits) == 1:
            self.at += 1
        else:
            self.tokens[self.at] = ("number", digits[1:])
        return {(1, 0): Fraction(int(digits[0]))} if digits[0] != "0" else {}


@lru_cache(maxsize=1 << 14)
def read_exact(text: str) -> Surd | None:
    """The exact value of an expression of digits, roots, π and + - * / ^ (LaTeX or plain), or None."""
    if len(text) > MAX_CHARS or not text.strip():
        return None
    try:
        parser = _Parser(text.strip())
        value = parser.sum()
        return value if parser.at == len(parser.tokens) else None
    except (_NotExactError, ZeroDivisionError, IndexError):
        return None


def rational(value: Surd) -> Fraction | None:
    """The value as a fraction where it has neither root nor π."""
    if not value:
        return Fraction(0)
    return value[1, 0] if set(value) == {(1, 0)} else None


def approximate(value: Surd, pi: Fraction | None = None) -> float:
    """The value as a float, with `pi` in place of π where it is given."""
    base = math.pi if pi is None else float(pi)
    return math.fsum(float(q) * math.sqrt(n) * base**power for (n, power), q in value.items())


def surd_text(value: Surd) -> str:
    """The canonical text of a value that is not rational: terms in a fixed order, "3 + 2*sqrt(3)", "9*pi/4"."""
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
