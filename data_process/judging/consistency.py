"""Finds responses that contradict themselves. A correct letter after a wrong value is luck, and not worth learning.

Of R3V's traces with a correct answer, 8 to 70% were fully correct when read by hand (arXiv 2411.00855). Without the
gold answer and without a model one can still find a trace that says "47 is (C)" where choice (C) is 45.
"""

from __future__ import annotations

import re

from data_process.judging.maths.quantity import read_quantity, same_value
from data_process.schema import Problem

# A value that is claimed to be a choice: "47 is (C)", "x = 47°, which is option (C)", "47 corresponds to (C)".
_CLAIM = re.compile(
    r"(?<![\d.,/])(\d{1,12}(?:\.\d{1,12})?)\s?(?:°|degrees?|cm|m)?,?\s"
    r"(?:which\s)?(?:is|matches|corresponds\sto)\s(?:option\s|choice\s|answer\s)?\(([A-J])\)"
)
MAX_CHARS = 20_000  # from the end, as in the judge


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
