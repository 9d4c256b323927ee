r"""The grammar of short expressions, in LaTeX or plain: `2\sqrt{3}`, `\frac{x+1}{2}`, `9π/4`, `|x-1|`, `\sin^2 x`.

One parser serves two evaluations: `surds` (exact values of roots and π) and `numeric` (values at a few points). The
parser calls an `Arithmetic` as it reads, so no tree is built, and whatever an arithmetic refuses ends the reading.
Both evaluations limit the length of the text, and nesting is limited here, so no input takes long.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

MAX_DEPTH = 12  # of brackets
MAX_DIGITS = 30  # of one written number


T = TypeVar("T")
Tokens = tuple[tuple[str, str], ...]  # (kind, text)


class UnreadableError(Exception):
    """The text is not an expression, or not one that the arithmetic can evaluate."""


class Arithmetic(Protocol[T]):
    """What an expression is evaluated with. Every method may raise UnreadableError."""

    def number(self, digits: str) -> T:
        """A number as it is written, "12", ".5" or "1,234.5", of at most MAX_DIGITS digits."""

    def digit(self, digit: str) -> T:
        r"""One argument of a `\frac` without braces, as in `\frac12`."""

    def pi(self) -> T: ...

    def letter(self, name: str) -> T:
        r"""A letter with its index (`x_1`), or the name of a Greek one (`alpha`)."""

    def add(self, a: T, b: T) -> T: ...

    def subtract(self, a: T, b: T) -> T: ...

    def multiply(self, a: T, b: T) -> T: ...

    def juxtapose(self, a: T, b: T, *, begins: str, after_number: bool) -> T:
        r"""`a` directly before `b`: a product, or a mixed number.

        `begins`: the first token of `b` ("number", "frac", "(", ...). `after_number`: `a` is one written number.
        """

    def divide(self, a: T, b: T) -> T: ...

    def negate(self, a: T) -> T: ...

    def power(self, a: T, exponent: T) -> T: ...

    def root(self, a: T, degree: T | None) -> T:
        """The root of `a`; None is the square root."""

    def absolute(self, a: T) -> T: ...

    def function(self, name: str, argument: T, base: T | None, exponent: T | None) -> T:
        r"""`\sin(x)`, `\log_{2}{8}` (with a base), `\sin^2(x)` (with an exponent)."""


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|\\(?P<frac>[dtc]?frac)(?![A-Za-z])"
    r"|\\?(?P<function>sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt)(?![a-z])|(?P<root>√)"
    r"|(?P<pi>\\pi(?![A-Za-z])|π|pi(?![a-z]))"
    r"|\\(?P<greek>alpha|beta|gamma|theta|phi|lambda|mu|omega)(?![A-Za-z])"
    r"|(?P<letter>[A-Za-z](?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]{1,4}\}))?)"
    r"|(?P<op>\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\\div(?![A-Za-z])|\*\*|[-+*/^(){}\[\]·×÷|_]))"
)
_SPELLING = {"\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "\\div": "/", "÷": "/", "**": "^"}
_CLOSER = {"(": ")", "{": "}", "[": "]"}


@lru_cache(maxsize=1 << 12)
def tokenize(text: str) -> Tokens | None:
    """The tokens of `text`, one spelling for each operator; None where a character belongs to no expression."""
    tokens: list[tuple[str, str]] = []
    text, position = text.strip(), 0
    while position < len(text):
        m = _TOKEN.match(text, position)
        if m is None:
            return None
        kind = m.lastgroup or ""
        tokens.append((kind, _SPELLING.get(m[kind], m[kind])))
        position = m.end()
    return tuple(tokens)


def letters_in(tokens: Tokens) -> frozenset[str]:
    """The letters among `tokens`; e is Euler's number."""
    return frozenset(text for kind, text in tokens if kind in ("letter", "greek") and text != "e")


def evaluate(tokens: Tokens | None, arithmetic: Arithmetic[T]) -> T | None:
    """The value of an expression; None where it cannot be read or has no value."""
    if not tokens:
        return None
    parser = _Parser(tokens, arithmetic)
    try:
        value = parser.sum()
    except (UnreadableError, ArithmeticError, ValueError, RecursionError):
        return None
    return value if parser.at == len(parser.tokens) else None


