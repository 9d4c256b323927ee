r"""math-verify (sympy) on a few short expressions: `x\pm1`. It is asked only where no other rule can decide.

sympy cannot be interrupted inside a thread, so anything that it might not finish in milliseconds is refused before.
It gets no signal and no time limit, and so works in any thread or process.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from functools import lru_cache
from itertools import accumulate

from data_process.judging.maths.canonical import FUNCTIONS, is_expression, without_names

MAX_CHARS = 24  # the parser of math-verify needs seconds for longer expressions
MAX_EXPONENT = 6
MAX_LETTERS = 2
MAX_POWERS = 3

_lock = threading.Lock()  # the parser behind math-verify fills shared tables while it reads


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()  # a fork may happen while another thread holds it


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_new_lock)


@lru_cache(maxsize=1 << 12)
def same_by_algebra(a: str, b: str) -> bool:
    """Whether math-verify finds two expressions equal in both directions (its verify() is not symmetric).

    False where either expression is not one that it surely finishes.
    """
    if not (_is_quick(a) and _is_quick(b)):
        return False
    from math_verify import LatexExtractionConfig, parse, verify  # imports sympy: half a second, and rarely needed

    for module in ("parser", "grader", "utils"):  # it logs what it cannot read, and that no time limit is set
        logging.getLogger(f"math_verify.{module}").setLevel(logging.CRITICAL)
    with _lock:
        left, right = (
            parse(f"${_latex(text)}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
            for text in (a, b)
        )
        if not left or not right:
            return False
        return bool(verify(left, right, timeout_seconds=None)) and bool(verify(right, left, timeout_seconds=None))


def _is_quick(text: str) -> bool:
    """Whether math-verify reads and compares `text` in milliseconds.

    Excluded are more than 24 characters, brackets in brackets, functions (but for a logarithm with a base), more than
    one absolute value or two letters, exponents above 6, in brackets or stacked, factorials, numbers beyond 6 digits.
    """
    depths = accumulate((c in "({[") - (c in ")}]") for c in text)
    if len(text) > MAX_CHARS or max(depths, default=0) > 1 or text.count("|") > 2 or not is_expression(text):
        return False
    if re.search(r"[0-9]{7}", text) or re.search(FUNCTIONS, re.sub(r"^\\?log_", "", text)):
        return False
    powers = re.findall(r"\^\s?\{?\s?([0-9]+|[A-Za-z])?", text)
    return (
        len(set(re.findall(r"[A-Za-z]", without_names(text)))) <= MAX_LETTERS
        and all(p and (p.isalpha() or (len(p) < 3 and int(p) <= MAX_EXPONENT)) for p in powers)
        and len(powers) <= MAX_POWERS
    )


def _latex(text: str) -> str:
    """Plain roots and functions as LaTeX, which is what math-verify reads."""
    text = re.sub(r"√\s?([0-9A-Za-z]|\{)", lambda m: r"\sqrt" + (m[1] if m[1] == "{" else f"{{{m[1]}}}"), text)
    text = re.sub(r"(?:\\sqrt|(?<![A-Za-z\\])sqrt|√)\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(rf"(?<![A-Za-z\\])({FUNCTIONS})(?![A-Za-z])", r"\\\1", text)
    return text.replace("π", r"\pi ").replace("*", r"\cdot ").replace("≤", r"\le ").replace("≥", r"\ge ")
