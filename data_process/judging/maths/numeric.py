r"""Comparing expressions with letters by their values at a few points: `(x+1)^2` and `x^2+2x+1`, `\frac{a}{b}`.

Two different expressions of school size agree at five random points with a probability that can be neglected, so no
algebra is needed, and the time is that of evaluating a short formula. Points have both signs, so |x| is not x.
What this reader does not know (relations, sets, intervals) is None.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

MAX_CHARS = 120
MAX_DEPTH = 12
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
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)|\\(?P<frac>[dtc]?frac)(?![A-Za-z])"
    r"|\\?(?P<function>sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt)(?![a-z])|(?P<root>√)"
    r"|(?P<pi>\\pi(?![A-Za-z])|π|pi(?![a-z]))|\\(?P<greek>alpha|beta|gamma|theta|phi|lambda|mu|omega)(?![A-Za-z])"
    r"|(?P<letter>[A-Za-z](?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]{1,4}\}))?)|(?P<op>\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\\div(?![A-Za-z])|\*\*|[-+*/^(){}\[\]·×÷|_]))"
)
_SAME = {"\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "\\div": "/", "÷": "/", "**": "^"}
_CLOSER = {"(": ")", "{": "}", "[": "]"}


class _UnreadableError(Exception):
    """Not an expression that this reader knows."""


@lru_cache(maxsize=1 << 12)
def _tokens(text: str) -> tuple[tuple[str, str], ...] | None:
    tokens: list[tuple[str, str]] = []
    position = 0
    text = re.sub(r"\\left(?![A-Za-z])|\\right(?![A-Za-z])", "", text).strip()
    while position < len(text):
        m = _TOKEN.match(text, position)
        if m is None or m.end() == position:
            return None
        kind = m.lastgroup or ""
        tokens.append((kind, _SAME.get(m[kind], m[kind])))
        position = m.end()
    return tuple(tokens)


class _Evaluator:
    """One evaluation of one expression; held open only while it runs."""

    def __init__(self, tokens: tuple[tuple[str, str], ...], values: Mapping[str, float]) -> None:
        self.tokens, self.values, self.at, self.depth, self.bars = tokens, values, 0, 0, 0

    def peek(self) -> str:
        if self.at >= len(self.tokens):
            return ""
        kind, text = self.tokens[self.at]
        return text if kind == "op" else kind

    def sum(self) -> complex:
        value = self.product()
        while (sign := self.peek()) in ("+", "-"):
            self.at += 1
            right = self.product()
            value = value + right if sign == "+" else value - right
        return value

    def product(self) -> complex:
        value = self.signed()
        while (sign := self.peek()) and sign not in "+-^)]}_" and not (sign == "|" and self.bars):
            self.at += sign in "*/"
            right = self.signed() if sign in "*/" else self.power()
            value = value / right if sign == "/" else value * right
        return value

    def signed(self) -> complex:
        if (sign := self.peek()) in ("+", "-"):
            self.at += 1
            return -self.power() if sign == "-" else self.power()
        return self.power()

    def power(self) -> complex:
        value = self.atom()
        if self.peek() == "^":
            self.at += 1
            exponent = self.exponent()
            if self.peek() == "^" or abs(exponent) > MAX_POWER:
                raise _UnreadableError
            value = value**exponent
        return value

    def exponent(self) -> complex:
        if self.peek() == "-":
            self.at += 1
            return -self.atom()
        return self.atom()

    def bracket(self) -> complex:
        opener = self.peek()
        if opener not in _CLOSER or self.depth >= MAX_DEPTH:
            raise _UnreadableError
        self.at += 1
        self.depth += 1
        value = self.sum()
        self.depth -= 1
        if self.peek() != _CLOSER[opener]:
            raise _UnreadableError
        self.at += 1
        return value

    def atom(self) -> complex:
        kind = self.peek()
        if kind in _CLOSER:
            return self.bracket()
        if kind == "|":
            return self.absolute()
        if self.at >= len(self.tokens):
            raise _UnreadableError
        text = self.tokens[self.at][1]
        self.at += 1
        if kind == "number":
            if len(text) > 30:
                raise _UnreadableError
            return complex(float(text))
        if kind == "pi":
            return complex(math.pi)
        if kind == "letter":
            return complex(math.e if text == "e" else self.values[text])
        if kind == "greek":
            return complex(self.values[text])
        if kind == "root":
            return cmath.sqrt(self.atom())
        if kind == "frac":
            return self.bracket() / self.bracket()
        if kind == "function":
            return self.function(text)
        raise _UnreadableError

    def absolute(self) -> complex:
        if self.bars:  # |a|b|c| has two readings
            raise _UnreadableError
        self.at += 1
        self.bars = 1
        value = self.sum()
        self.bars = 0
        if self.peek() != "|":
            raise _UnreadableError
        self.at += 1
        return complex(abs(value))

    def function(self, name: str) -> complex:
        if name == "sqrt" and self.peek() == "[":
            degree = self.bracket()
            return self.atom() ** (1 / degree)
        exponent: complex = 1
        base: complex = 0
        if name == "log" and self.peek() == "_":
            self.at += 1
            base = self.atom()
        if self.peek() == "^":
            self.at += 1
            exponent = self.exponent()
        if self.peek() in _CLOSER or name == "sqrt":
            argument = self.atom()
        else:
            argument = self.power()
            while self.peek() in ("letter", "greek", "pi"):  # sin 2x is sin(2x)
                argument *= self.power()
        value = cmath.log(argument) / cmath.log(base) if base else _FUNCTIONS[name](argument)
        return value**exponent


def letters_of(text: str) -> frozenset[str] | None:
    """The letters of an expression (e is Euler's number), or None where it cannot be read."""
    tokens = _tokens(text) if len(text) <= MAX_CHARS else None
    if not tokens:
        return None
    return frozenset(t for kind, t in tokens if kind in ("letter", "greek") and t != "e")


def values_at(text: str, letters: frozenset[str]) -> tuple[complex, ...] | None:
    """The values of an expression at the points, or None where it cannot be read or has none there."""
    tokens = _tokens(text) if len(text) <= MAX_CHARS else None
    if not tokens or len(letters) > 6:
        return None
    found = []
    for k, point in enumerate(_POINTS):
        values = {name: point[i % 3] + 0.37 * (i // 3) + 0.01 * k * i for i, name in enumerate(sorted(letters))}
        evaluator = _Evaluator(tokens, values)
        try:
            value = evaluator.sum()
        except (_UnreadableError, ArithmeticError, ValueError, KeyError, RecursionError):
            return None
        if evaluator.at != len(tokens) or not cmath.isfinite(value):
            return None
        found.append(value)
    return tuple(found)


def same_function(a: str, b: str) -> bool | None:
    """Whether two expressions have the same values; None where one of them is not read here."""
    letters_a, letters_b = letters_of(a), letters_of(b)
    if letters_a is None or letters_b is None:
        return None
    left, right = values_at(a, letters_a | letters_b), values_at(b, letters_a | letters_b)
    if left is None or right is None:
        return None
    return all(abs(p - q) <= TOLERANCE * max(1.0, abs(p), abs(q)) for p, q in zip(left, right, strict=True))
