"""Traces that contradict themselves: what is claimed of a choice against what the choice says."""

from __future__ import annotations

import pytest

from data_process.building.mixture import build
from data_process.judging import judge
from data_process.judging.consistency import contradiction
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
