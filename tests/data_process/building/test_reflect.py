"""Reflection rows: where a forced sample is cut, which continuation follows an attempt, and what is left out."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.building.mixture import build
from data_process.building.second_thoughts import (
    SecondThoughts,
    Selection,
    Trace,
    cut_trace,
    derives,
    selection_from_json,
    selection_to_json,
    trace_from_json,
    trace_to_json,
)
from data_process.building.sharegpt import END_OF_TURN, rejection_reason, to_row
from data_process.judging import judge
from data_process.prompts import SHORT, cot
from data_process.schema import Candidate, DataError, Example, Judged, Problem, example_from_json, to_json

PROBLEM = Problem("p", "How large is x?", "A", ("31", "30", "45"), ("p.png",))
WAIT = (" Wait,",)
RIGHT, WRONG = "I see 60. 62/2=31. 31 is (A).", "I see 60. 62/2=30. 30 is (B)."
CHECKED = " I see 60. 60/2=30+1=31. 31 is (A).</think>\nAnswer: (A)"
LONGER = " I see 60. 60/2=30. 2/2=1. 30+1=31. So 31 is (A).</think>\nAnswer: (A)"
ASTRAY = " I see 60. 62/2=45. 45 is (C).</think>\nAnswer: (C)"


def trace(text: str, sample: int = 0, ignores: int = 1, *, finish="stop", problem: Problem = PROBLEM) -> Trace:
    return cut_trace(Candidate(problem.id, 0, sample, text, 9, 30, finish), problem, WAIT, ignores)


def test_a_forced_sample_is_cut_at_its_ignore_strings():
    found = trace(f"<think>{WRONG} Wait, {RIGHT} Wait,{CHECKED}", ignores=2)
    assert found.attempts == ((f"<think>{WRONG}", " Wait,"), (f" {RIGHT}", " Wait,"))
    assert found.right == (False, True)
    assert found.continuation == CHECKED
    assert found.judged.verdict.correct


@given(st.lists(st.text("ab .\n", max_size=8), min_size=1, max_size=5))
def test_the_parts_are_the_text(parts):
    text = " Wait,".join(parts)
    found = trace(text, ignores=len(parts) - 1)
    assert "".join(a + b for a, b in found.attempts) + found.continuation == (text if len(parts) > 1 else "")
    assert len(found.attempts) == len(found.right) == len(parts) - 1


def test_an_own_ignore_string_makes_one_attempt_of_all_before():
    found = trace(f"<think>{WRONG} Wait, {RIGHT} Wait,{CHECKED}", ignores=1)
    assert found.attempts == ((f"<think>{WRONG} Wait, {RIGHT}", " Wait,"),)
    assert found.right == (True,)


def test_rotating_strings_and_the_think_format_of_a_real_model():
    rotating = ("Wait,", "Let me check again,", "Wait, let me see")
    text = "<think>\nThe angle is 30.\nWait, let me see 62/2 is 31.\nLet me check again, it is 31.\n</think>\nAnswer: A"
    found = cut_trace(Candidate("p", 0, 0, text, 9, 30, "stop"), PROBLEM, rotating, 2)
    assert [ignore for _, ignore in found.attempts] == ["Wait, let me see", "Let me check again,"]
    assert found.judged.verdict.correct
    (row,) = rows([found])
    assert row.target == " it is 31.\n</think>\nAnswer: A"
    assert row.history == found.attempts


def rows(traces, selections=(), marks: str = "", **more) -> list[Example]:
    return list(mixture(traces, selections, marks, **more).by_kind["reflect"])


def mixture(traces, selections=(), marks: str = "", **more):
    """`marks`: plain samples beside the traces, T right and F wrong."""
    items = []
    for k, mark in enumerate(marks):
        letter, value = ("A", 31) if mark == "T" else ("B", 30)
        text = f"<think>Sample {k}: {value} is ({letter}).</think>\nAnswer: ({letter})"
        items.append(Judged(Candidate("p", 0, k, text, 9, 30, "stop"), judge(text, PROBLEM)))
    thoughts = SecondThoughts.of(traces, selections)
    result = build([PROBLEM], items, rule="a-orig", prompts=SHORT, seed=0, thoughts=thoughts, **more)
    result.check()
    return result


def test_a_row():
    (row,) = rows([trace(f"<think>{WRONG} Wait,{CHECKED}")])
    assert (row.id, row.kind, row.prompt, row.images) == ("reflect/p/0/0", "reflect", cot(PROBLEM, SHORT), ("p.png",))
    assert row.history == ((f"<think>{WRONG}", " Wait,"),)
    assert row.target == CHECKED
    assert row.sources == ("trace/p/0/0", "trace/p/0/0")


# (attempt, its own continuation, another trace's continuation, plain samples, the target)
CONTINUATIONS = [
    (WRONG, CHECKED, LONGER, "T", CHECKED),  # mended by its own
    (WRONG, LONGER, CHECKED, "T", LONGER),  # however long that is
    (RIGHT, LONGER, CHECKED, "T", CHECKED),  # confirmed by the shortest
    (RIGHT, CHECKED, LONGER, "T", CHECKED),
    (WRONG, ASTRAY, CHECKED, "T", CHECKED),  # mended by another's
    (RIGHT, ASTRAY, CHECKED, "T", CHECKED),  # a right answer that was taken back
    (WRONG, ASTRAY, ASTRAY, "FT", " Sample 1: 31 is (A).</think>\nAnswer: (A)"),  # by a sample, where nothing else is
    (WRONG, ASTRAY, ASTRAY, "F", None),
    (WRONG, " I am sure.", ASTRAY, "F", None),
]


@pytest.mark.parametrize(("attempt", "own", "other", "marks", "target"), CONTINUATIONS)
def test_which_continuation_follows(attempt, own, other, marks, target):
    traces = [trace(f"<think>{attempt} Wait,{own}", 0), trace(f"<think>{WRONG} Wait,{other}", 1)]
    result = mixture(traces, marks=marks)
    first = [row for row in result.by_kind["reflect"] if row.id == "reflect/p/0/0"]
    assert [row.target for row in first] == ([] if target is None else [target])
    assert result.slots["reflect"] == 2
    if target is None:
        reason = "no_answer" if own == " I am sure." else "no_right_continuation"
        assert result.dropped[f"reflect:{reason}"] >= 1


def test_a_right_selection_mends_what_no_trace_does():
    text = "<think>I see 60. 60/2=30+1=31. 31 is (A).</think>\nAnswer: (A)"
    said = Selection(Judged(Candidate("p", 0, 0, text, 9, 60, "stop"), judge(text, PROBLEM)), (), True)
    (row,) = rows([trace(f"<think>{WRONG} Wait,\n{ASTRAY.strip()}")], [said])
    assert row.target == "\n" + text.removeprefix("<think>"), "it goes on as the trace did"
    assert row.sources == ("trace/p/0/0", "selection/p/0/0")


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        (f"<think>{RIGHT}</think>\nAnswer: (A)", {"ignores": 0}, "no_ignore"),
        (f" Wait,{CHECKED}", {}, "empty_attempt"),
        (f"<think>{WRONG} Wait, 31 is (A). Answer: (A)", {}, "no_right_continuation"),  # the thinking never ends
        (f"<think>{WRONG} Wait,{CHECKED}", {"finish": "length"}, "no_right_continuation"),
        (f"<think>{WRONG} Wait, 45 is (A).</think>\nAnswer: (A)", {}, "no_right_continuation"),  # contradicts itself
        (f"<think>{RIGHT} Wait, I am sure.</think>", {}, "no_answer"),
    ],
)
def test_what_is_left_out(text, more, reason):
    result = mixture([trace(text, **more)], require_consistent=True)
    assert {k: n for k, n in result.dropped.items() if k.startswith("reflect:")} == {f"reflect:{reason}": 1}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([RIGHT, WRONG]), min_size=1, max_size=4), max_size=8), st.randoms())
def test_attempts_keep_their_ratio_and_the_order_does_not_matter(several, shuffle):
    """With a right continuation at hand, every sampled attempt becomes a row, right or wrong."""
    texts = ["<think>" + " Wait, ".join(attempts) + f" Wait,{CHECKED}" for attempts in several]
    traces = [trace(text, k, len(several[k])) for k, text in enumerate(texts)]
    found = rows(traces)
    shown = Counter(attempt.replace("<think>", "").strip() for row in found for attempt, _ in row.history)
    assert shown == Counter(attempt for attempts in several for attempt in attempts)
    assert {len(row.history) for row in found} == {len(attempts) for attempts in several}
    shuffle.shuffle(traces)
    assert rows(traces) == found


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("<think>a</think>\nAnswer: B", True),
        ("<think> </think>Answer: B", False),
        ("Answer: B", False),
        (" Answer: (B)", False),
        ("60+30=90, so B.", True),
        ("<think>never closed", True),
    ],
)
def test_what_derives_its_answer(text, whole):
    assert derives(text) is whole


def test_records_as_json():
    one = trace(f"<think>{WRONG} Wait,{CHECKED}")
    assert trace_from_json(json.loads(json.dumps(trace_to_json(one)))) == one
    chosen = Selection(one.judged, ("p/0/0", "p/0/1"), True)
    assert selection_from_json(json.loads(json.dumps(selection_to_json(chosen)))) == chosen
    (row,) = rows([one])
    assert example_from_json(json.loads(json.dumps(to_json(row)))) == row
    plain = Example("e", "cot", "p", "q", "t", ())
    assert "history" not in to_json(plain), "old rows keep their bytes"


def test_a_row_in_the_data_set():
    """ShareGPT turns: attempts are the assistant's, ignore strings observations; the target ends the turn."""
    (row,) = rows([trace(f"<think>{WRONG} Wait, {RIGHT} Wait,{CHECKED}", ignores=2)])
    messages = to_row(row, lambda image: image, open_turns=True)["messages"]
    assert [m["role"] for m in messages] == [
        "user",
        "assistant",
        "observation",
        "assistant",
        "observation",
        "assistant",
    ]
    assert "".join(m["content"] for m in messages[1:]) == f"<think>{WRONG} Wait, {RIGHT} Wait,{CHECKED}{END_OF_TURN}"
    with pytest.raises(DataError, match="needs a data set with open turns"):
        to_row(row, lambda image: image)
    marked = Example("e", "reflect", "p", "q", "t", (), (), (("a <image>", " Wait,"),))
    assert rejection_reason(marked) == "mark_in_history"
