"""Traces that contradict themselves: what is claimed of a choice against what the choice says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process.building.mixture import build
from data_process.judging import judge
from data_process.judging.consistency import contradiction, contradictions, false_arithmetic
from data_process.prompts import SHORT
from data_process.schema import Candidate, Judged, Problem

PROBLEM = Problem("p", "Find x.", "C", ("30", "40.0", "45", "60 cm"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90-45=45. 45 is (C).", None),
        ("90-45=47. 47 is (C).", "47 is (C), but (C) is 45"),
        ("47 is none. Wait, 45 is (C).", None),  # the last claim counts
        ("45 is (C). Wait, 40 is (C).", "40 is (C), but (C) is 45"),
        ("x = 45°, which is option (C).", None),
        ("x = 44 degrees, which is option (C)", "44 is (C), but (C) is 45"),
        ("40 is (B)", None),
        ("60 is (D)", None),
        ("12 is (E)", "12 is (E), but there is no (E)"),
        ("The answer is (C).", None),
        ("Answer: C", None),
        ("", None),
        ("1" * 100_000 + " is (C)", None),
    ],
)
def test_contradiction(text, found):
    assert contradiction(text, PROBLEM) == found


@pytest.mark.parametrize(("require", "kept"), [(False, 2), (True, 1)])
def test_build_leaves_lucky_answers_out(require, kept):
    texts = ["45 is (C). Answer: (C)", "47 is (C). Answer: (C)"]
    judged = [
        Judged(candidate := Candidate("p", 0, i, text, 9, 9, "stop"), judge(candidate.text, PROBLEM))
        for i, text in enumerate(texts)
    ]
    assert all(item.verdict.correct for item in judged)
    result = build(
        [PROBLEM], judged, rule="a-orig", prompts=SHORT, seed=0, max_cot_per_problem=2, require_consistent=require
    )
    assert len(result.by_kind["cot"]) == kept
    assert result.dropped["candidate:contradicts_itself"] == (1 if require else 0)


# (text, what is found); [] for text that contradicts nothing
ARITHMETIC = [
    ("I see 80 and 38. 80+38=118. 180-118=62. 62/2=31. 31 is (A).", []),
    ("80+38=108. 180-108=72.", ["80+38=108 (it is 118)"]),
    ("80+38=108. 180-108=62.", ["80+38=108 (it is 118)", "180-108=62 (it is 72)"]),
    ("80+30=110+8=118. 100-10=90-8=82.", []),  # running totals
    ("80+30=110+8=119.", ["110+8=119 (it is 118)"]),
    ("80+30=120+8=128.", ["80+30=120+8 (it is 110)"]),
    # forms of real models
    ("So 180° − 118° = 62°.", []),
    ("So 180° − 118° = 72°.", ["180  - 118=72 (it is 62)"]),
    ("$\\frac{62}{2} = 31$ and \\(2 \\times 31 = 63\\)", ["2 \\times 31=63 (it is 62)"]),
    ("**3 × 4 = 12**\n- 12 + 5 = 18\n* 3 x 5 = 15", ["12 + 5=18 (it is 17)"]),
    ("The angle is 180^\\circ - 50^\\circ - 60^\\circ = 70^\\circ.", []),
    ("2(30 + 20) = 100 and (3+4)*2 = 15", ["(3+4)*2=15 (it is 14)"]),
    ("1,200 + 34 = 1,234; 1,200 + 34 = 1,235", ["1,200 + 34=1,235 (it is 1234)"]),
    ("x = 180 - 118 = 62 degrees", []),
    ("x = 180 - 118 = 61 degrees", ["180 - 118=61 (it is 62)"]),
    ("5 cm + 3 cm = 9 cm", ["5 + 3=9 (it is 8)"]),
    ("2^3 = 8, 5² = 25, √16 = 4, √2 = 1.41, 2*√3 = 3.46", []),
    ("√16 = 5", ["√16=5 (it is 4)"]),
    ("π × 25 = 78.5; 3.14 × 25 = 78.5; π × 10000 = 31400", []),
    # rounded or cut results
    ("10/3 = 3.33. 20/3 = 6.67. 20/3 = 6.66. 10/3 = 3. 7/2 = 3", []),
    ("10/3 = 3.43", ["10/3=3.43 (it is 3.333)"]),
    ("62/2=30", ["62/2=30 (it is 31)"]),
    ("1.5+2.5=4.1", ["1.5+2.5=4.1 (it is 4)"]),
    # what states nothing of plain numbers
    ("2x + 30 + 20 = 90", []),
    ("2x + 30 = 90", []),
    ("∠A + 30 + 20 = 90", []),
    ("30 + 20 = 40 + x", []),
    ("30 + 20 = 5x", []),
    ("30 + 20 = 5 x", []),
    ("sin 30 + 1 = 2; f(30+20) = 7; 5! + 1 = 2", []),
    ("20% of 50 + 5 = 15", []),
    ("Is 30 + 20 = 60? No.", []),
    ("30 + 20 ≠ 60, and 30 + 20 = 60 is wrong", []),
    ("If 30 + 20 = 60 were true, this would follow.", []),
    ("17 / 2 = 8 remainder 1", []),
    ("1 + 1 = 2 million", []),
    ("a == 3+4 == 8", []),
    ("30+20=", []),
    ("=50", []),
    ("1+1=" * 5000, []),
    ("9" * 50_000 + "=1", []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "found"), ARITHMETIC)
def test_false_arithmetic(text, found):
    assert false_arithmetic(text) == found


CONTRADICTIONS = [
    ("I see 90 and 45. 90-45=45. 45 is (C). Answer: (C)", None),
    ("90-45=47. 47 is (C). Answer: (C)", "90-45=47 (it is 45); 47 is (C), but (C) is 45"),
    ("90-45=47. Wait, 90-45=45. 45 is (C). Answer: (C)", None),  # the slip is mended
    ("90-45=45. 45 is (C). Wait, 90-45=40. 40 is (B). Answer: (B)", "90-45=40 (it is 45)"),
    ("90-45=47. Let me check: 90 - 45 = 45. Answer: (C)", None),
    ("Answer: B. 60", "what follows is choice D"),
    ("x = 90 - 43 = 47. So the answer is (C).", "the last result is 47, but (C) is 45"),
    ("x = 90 - 45 = 45. So the answer is (C).", None),
    ("The angle is 45. 2 * 30 = 60. So the answer is (C).", None),  # its value stands there
    ("x = 3 * 15.1 = 45.3. So the answer is (C).", None),  # rounded
    ("The answer is (C).", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "found"), CONTRADICTIONS)
def test_contradictions(text, found):
    said = "; ".join(contradictions(text, PROBLEM, judge(text, PROBLEM)))
    assert (said == "") if found is None else (found in said)


def test_a_free_answer_is_held_to_its_arithmetic_alone():
    problem = Problem("n", "How many?", "7", answer_type="integer")
    for text, found in (("3 + 4 = 7. Answer: 7", 0), ("3 + 4 = 8. Answer: 8", 1), ("Answer: 9", 0)):
        assert len(contradictions(text, problem, judge(text, problem))) == found


@given(st.text(alphabet="0123456789+-*/=(). x{}\\frac", max_size=80))
def test_nothing_breaks_it(text):
    assert isinstance(contradictions(text, PROBLEM, judge(text, PROBLEM)), list)


@given(st.integers(0, 999), st.integers(0, 999), st.integers(-3, 3))
def test_a_sum_is_false_when_it_is(a, b, slip):
    assert bool(false_arithmetic(f"So {a} + {b} = {a + b + slip}.")) == bool(slip)
