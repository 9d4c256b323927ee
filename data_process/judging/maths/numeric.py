r"""Comparing expressions with letters by their values at a few points: `(x+1)^2` and `x^2+2x+1`, `\frac{a}{b}`.

Two different expressions of school size agree at five random points with negligible probability, so no algebra is
needed. Points have both signs, so |x| is not x. Relations, sets and intervals have no values: they give None.
"""

from __future__ import annotations

import cmath
import math
import operator
import re
from collections.abc import Callable

from data_process.judging.maths.parser import UnreadableError, evaluate, letters_in, tokenize

MAX_CHARS = 120
MAX_LETTERS = 6
MAX_POWER = 40.0
TOLERANCE = 1e-9  # relative; floats carry 1e-16 and a school expression loses a few digits
_POINTS = ((0.7391, -1.3127, 2.1173), (-0.6173, 1.7321, 0.3917), (1.6180, 0.5772, -1.2021), (2.2361, -0.4343, 0.9159),
           (-1.0986, -0.8814, 1.4513))  # fmt: skip

_LEFT_RIGHT = re.compile(r"\\left(?![A-Za-z])|\\right(?![A-Za-z])")

Values = tuple[complex, ...]  # one for each point


def _power(z: complex, exponent: complex) -> complex:
    if abs(exponent) > MAX_POWER:
        raise UnreadableError
    return z**exponent


def _raised(function: Callable[..., complex]) -> Callable[..., complex]:
    """`function` with an exponent as its last argument: sin^2 x."""
    return lambda *values: function(*values[:-1]) ** values[-1]


def _first_power(function: Callable[..., complex]) -> Callable[..., complex]:
    """`function` to the power of 1, which clears the sign of a zero imaginary part, on which a further root depends."""
    return lambda *values: function(*values) ** 1


_FUNCTIONS: dict[str, Callable[..., complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "ln": cmath.log, "log": cmath.log10, "exp": cmath.exp,
    "sqrt": cmath.sqrt,
    "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "log_": lambda z, base: cmath.log(z) / cmath.log(base) if base else cmath.log10(z),
}  # fmt: skip
_OPERATIONS: dict[str, Callable[..., complex]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "beside": operator.mul, "mixed": operator.mul,
    "/": operator.truediv, "^": _power, "negate": operator.neg, "|": lambda z: complex(abs(z)), "√": cmath.sqrt,
    "root": lambda z, degree: z ** (1 / degree),
    **{name: _first_power(f) for name, f in _FUNCTIONS.items()},
    **{f"{name}^": _raised(f) for name, f in _FUNCTIONS.items()},
}  # fmt: skip


def _apply(operation: str, *values: Values) -> Values:
    return tuple(map(_OPERATIONS[operation], *values))


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

    def constant(kind: str, text: str) -> Values:
        if kind == "digit" or "," in text:  # "1,2" is a pair; `\frac12` is read by `surds` alone
            raise UnreadableError
        if kind in ("letter", "greek") and text != "e":
            return coordinates[text]
        value = float(text) if kind == "number" else math.pi if kind == "pi" else math.e
        return (complex(value),) * len(_POINTS)

    found = evaluate(tokenize(_LEFT_RIGHT.sub("", text)), constant, _apply)
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
