r"""Comparing expressions with letters by their values at a few points: `(x+1)^2` and `x^2+2x+1`, `\frac{a}{b}`.

Two different expressions of school size agree at five random points with negligible probability, so no algebra is
needed. Points have both signs, so |x| is not x. Relations, sets and intervals have no values: they give None.
"""

from __future__ import annotations

import cmath
import math
import operator
import re
from collections.abc import Callable, Mapping

from data_process.judging.maths.parser import UnreadableError, evaluate, letters_in, tokenize

MAX_CHARS = 120
MAX_LETTERS = 6
MAX_POWER = 40.0
TOLERANCE = 1e-9  # relative; floats carry 1e-16 and a school expression loses a few digits
_POINTS = ((0.7391, -1.3127, 2.1173), (-0.6173, 1.7321, 0.3917), (1.6180, 0.5772, -1.2021), (2.2361, -0.4343, 0.9159),
           (-1.0986, -0.8814, 1.4513))  # fmt: skip

_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "ln": cmath.log,
    "log": cmath.log10,
    "exp": cmath.exp,
    "sqrt": cmath.sqrt,
}
_LEFT_RIGHT = re.compile(r"\\left(?![A-Za-z])|\\right(?![A-Za-z])")

Values = tuple[complex, ...]  # one for each point


def _constant(value: float) -> Values:
    return (complex(value),) * len(_POINTS)


def _each(combine: Callable[[complex, complex], complex], a: Values, b: Values) -> Values:
    return tuple(map(combine, a, b))


def _logarithm(z: complex, base: complex) -> complex:
    return cmath.log(z) / cmath.log(base) if base else cmath.log10(z)


class _AtPoints:
    """Evaluates an expression at every point at once (`parser.Arithmetic`)."""

    def __init__(self, letters: Mapping[str, Values]) -> None:
        self.letters = letters

    def number(self, digits: str) -> Values:
        if "," in digits:  # a tuple, an interval or a set
            raise UnreadableError
        return _constant(float(digits))

    def digit(self, digit: str) -> Values:
        raise UnreadableError

    def pi(self) -> Values:
        return _constant(math.pi)

    def letter(self, name: str) -> Values:
        return _constant(math.e) if name == "e" else self.letters[name]

    def add(self, a: Values, b: Values) -> Values:
        return _each(operator.add, a, b)

    def subtract(self, a: Values, b: Values) -> Values:
        return _each(operator.sub, a, b)

    def multiply(self, a: Values, b: Values) -> Values:
        return _each(operator.mul, a, b)

    def juxtapose(self, a: Values, b: Values, *, begins: str, after_number: bool) -> Values:
        return self.multiply(a, b)

    def divide(self, a: Values, b: Values) -> Values:
        return _each(operator.truediv, a, b)

    def negate(self, a: Values) -> Values:
        return tuple(-z for z in a)

    def power(self, a: Values, exponent: Values) -> Values:
        if any(abs(z) > MAX_POWER for z in exponent):
            raise UnreadableError
        return _each(pow, a, exponent)

    def root(self, a: Values, degree: Values | None) -> Values:
        if degree is None:
            return tuple(map(cmath.sqrt, a))
        return _each(lambda z, n: z ** (1 / n), a, degree)

    def absolute(self, a: Values) -> Values:
        return tuple(complex(abs(z)) for z in a)

    def function(self, name: str, argument: Values, base: Values | None, exponent: Values | None) -> Values:
        value = tuple(map(_FUNCTIONS[name], argument)) if base is None else _each(_logarithm, argument, base)
        return value if exponent is None else _each(pow, value, exponent)


def letters_of(text: str) -> frozenset[str] | None:
    """The letters of an expression (e is Euler's number), or None where it cannot be read."""
    tokens = tokenize(_LEFT_RIGHT.sub("", text)) if len(text) <= MAX_CHARS else None
    return letters_in(tokens) if tokens else None


def values_at(text: str, letters: frozenset[str]) -> Values | None:
    """The values of an expression at the points, or None where it cannot be read or has none there.

    `letters`: at least those of the expression; together they get the coordinates of each point.
    """
    if len(text) > MAX_CHARS or len(letters) > MAX_LETTERS:
        return None
    coordinates = {
        name: tuple(complex(point[i % 3] + 0.37 * (i // 3) + 0.01 * k * i) for k, point in enumerate(_POINTS))
        for i, name in enumerate(sorted(letters))
    }
    found = evaluate(tokenize(_LEFT_RIGHT.sub("", text)), _AtPoints(coordinates))
    return found if found is not None and all(map(cmath.isfinite, found)) else None


def same_function(a: str, b: str) -> bool | None:
    """Whether two expressions have the same values; None where one of them cannot be read here."""
    letters_a, letters_b = letters_of(a), letters_of(b)
    if letters_a is None or letters_b is None:
        return None
    left, right = values_at(a, letters_a | letters_b), values_at(b, letters_a | letters_b)
    if left is None or right is None:
        return None
    return all(abs(p - q) <= TOLERANCE * max(1.0, abs(p), abs(q)) for p, q in zip(left, right, strict=True))
