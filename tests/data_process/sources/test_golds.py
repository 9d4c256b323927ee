"""Gold answers as published tables hold them: accepted answers, worked solutions, conversations."""

from __future__ import annotations

import pytest

from data_process.judging import check_gold, judge
from data_process.schema import DataError, Problem, to_json
from data_process.sources.golds import final_answer, from_turns, read_golds, whole_number
from tests.data_process.raw_files import item_of

GOLDS = {
    "a list of one": (["14"], None, ("14",)),
    "a list of texts": (["NYC", "New York", "NYC"], None, ("NYC", "New York")),
    "as Python text": ("['24/7', '3.429']", None, ("24/7", "3.429")),
    "numbers are ordered": ([1, 2], None, ("[1, 2]",)),
    "numbers as asked": ([1, 2], "any", ("1", "2")),
    "texts as asked": (["b", "a"], "ordered", ('["b", "a"]',)),
    "a list in text": ("[1, 2]", None, ("[1, 2]",)),
    "missing items": (["x", None], None, ("x",)),
    "whole decimal": (3.0, None, ("3",)),
    "worked": ("Adding up.\nAnswer: 12", None, ("12",)),
    "tagged": ("<think>3</think> <answer> 5 </answer>", None, ("5",)),
    "boxed": (r"so $\boxed{\frac{1}{2}}$", None, (r"\frac{1}{2}",)),
    "hashes": ("1 + 1\n#### 2", None, ("2",)),
}


@pytest.mark.parametrize("name", GOLDS)
def test_golds(name):
    value, form, expected = GOLDS[name]
    assert read_golds(value, None, form, "row 1") == expected


@pytest.mark.parametrize("value", [[], [None], "", " ", None, float("nan"), float("inf"), True])
def test_no_gold(value):
    with pytest.raises(DataError, match="row 1: no gold answer"):
        read_golds(value, None, None, "row 1")


def test_alternatives_reach_the_judge():
    fields = item_of("table", {"question": "q?", "answer": ["NYC", "New York"]}).fields
    assert (fields["answer"], fields["alternatives"], fields["answer_type"]) == ("NYC", ["New York"], "text")
    problem = Problem("p", "q?", "NYC", answer_type="text", alternatives=("New York",))
    said = [judge(f"Answer: {text}", problem).status for text in ("New York", "NYC", "Boston")]
    assert said == ["correct", "correct", "wrong"]
    with pytest.raises(DataError, match="'x'"):
        check_gold(Problem("p", "q?", "3", answer_type="number", alternatives=("x",)))


def test_an_empty_new_field_leaves_no_trace():
    assert "alternatives" not in to_json(Problem("p", "q?", "1", answer_type="number"))
    assert to_json(Problem("p", "q?", "1", answer_type="number", alternatives=("2",)))["alternatives"] == ("2",)


def test_several_gold_letters_are_no_alternatives():
    row = {"question": "q?", "choices": ["x", "y", "z"], "answer": ["A", "C"]}
    with pytest.raises(DataError, match="2 gold choices; where any of them is right, say --answer-list any"):
        item_of("table", row)
    assert item_of("table", row, options={"answer_list": "any"}).fields["alternatives"] == ["C"]


ASKED, SAID = "<image>\nQuestion: How large?\nChoices:\nA. 3\nB. 4", "Adding up.\nAnswer:B"
TURNS = {
    "LLaVA": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}],
    "system first": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED},
                     {"role": "assistant", "content": SAID}],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]},
              {"role": "assistant", "content": [{"type": "text", "text": SAID}]}],
    "a short answer": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "B"}],
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
def test_conversations(name):
    assert from_turns(TURNS[name], "row 1") == ("How large?\nChoices:\nA. 3\nB. 4", "B")
    fields = item_of("table", {"id": "a", "image": "a.png", "conversations": TURNS[name]}).fields
    assert (fields["question"], fields["choices"], fields["answer"]) == ("How large?", ["3", "4"], "B")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (TURNS["LLaVA"] * 2, "expected one user turn and one assistant turn, found 4 turns"),
        ("hello", "found 0 turns"),
        ([{"from": "human", "value": 3}, {"from": "gpt", "value": "B"}], "expected one user turn"),
        ([{"from": "human", "value": "Describe."}, {"from": "gpt", "value": "It is " * 99}], "states no final answer"),
    ],
)
def test_refused_conversations(turns, message):
    with pytest.raises(DataError, match=message) as error:
        from_turns(turns, "row 1")
    assert len(str(error.value)) < 300


def test_what_is_no_closing():
    assert [final_answer(text) for text in ("12", "the red one", "2 + 2")] == [None] * 3


def test_whole_numbers():
    values = [2.0, "2.0", "2", 2.5, "x", None, True]
    assert [whole_number(value) for value in values] == [2, 2, 2, 2.5, "x", None, True]


LETTERS = {
    "no choices": ({"answer": "B"}, r"column 'answer' holds the letter 'B', but no choices were found.*--map choices"),
    "in brackets": ({"answer": "(C)"}, "holds the letter 'C'"),
    "with the text of its choice": ({"answer": "B. 2"}, "holds the letter 'B'"),
    "in brackets, with a text": ({"answer": "(C) blue"}, "holds the letter 'C'"),
    "mapped": ({"key": "B"}, "column 'key' holds"),
}


@pytest.mark.parametrize("name", LETTERS)
def test_a_letter_without_choices_is_refused(name):
    row, message = LETTERS[name]
    mapping = {"answer": "key"} if "key" in row else {}
    with pytest.raises(DataError, match=message):
        item_of("table", {"question": "Which?", **row}, options={"map": mapping})


def test_a_letter_that_is_text():
    row = {"question": "Which point?", "answer": "B"}
    assert item_of("table", row, options={"answer_type": "text"}).fields["answer_type"] == "text"
    assert item_of("table", {**row, "question_type": "free-form"}).fields["answer_type"] == "text"
