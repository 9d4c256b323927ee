"""MiniGeo's check of a derivation: labels, sums, rule and letter."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from data_process.derivations import RIGHT, derivation_of
from data_process.judging import judge
from data_process.schema import Problem
from data_process.sources import minigeo

TRIANGLE = Problem(
    id="t", question="The third angle of the triangle is bisected. Find x.", answer="A",
    choices=("31", "59", "62", "28"), images=("t.png",),
    meta={"variant": "triangle3", "labels": ["80", "38"], "params": [80, 38], "value": 31},
)  # fmt: skip


def said(thought: str, letter: str = "A") -> str:
    return f"<think>{thought}</think>\nAnswer: ({letter})"


CASES = [
    (said("I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 31 is (A)."), RIGHT),
    (said("I see 38 and 80. 38+80=118. 180-118=62. 62/2=31. 31 is (A)."), RIGHT),
    (said("I see 80 and 38. 80+30=110+8=118. 180-110=70-8=62. 62/2=30+1=31. 31 is (A)."), RIGHT),
    (said("I see 80 and 36. 80+36=116. 180-116=64. 64/2=32. 32 is (A)."), "misread"),
    (said("I see 80. 180-80=100. 100/2=50. 50 is (A)."), "misread"),
    (said("I see 80 and 38. 80+38=117. 180-117=63. 63/2=31. 31 is (A)."), "slip"),
    (said("I see 80 and 38. 80+30=110+8=119. 180-119=61. 61/2=31. 31 is (A)."), "slip"),
    (said("I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 32 is (A)."), "slip"),
    (said("I see 80 and 38. 80+38=118. 180-118=62. 62/2= is (A)."), "slip"),
    (said("I see 80 and 38. 80+38=118. 180-118=62. 62 is (C).", "C"), "wrong_rule"),
    (said("I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 31 is (D).", "D"), "wrong_letter"),
    (said("I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 31 is (A).", "B"), "wrong_letter"),
    # The last derivation counts: what was wrong before `Wait,` is mended, or the reverse.
    (said("I see 80 and 36. 36 is (A). Wait, I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 31 is (A)."), RIGHT),
    (said("I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 31 is (A). Wait, I see 80 and 83. 31 is (A)."), "misread"),
    ("Answer: (A)", "no_derivation"),
    ("It looks like 31, so (A).", "no_derivation"),
    ("", "no_derivation"),
]


@pytest.mark.parametrize(("text", "found"), CASES)
def test_first_fault(text, found):
    assert derivation_of(text, judge(text, TRIANGLE), TRIANGLE) == found


@pytest.mark.slow
def test_every_reference_rationale_is_right():
    for problem, _ in minigeo.generate("base", 120):
        text = str(problem.meta["rationale"])
        assert derivation_of(text, judge(text, problem), problem) == RIGHT, problem.id


@pytest.mark.slow
def test_another_number_anywhere_is_found():
    """A derivation with one number replaced is never right, wherever the number stands."""
    rng = random.Random(0)
    for problem, _ in minigeo.generate("base", 60):
        thought, end = str(problem.meta["rationale"]).split("</think>")
        numbers = [m for m in thought.replace("(", " ").split() if any(c.isdigit() for c in m)]
        word = rng.choice(numbers)
        changed = thought.replace(word, word[:-1] + "7." if word.endswith(".") else word + "1", 1) + "</think>" + end
        if changed != problem.meta["rationale"]:
            assert derivation_of(changed, judge(changed, problem), problem) != RIGHT, changed


def test_other_data_sets_are_not_checked():
    other = replace(TRIANGLE, meta={"family": "triangles"})
    text = CASES[0][0]
    assert derivation_of(text, judge(text, other), other) is None
