"""Whether a response to a MiniGeo problem is derived rightly: labels read, sums done, rule kept, choice named.

A right letter alone may be luck. Here the last derivation of a response is checked against what the generator knows:

    I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 31 is (A).

A sum may be done in small steps, `80+30=110+8=118`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from data_process.schema import Problem, Verdict

FAULTS: Mapping[str, str] = {
    "misread": "a label is misread",
    "slip": "a sum is wrong",
    "wrong_rule": "labels and sums are right, the value is not",
    "wrong_letter": "the value is right, the letter is not",
    "no_derivation": "no derivation in the reference form",
}
MAX_CHARS = 20_000  # from the end, as in the judge

_SEEN = re.compile(r"I see (\d{1,4}(?: and \d{1,4}){0,9})\.")
_SUM = re.compile(r"\d{1,6}[-+/]\d{1,6}(?:=\d{1,6}(?:[-+/]\d{1,6})?)*=?")
_VALUE = re.compile(r"(\d{1,6}) is \(?[A-Z]")


def knows(problem: Problem) -> bool:
    """Whether a problem is one of the generator's: its `meta` says which labels there are and what x is."""
    return problem.meta.keys() >= {"variant", "labels", "value"}


def fault(text: str, verdict: Verdict, problem: Problem) -> str | None:
    """The first of FAULTS that the last derivation of a response has; None if it is right from labels to letter."""
    meta: Mapping[str, Any] = problem.meta
    readings = list(_SEEN.finditer(text[-MAX_CHARS:]))
    if not readings:
        return "no_derivation"
    rest = text[-MAX_CHARS:][readings[-1].end() :]
    if sorted(readings[-1][1].split(" and ")) != sorted(meta["labels"]):
        return "misread"
    sums = _SUM.findall(rest)
    values = _VALUE.findall(rest)
    results = [int(one.rpartition("=")[2]) for one in sums if one.rpartition("=")[2].isdigit()]
    if len(results) < len(sums) or not all(map(_holds, sums)):
        return "slip"
    if values and results and int(values[-1]) != results[-1]:
        return "slip"
    if not values and not results:
        return "no_derivation"
    value = int(values[-1]) if values else results[-1]
    if value != meta["value"]:
        return "wrong_rule"
    return None if verdict.correct else "wrong_letter"


def _holds(chain: str) -> bool:
    """Whether each part of `80+30=110+8=118` is what the next begins with, or is as a whole: `94/2=45+2=47`."""
    parts = chain.split("=")
    for left, right in pairwise(parts):
        first = re.match(r"\d+", right)
        if first is None or _value(left) not in (float(first[0]), _value(right)):
            return False
    return True


def _value(expression: str) -> float:
    found = re.fullmatch(r"(\d+)(?:([-+/])(\d+))?", expression)
    if found is None:
        raise ValueError(f"not a sum: {expression!r}")
    a, sign, b = int(found[1]), found[2], int(found[3] or 0)
    if sign == "/":
        return a / b if b else float("nan")
    return float(a - b if sign == "-" else a + b)
