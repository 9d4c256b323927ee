"""MMMU's official rule (MMMU-Benchmark/MMMU, `eval/eval_utils.py`), with its defects.

It credits a letter that stands anywhere in brackets or alone, so "A student ..." reads as choice A. A response to a
choice problem in which it finds nothing gets a random choice. The published draw depends on the order of all problems;
here the seed and the problem's id name it. An open answer is right if a gold text stands anywhere in a part of the
response that follows a word such as "is", or if one of the numbers there is a gold number to two decimals.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from data_process.schema import Problem, Verdict
from data_process.seeds import seed_for

SOURCE = "MMMU-Benchmark/MMMU, eval/eval_utils.py"
_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)
_MIN_WORDS = 5  # a longer response is searched for the texts of the choices


def mmmu(text: str, problem: Problem, seed: int = 0) -> Verdict:
    """The verdict on a response; `extracted` is the letter, or the gold answer that an open response states."""
    if problem.choices:
        letter, rule = _letter(text, problem, seed)
        return Verdict("correct" if letter == problem.answer else "wrong", letter, f"legacy:mmmu/{rule}")
    said = set(_open_answers(text))
    for gold in (problem.answer, *problem.alternatives):
        for wanted in _normal(gold):
            numbers = wanted in said if isinstance(wanted, float) else False
            if numbers or any(isinstance(wanted, str) and isinstance(part, str) and wanted in part for part in said):
                return Verdict("correct", gold, "legacy:mmmu/open")
    return Verdict("wrong", None, "legacy:mmmu/open")


def _letter(text: str, problem: Problem, seed: int) -> tuple[str, str]:
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    lower = text.lower()
    places = {
        "bracketed": {letter: text.rfind(f"({letter})") for letter in problem.letters},
        "alone": {letter: text.rfind(f" {letter} ") for letter in problem.letters},
    }
    if len(text.split()) > _MIN_WORDS:
        pairs = zip(problem.letters, problem.choices, strict=True)
        places["choice"] = {letter: lower.rfind(choice.lower()) for letter, choice in pairs}
    for rule, found in places.items():
        if max(found.values()) >= 0:
            return max(found, key=lambda letter: found[letter]), rule  # the last one; the first letter of equal ones
    drawn = random.Random(seed_for(seed, "legacy:mmmu", problem.id)).choice(problem.letters)
    return drawn, "drawn"


def _open_answers(text: str) -> Iterator[str | float]:
    """The parts of a response that may state its answer, and the numbers in them."""
    text = text.strip().strip(".").lower()
    lines = text.split("\n")
    parts = []
    for number, line in enumerate(lines, start=1):
        words = (*_WORDS, "=") if number == len(lines) else _WORDS
        shortest = ""
        for tail in (line.split(word)[-1].strip() for word in words if word in line):
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in tuple(":,.!?;'"):
            parts.append(shortest)
    for part in parts or [text]:
        yield from _normal(part)
        for pattern in _NUMBERS:
            for number_text in re.findall(pattern, part):
                yield from _normal(number_text)


def _normal(text: str) -> list[str | float]:
    """A number rounded to two decimals, or the text in lower case; a single letter only beside a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
