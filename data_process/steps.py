"""The steps of a solution: what a process reward judges one after the other.

A solution with three lines of text or more has a step for each line. One with fewer lines has a step for each sentence.
What holds no letter and no digit, a rule or a closing bracket, belongs to the step before it. Line breaks end a step;
blanks between sentences begin the next one, as most tokenizers have it. The steps of a text make up the text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

# Of the rule above: raise it when the rule changes, since a reward model is bound to it.
VERSION = 1
FEWEST_LINES = 3
_LINE = re.compile(r"[^\n]*(?:\n+|$)")
_END = re.compile(r"[.!?][\"')\]*]{0,3}(?=\s)|[。！？]")
# What ends like a sentence and does not end one: the number of a list's item, and abbreviations.
_NO_END = re.compile(r"^\W*(?:\d{1,3}|[A-Za-z])\.$|\b(?:e\.g|i\.e|vs|cf|[Ff]igs?|[Ee]qs?|approx|resp|No)\.$")
_WORDS = re.compile(r"[^\W_]")


def split_steps(text: str, most: int | None = None) -> tuple[str, ...]:
    """The steps of a solution, in order; joined they are the text. A text that is empty has none.

    `most`: neighbours are joined until there are so many at most, in parts that differ by one step. ValueError below 1.
    """
    if most is not None and most < 1:
        raise ValueError(f"a text has at least 1 step, not {most}")
    lines = [line for line in _LINE.findall(text) if line]
    if sum(bool(_WORDS.search(line)) for line in lines) < FEWEST_LINES:
        lines = [sentence for line in lines for sentence in _sentences(line)]
    found = _with_words(lines)
    if most is None or len(found) <= most:
        return tuple(found)
    edges = [len(found) * k // most for k in range(most + 1)]
    return tuple("".join(found[a:b]) for a, b in itertools.pairwise(edges))


def prefixes(steps: Sequence[str]) -> list[str]:
    """The text up to the end of each step."""
    found, text = [], ""
    for step in steps:
        text += step
        found.append(text)
    return found


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(line):
        if line[end.end() :].strip() and not _NO_END.search(line[start : end.end()]):
            yield line[start : end.end()]
            start = end.end()
    yield line[start:]


def _with_words(parts: Sequence[str]) -> list[str]:
    """The parts, those without a letter or digit added to the one before them, or else to the next."""
    found: list[str] = []
    for part in parts:
        if found and not (_WORDS.search(part) and _WORDS.search(found[-1])):
            found[-1] += part
        else:
            found.append(part)
    return found
