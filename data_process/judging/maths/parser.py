r"""The grammar of short expressions, in LaTeX or plain: `2\sqrt{3}`, `\frac{x+1}{2}`, `9π/4`, `|x-1|`, `\sin^2 x`.

One parser serves two evaluations: `surds` (exact values of roots and π) and `numeric` (values at a few points). It
evaluates as it reads, through two functions of the evaluation:

- `constant(kind, text)`: the value of a "number" ("12", ".5", "1,234"), a "digit" of `\frac12`, "pi", a "letter" with
  its index ("x_1") or a "greek" one ("alpha").
- `apply(operation, *values)`: `+ - * / ^`, "negate", "|" (absolute value), "√", "root" (value, degree), a function by
  its name, with "_" added for a base and "^" for an exponent ("log_", "sin^"); "beside" is a number directly after a
  value ("x2"), "mixed" a fraction directly after a number ("2\frac{1}{2}").

An operation that the evaluation does not know (KeyError) or refuses (UnreadableError) makes the expression unreadable.
The evaluations limit the length of a text, and the parser its nesting, so no input takes long.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

MAX_DEPTH = 12  # of brackets
MAX_DIGITS = 30  # of one written number

T = TypeVar("T")
Tokens = tuple[tuple[str, str], ...]  # (kind, text)


class UnreadableError(Exception):
    """The text is not an expression, or not one that the evaluation can read."""


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


def evaluate(tokens: Tokens | None, constant: Callable[[str, str], T], apply: Callable[..., T]) -> T | None:
    """The value of an expression; None where it cannot be read or has no value."""
    if not tokens:
        return None
    parser = _Parser(tokens, constant, apply)
    try:
        value = parser.sum()
    except (UnreadableError, LookupError, ArithmeticError, ValueError, RecursionError):
        return None
    return value if parser.at == len(parser.tokens) else None


class _Parser(Generic[T]):
    """Recursive descent over tokens; held open only while one expression is read."""

    def __init__(self, tokens: Tokens, constant: Callable[[str, str], T], apply: Callable[..., T]) -> None:
        self.tokens, self.constant, self.apply = list(tokens), constant, apply
        self.at = self.depth = 0
        self.in_bars = False

    def peek(self) -> str:
        """The next token: an operator's own sign, otherwise its kind, "" at the end."""
        if self.at >= len(self.tokens):
            return ""
        kind, text = self.tokens[self.at]
        return text if kind == "op" else kind

    def took(self, signs: str) -> str:
        """The next token where it is one of these signs, and then it is passed; else ""."""
        sign = self.peek()
        if not sign or sign not in signs:
            return ""
        self.at += 1
        return sign

    def sum(self) -> T:
        value = self.product()
        while sign := self.took("+-"):
            value = self.apply(sign, value, self.product())
        return value

    def product(self) -> T:
        value = self.signed()
        after_number = self.tokens[self.at - 1][0] == "number"
        while (sign := self.peek()) and sign not in "+-^)]}_" and not (sign == "|" and self.in_bars):
            if self.took("*/"):
                value = self.apply(sign, value, self.signed())
            else:
                mixed = after_number and sign == "frac"
                operation = "beside" if sign == "number" else "mixed" if mixed else "*"
                value = self.apply(operation, value, self.power())
            after_number = False
        return value

    def signed(self) -> T:
        sign = self.took("+-")
        value = self.power()
        return self.apply("negate", value) if sign == "-" else value

    def power(self) -> T:
        value = self.atom()
        if self.took("^"):
            value = self.apply("^", value, self.exponent())
            if self.peek() == "^":  # a tower of powers is not an answer
                raise UnreadableError
        return value

    def exponent(self) -> T:
        return self.apply("negate", self.atom()) if self.took("-") else self.atom()

    def bracket(self) -> T:
        opener = self.peek()
        if opener not in _CLOSER or self.depth >= MAX_DEPTH:
            raise UnreadableError
        self.depth += 1
        value = self.enclosed(_CLOSER[opener])
        self.depth -= 1
        return value

    def absolute(self) -> T:
        if self.in_bars:  # bars inside bars are ambiguous
            raise UnreadableError
        self.in_bars = True
        value = self.enclosed("|")
        self.in_bars = False
        return self.apply("|", value)

    def enclosed(self, closer: str) -> T:
        """The value between the bracket or bar that comes next and its `closer`."""
        self.at += 1
        value = self.sum()
        if not self.took(closer):
            raise UnreadableError
        return value

    def atom(self) -> T:
        kind = self.peek()
        if kind in _CLOSER:
            return self.bracket()
        if kind == "|":
            return self.absolute()
        kind, text = self.tokens[self.at]  # IndexError at the end
        self.at += 1
        if kind == "root":
            return self.apply("√", self.atom())
        if kind == "frac":
            return self.apply("/", self.part(), self.part())
        if kind == "function":
            return self.function(text)
        if kind == "op" or len(text.replace(",", "")) > MAX_DIGITS:
            raise UnreadableError
        return self.constant(kind, text)

    def part(self) -> T:
        r"""An argument of \frac: braces, or one digit of what follows (`\frac12`)."""
        if self.peek() != "number":
            return self.bracket()
        digits = self.tokens[self.at][1]
        if not digits.isdigit():
            raise UnreadableError
        self.tokens[self.at] = ("number", digits[1:])
        self.at += len(digits) == 1
        return self.constant("digit", digits[0])

    def function(self, name: str) -> T:
        if name == "sqrt" and self.peek() == "[":
            degree = self.bracket()
            return self.apply("root", self.atom(), degree)
        base = [self.atom()] if name == "log" and self.took("_") else []
        exponent = [self.exponent()] if self.took("^") else []
        if self.peek() in _CLOSER or name == "sqrt":
            argument = self.atom()
        else:
            argument = self.power()
            while self.peek() in ("letter", "greek", "pi"):  # sin 2x is sin(2x)
                argument = self.apply("*", argument, self.power())
        operation = name + "_" * len(base) + "^" * len(exponent)
        return self.apply(operation, argument, *base, *exponent)