class _Parser(Generic[T]):
    """Recursive descent over tokens; held open only while one expression is read."""

    def __init__(self, tokens: Tokens, arithmetic: Arithmetic[T]) -> None:
        self.tokens = list(tokens)
        self.arithmetic = arithmetic
        self.at = 0
        self.depth = 0
        self.in_bars = False

    def peek(self) -> str:
        """The next token: an operator's own sign, otherwise its kind, "" at the end."""
        if self.at >= len(self.tokens):
            return ""
        kind, text = self.tokens[self.at]
        return text if kind == "op" else kind

    def sum(self) -> T:
        value = self.product()
        while (sign := self.peek()) in ("+", "-"):
            self.at += 1
            combine = self.arithmetic.add if sign == "+" else self.arithmetic.subtract
            value = combine(value, self.product())
        return value

    def product(self) -> T:
        value = self.signed()
        after_number = self.tokens[self.at - 1][0] == "number"
        while (sign := self.peek()) and sign not in "+-^)]}_" and not (sign == "|" and self.in_bars):
            if sign in "*/":
                self.at += 1
                combine = self.arithmetic.multiply if sign == "*" else self.arithmetic.divide
                value = combine(value, self.signed())
            else:
                value = self.arithmetic.juxtapose(value, self.power(), begins=sign, after_number=after_number)
            after_number = False
        return value

    def signed(self) -> T:
        sign = self.peek()
        self.at += sign in ("+", "-")
        value = self.power()
        return self.arithmetic.negate(value) if sign == "-" else value

    def power(self) -> T:
        value = self.atom()
        if self.peek() == "^":
            self.at += 1
            exponent = self.exponent()
            if self.peek() == "^":  # a tower of powers is no answer
                raise UnreadableError
            value = self.arithmetic.power(value, exponent)
        return value

    def exponent(self) -> T:
        if self.peek() == "-":
            self.at += 1
            return self.arithmetic.negate(self.atom())
        return self.atom()

    def bracket(self) -> T:
        opener = self.peek()
        if opener not in _CLOSER or self.depth >= MAX_DEPTH:
            raise UnreadableError
        self.depth += 1
        value = self.enclosed(_CLOSER[opener])
        self.depth -= 1
        return value

    def absolute(self) -> T:
        if self.in_bars:  # |a|b|c| has two readings
            raise UnreadableError
        self.in_bars = True
        value = self.enclosed("|")
        self.in_bars = False
        return self.arithmetic.absolute(value)

    def enclosed(self, closer: str) -> T:
        """What stands between the bracket or bar at the next token and `closer`."""
        self.at += 1
        value = self.sum()
        if self.peek() != closer:
            raise UnreadableError
        self.at += 1
        return value

    def atom(self) -> T:
        kind = self.peek()
        if kind in _CLOSER:
            return self.bracket()
        if kind == "|":
            return self.absolute()
        if not kind:
            raise UnreadableError
        text = self.tokens[self.at][1]
        self.at += 1
        match kind:
            case "number":
                if len(text.replace(",", "")) > MAX_DIGITS:
                    raise UnreadableError
                return self.arithmetic.number(text)
            case "pi":
                return self.arithmetic.pi()
            case "letter" | "greek":
                return self.arithmetic.letter(text)
            case "root":
                return self.arithmetic.root(self.atom(), None)
            case "frac":
                return self.arithmetic.divide(self.part(), self.part())
            case "function":
                return self.function(text)
            case _:
                raise UnreadableError

    def part(self) -> T:
        r"""An argument of \frac: braces, or one digit of what follows (`\frac12`)."""
        if self.peek() != "number":
            return self.bracket()
        digits = self.tokens[self.at][1]
        if not digits.isdigit():
            raise UnreadableError
        if len(digits) == 1:
            self.at += 1
        else:
            self.tokens[self.at] = ("number", digits[1:])
        return self.arithmetic.digit(digits[0])

    def function(self, name: str) -> T:
        if name == "sqrt" and self.peek() == "[":
            degree = self.bracket()
            return self.arithmetic.root(self.atom(), degree)
        base = exponent = None
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
                argument = self.arithmetic.multiply(argument, self.power())
        if name == "sqrt" and exponent is None:
            return self.arithmetic.root(argument, None)
        return self.arithmetic.function(name, argument, base, exponent)
