"""Finds responses that contradict themselves. A correct letter after a wrong value is luck, and not worth learning.

Of R3V's traces with a correct answer, 8 to 70% were fully correct when read by hand (arXiv 2411.00855). Without the
gold answer and without a model one can still find a trace that says "47 is (C)" where choice (C) is 45, or "90-45=47".
`contradiction` looks for the first of these alone; `contradictions` looks for all, and is what votes weigh by.

Everything here errs towards "consistent": what cannot be read, is rounded, or was taken back contradicts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from data_process.judging.locate.assertion import denied
from data_process.judging.maths.quantity import read_quantity, same_value
from data_process.judging.maths.surds import approximate, rational, read_exact
from data_process.schema import Problem, Verdict

# A value that is claimed to be a choice: "47 is (C)", "x = 47°, which is option (C)", "47 corresponds to (C)".
_CLAIM = re.compile(
    r"(?<![\d.,/])(\d{1,12}(?:\.\d{1,12})?)\s?(?:°|degrees?|cm|m)?,?\s"
    r"(?:which\s)?(?:is|matches|corresponds\sto)\s(?:option\s|choice\s|answer\s)?\(([A-J])\)"
)
MAX_CHARS = 20_000  # from the end, as in the judge

# After one of these a text begins again, and what stands before it is taken back or checked once more.
_AGAIN = re.compile(
    r"\b(?:wait|hold on|hmm+|oops|scratch that|correction|on second thoughts?|actually"
    r"|let(?:'s| me| us) (?:re-?\w+|check|verify|double-check|try again|start over)"
    r"|I (?:made|may have made) an? (?:mistake|error)|(?:that|this)(?:'s| is| was) (?:wrong|incorrect|not right)"
    r"|maybe I made a mistake)\b",
    re.IGNORECASE,
)

# Arithmetic: numbers, operators and brackets, in plain text or LaTeX. A comma only inside a number, a point only in or
# before digits, so that a side ends with its sentence.
_SIDE = (
    r"(?:[0-9]|\.(?=[0-9])|,(?=[0-9]{3}(?![0-9]))|[+\-−–*/×·÷()^√π²³°{}]"
    r"|\\(?:times|cdot|div|[dt]?frac|sqrt|pi|circ)(?![A-Za-z])|(?<=[0-9])\s?[xX](?=\s?[0-9])"
    r"|\s(?:degrees|cm|mm|km|kg)(?![A-Za-z])|[ \t])"
)
_SPAN = 120  # characters of one side
_STATEMENT = re.compile(rf"{_SIDE}{{1,{_SPAN}}}(?:={_SIDE}{{1,{_SPAN}}})+")
_OPERATOR = re.compile(r"[0-9)}]\s*(?:[+\-*/^(]|\\(?:times|cdot|div)\b)|\\[dt]?frac|√|\\sqrt")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")
_SPELLING = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "²": "^2", "³": "^3", "°": " "})
_UNITS = re.compile(r"\^?\s?\{?\s?\\circ\s?\}?|\s(?:degrees|cm|mm|km|kg)(?![A-Za-z])")
_MARKUP = re.compile(
    r"\\[()\[\],;! ]|\$|\*\*|`|\\(?:left|right)(?![A-Za-z])|\\(?:text|mathrm)\{[^{}]{0,20}\}|(?m:^\s*[-*•]\s)"
)
# What stands before a left side or after a right one and makes it a part of something longer: "2x + 30", "= 50x".
_BEFORE = re.compile(
    r"(?:[A-Za-z0-9_)\]}^%\\≠<>≤≥!+*/×·÷-]|[0-9]:|\b(?:[b-hj-zB-HJ-Z]|times|plus|minus|over|of|by|sin|cos|tan|cot|log|ln"
    r"|max|min|gcd|lcm|mod)\s+)$"
)
_AFTER = re.compile(
    r"[A-Za-z0-9_(\[^%!|\\+*/:]|\s*[?<>≤≥≠≈=]"
    r"|\s+(?:[b-hj-zB-HJ-Z]|times|plus|minus|over|percent|squared|cubed|divided|mod|modulo|or|hundred|thousand|million"
    r"|billion)(?![A-Za-z])"
)
_WRITTEN = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,12})(?:\.[0-9]{1,12})?")
_RESULT = re.compile(rf"=\s?({_WRITTEN.pattern})(?!\s?[A-Za-z0-9(^/*+√\\]|\.[0-9])")


def contradiction(text: str, problem: Problem) -> str | None:
    """The last claim "VALUE is (LETTER)" if that choice has another value, for instance "47 is (C), but (C) is 45".

    None if the claim holds, if there is none, or if the choice is not a plain number.
    """
    claims = _CLAIM.findall(text[-MAX_CHARS:])
    if not claims:
        return None
    value, letter = claims[-1]
    if letter not in problem.letters:
        return f"{value} is ({letter}), but there is no ({letter})"
    choice = problem.choices[problem.letters.index(letter)]
    said, stands = read_quantity(value), read_quantity(choice)
    if said is None or stands is None or same_value(said.value, stands.value):
        return None
    return f"{value} is ({letter}), but ({letter}) is {choice}"


def contradictions(text: str, problem: Problem, verdict: Verdict) -> list[str]:
    """What the last derivation of a judged response says against itself; [] if nothing was found. No gold is used.

    - Arithmetic that is false: "90-45=47". See `false_arithmetic`.
    - A claim "47 is (C)" where (C) is 45, as in `contradiction`.
    - An answer whose letter and value differ, as the judge notes: "Answer: B. 60".
    - A letter whose value stands nowhere in the derivation, when its last result is another value: "x = 47. So the
      answer is (C)".

    The last derivation is what follows the last "Wait" or similar mark, so a slip that the text mends is none.
    """
    derivation = last_derivation(text)
    found = false_arithmetic(derivation)
    claim = contradiction(derivation, problem)
    if claim is not None:
        found.append(claim)
    elif problem.choices and verdict.note is not None:
        found.append(verdict.note)
    elif problem.choices and (unsupported := _unsupported(derivation, problem, verdict.extracted)):
        found.append(unsupported)
    return found


def last_derivation(text: str) -> str:
    """What follows the last mark of a new beginning ("Wait", "Let me check"); the whole text if there is none."""
    text = text[-MAX_CHARS:]
    begins = [m.end() for m in _AGAIN.finditer(text)]
    return text[begins[-1] :] if begins else text


def false_arithmetic(text: str) -> list[str]:
    """Every statement like `a+b=c` that is false: "80+38=108 (it is 118)", in order.

    Each `=` between two sides of plain arithmetic is one statement. It holds if the sides are equal, if the right side
    can be a rounding of the left one (10/3=3.33, or 3), and in a running total (`80+30=110+8=118`). A side with a
    letter, a comparison, a question or a supposition states nothing.
    """
    text = _MARKUP.sub(" ", text[-MAX_CHARS:])
    found = []
    for start, end, left, right in _statements(text):
        if (value := _false(left, right)) is None:
            continue
        begin = max(text.rfind("\n", 0, start) + 1, start - 200)
        if not denied(text[begin : end + 100].partition("\n")[0], start - begin, end - begin):
            found.append(f"{left}={right} (it is {value})")
    return found


def _statements(text: str) -> Iterator[tuple[int, int, str, str]]:
    """(start, end, left side, right side) of every equation of which both sides are arithmetic and the left one is
    more than a number."""
    for match in _STATEMENT.finditer(text):
        start = match.end() - len(match[0].lstrip())
        end = match.start() + len(match[0].rstrip())
        sides = [_plain(side) for side in match[0].split("=")]
        if _AFTER.match(text[end : end + 20]):
            sides[-1] = ""
        if _BEFORE.search(text[max(0, start - 12) : start]):
            sides[0] = ""
        for left, right in pairwise(sides):
            if right and _OPERATOR.search(left):
                yield start, end, left, right


def _plain(side: str) -> str:
    """A side in one spelling, without units; "" for what begins or ends in an operator."""
    side = _UNITS.sub("", side).translate(_SPELLING)
    side = re.sub(r"(?<=[0-9])\s?[xX]\s?(?=[0-9])", "*", side).strip()
    return "" if re.match(r"[+*/^)}]|-\s", side) or re.search(r"[-+*/^({\\]$", side) else side


def _false(left: str, right: str) -> str | None:
    """What the left side is, where it is surely not what the right side says."""
    one, other = read_exact(left), read_exact(right)
    if one is None or other is None:
        return None
    value, stands = rational(one), rational(other)
    if value is None or stands is None:  # roots and π: 3.14 and 22/7 will do
        a, b = approximate(one), approximate(other)
        return f"{a:.4g}" if abs(a - b) > max(abs(a), abs(b)) / 100 and not _rounds_to(Fraction(a), right) else None
    if value == stands or _rounds_to(value, right):
        return None
    first = _NUMBER.match(right)
    if first is not None and first[0] != right and _rounds_to(value, first[0]):
        return None  # a running total: "80+30=110+8"
    if not _NUMBER.fullmatch(right) and (value.denominator != 1 or stands.denominator != 1):
        return None if abs(value - stands) <= max(abs(value), abs(stands)) / 100 else _written(value)
    return _written(value)


def _rounds_to(value: Fraction, number: str) -> bool:
    """Whether a written number is the value, or the value rounded or cut to as many places."""
    if not _NUMBER.fullmatch(number) or not number.strip("-"):
        return False
    unit = Fraction(1, 10 ** len(number.partition(".")[2]))
    written = Fraction(number.replace(",", ""))
    return value == written or ((value / unit).denominator != 1 and abs(value - written) < unit)


def _written(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):.4g}"


def _unsupported(derivation: str, problem: Problem, letter: str | None) -> str | None:
    """ "the last result is 47, but (C) is 45", if the value of the chosen letter stands nowhere in the derivation."""
    if letter is None or letter not in problem.letters:
        return None
    choice = problem.choices[problem.letters.index(letter)]
    stands, results = read_quantity(choice), _RESULT.findall(derivation)
    if stands is None or not results:
        return None
    numbers = {Fraction(n.replace(",", "")) for n in _WRITTEN.findall(derivation)}
    near = any(same_value(n, stands.value) or _near(n, stands.value, choice) for n in numbers)
    return None if near else f"the last result is {results[-1]}, but ({letter}) is {choice}"


def _near(number: Fraction, value: Fraction, choice: str) -> bool:
    """Whether a choice can be a rounding of the number."""
    places = len(choice.partition(".")[2].strip("°% ")) if "." in choice else 0
    return abs(number - value) < Fraction(1, 10**places) and number.denominator != 1
