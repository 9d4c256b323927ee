"""Mixed self-select data: what may be shown together, where it stands, and that nothing is lost on the way."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process import prompts as wording
from data_process.building.mixed_select import MAX_REASON, build_mixed_select, reason_of
from data_process.prompts import SHORT
from data_process.schema import Candidate, DataError, Judged, Problem, Verdict


def problem(name: str) -> Problem:
    return Problem(name, f"Question {name}?", "B", ("30", "40", "45"), images=(f"{name}.png",))


def judged(name: str, right: str) -> list[Judged]:
    """One candidate for each character: T right, F wrong, ? unreadable, C right but cut, X right but contradicting."""
    items = []
    for k, mark in enumerate(right):
        text = f"<think>candidate {k} of {name}, {'99 is (B)' if mark == 'X' else 'fine'}</think>\nAnswer: (B)"
        status = {"T": "correct", "C": "correct", "X": "correct", "F": "wrong", "?": "abstain"}[mark]
        candidate = Candidate(name, k // 3, k % 3, text, 9, 30, "length" if mark == "C" else "stop")
        items.append(Judged(candidate, Verdict(status, None if mark == "?" else "B", "test")))
    return items


def build(pools: dict[str, str], **more):
    items = [item for name, marks in pools.items() for item in judged(name, marks)]
    return build_mixed_select([problem(name) for name in pools], items, prompts=SHORT, seed=1, **more)


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.text("TF?CX", max_size=9), min_size=1, max_size=6),
    st.lists(st.integers(2, 6), min_size=1, max_size=5, unique=True),
    st.integers(1, 4),
)
def test_every_row_can_teach_and_every_slot_is_counted(pools, sizes, per_size):
    result = build(pools, sizes=sizes, per_size=per_size)
    assert result.slots == len(pools) * len(sizes) * per_size == len(result.examples) + result.dropped.total()
    right = {f"{n}/{k // 3}/{k % 3}": mark in "TX" for n, marks in pools.items() for k, mark in enumerate(marks)}
    seen = set()
    for example in result.examples:
        n = len(example.sources)
        assert n in sizes
        assert len(set(example.sources)) == n, "a candidate stands twice in one prompt"
        assert 0 < sum(right[source] for source in example.sources) < n
        assert {source.split("/")[0] for source in example.sources} == {example.problem_id}
        assert not any(
            pools[example.problem_id][int(s.split("/")[1]) * 3 + int(s.split("/")[2])] == "C" for s in example.sources
        ), "a right answer that was cut is neither right nor wrong"
        key = (example.problem_id, frozenset(example.sources))
        assert key not in seen, "the same set twice"
        seen.add(key)
        assert example.target == "Answer: (B)"
    most = Counter((e.problem_id, len(e.sources)) for e in result.examples)
    assert max(most.values(), default=0) <= per_size


@pytest.mark.parametrize(
    ("marks", "reason"),
    [("", "no_candidate"), ("TTT", "no_wrong"), ("F?F", "no_right"), ("TF", "too_few_candidates"), ("CCF", "no_right")],
)
def test_why_a_question_gives_no_row(marks, reason):
    assert build({"a": marks}, sizes=[3], per_size=2).dropped == {reason: 2}


def test_a_set_is_shown_once():
    result = build({"a": "TFF"}, sizes=[2, 3], per_size=3)
    assert result.by_size == {2: 2, 3: 1}
    assert result.dropped == {"no_new_set": 3}


def test_the_prompt_is_the_one_of_test_time():
    (example,) = build({"a": "TF"}, sizes=[2], per_size=1).examples
    texts = {item.candidate.id: item.candidate.text for item in judged("a", "TF")}
    assert example.prompt == wording.select(problem("a"), [texts[source] for source in example.sources], SHORT)


def test_places_say_nothing():
    """Of 300 questions with one right candidate of three, it stands in each place equally often within one."""
    pools = {f"q{k}": "TFF" for k in range(300)}
    counts = build(pools, sizes=[3], per_size=1).right_places[3]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == 300


def test_an_order_of_the_input_changes_nothing():
    items = [item for name in "abcd" for item in judged(name, "TFTFF?")]
    problems = [problem(name) for name in "abcd"]
    first = build_mixed_select(problems, items, prompts=SHORT, seed=1)
    random.Random(0).shuffle(items)
    assert build_mixed_select(problems[::-1], items, prompts=SHORT, seed=1) == first
    assert build_mixed_select(problems, items, prompts=SHORT, seed=2).examples != first.examples


def test_contradicting_answers_can_be_left_out():
    assert build({"a": "XF"}, sizes=[2], per_size=1).dropped == {}
    assert build({"a": "XF"}, sizes=[2], per_size=1, require_consistent=True).dropped == {"no_right": 1}


def test_the_reasoning_form_names_a_right_candidate_and_its_reason():
    for example in build({"a": "TFTFF", "b": "FTF"}, form="reasoning").examples:
        named = int(example.target.split()[1])
        name, iteration, sample = example.sources[named - 1].split("/")
        k = int(iteration) * 3 + int(sample)
        assert {"a": "TFTFF", "b": "FTF"}[name][k] == "T"
        assert example.target == f"Prediction {named} is correct. candidate {k} of {name}, fine\nAnswer: (B)"
        assert "and why?" in example.prompt


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>a b\nc</think>\nAnswer: (B)", "a b c"),
        ("First.\nSecond.\nAnswer: B", "First. Second."),
        ("Answer: B", "Answer: B"),
        ("<think>" + "word " * 200 + "end</think>", ("word " * 200 + "end")[-MAX_REASON - 1 :].split(" ", 1)[1]),
        ("x" * 1000, "x" * MAX_REASON),
    ],
)
def test_reason(text, reason):
    assert reason_of(text) == reason
    assert len(reason) <= MAX_REASON


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"sizes": []}, "at least 2"),
        ({"sizes": [1, 2]}, "at least 2"),
        ({"sizes": [2, 2]}, "occur once"),
        ({"per_size": 0}, "per_size is 0"),
    ],
)
def test_bad_settings(more, match):
    with pytest.raises(DataError, match=match):
        build({"a": "TF"}, **more)


def test_a_candidate_of_an_unknown_problem():
    with pytest.raises(DataError, match="belongs to none of the problems"):
        build_mixed_select([problem("a")], judged("b", "TF"), prompts=SHORT, seed=0)
