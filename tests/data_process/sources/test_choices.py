"""Choices as published tables hold them: the columns, the forms of text, and choices inside the question."""

from __future__ import annotations

import pytest

from data_process.schema import DataError
from data_process.sources.choices import choices_in_question, find_choices, literal, question_type, read_choices

COLUMNS = {
    "options": ({"options": ["x", "y"]}, (("options",), ["x", "y"])),
    "other case": ({"Options": ["x", "y"]}, (("Options",), ["x", "y"])),
    "choices first": ({"options": ["x", "y"], "choices": ["u", "v"]}, (("choices",), ["u", "v"])),
    "an empty list": ({"choices": [], "options": "[]"}, None),
    "letters": ({"A": "x", "B": "y", "C": None}, (("A", "B", "C"), ["x", "y", None])),
    "named letters": ({"option_a": "x", "option_b": "y"}, (("option_a", "option_b"), ["x", "y"])),
    "small letters may be anything": ({"a": 1, "b": 2}, None),
    "one letter": ({"A": "x"}, None),
    "empty letters": ({"A": None, "B": float("nan")}, None),
    "none": ({"question": "?"}, None),
    "numbered": ({"choice1": "x", "choice2": "y"}, (("choice1", "choice2"), ["x", "y"])),
    "numbered from 0": ({"option_0": "x", "option_1": "y"}, (("option_0", "option_1"), ["x", "y"])),
    "a list in choice": ({"choice": ["x", "y"]}, (("choice",), ["x", "y"])),
    "a letter in choice": ({"choice": "B"}, None),
    "answers with a letter": ({"answers": ["x", "y"], "answer": "B"}, (("answers",), ["x", "y"])),
    "answers with an index": ({"answers": ["x", "y"], "answer": 1}, (("answers",), ["x", "y"])),
    "accepted answers": ({"answers": ["x", "y"], "answer": None}, None),
    "accepted besides": ({"alternatives": ["New York", "the city"], "answer": "NYC"}, None),
    "alternatives with a letter": ({"alternatives": ["x", "y"], "answer": "(b)"}, (("alternatives",), ["x", "y"])),
    "alternatives of a text": ({"alternatives": ["x", "y"], "answer": "B", "answer_type": "text"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_columns(name):
    row, expected = COLUMNS[name]
    assert find_choices(row, row.get("answer")) == expected


@pytest.mark.parametrize("column", ["answers", "alternatives"])
def test_choices_or_accepted_answers(column):
    with pytest.raises(DataError, match=f"may hold the choices or the accepted .*--map choices={column}"):
        find_choices({column: ["x", "y"], "answer": "x"}, "x", "row 1")


TEXTS = {
    "no blank after ;": ("A. 1, 2;B. 3;   C. 4.; D. no answer", ("1, 2", "3", "4.", "no answer")),
    "; without any blank": ("A.3;B.4;C.5", ("3", "4", "5")),
    "a list of Python": ("['circle', \"a 'star'\"]", ("circle", "a 'star'")),
    "a tuple of Python": ("('circle', \"a 'star'\")", ("circle", "a 'star'")),
    "an array of NumPy": ("['a b' 'c'\n 'd']", ("a b", "c", "d")),
    "an object of Python": ("{'A': 'x', 'B': 'y'}", ("x", "y")),
    "labels in a list": ("['A. x', 'B. y']", ("x", "y")),
    "full width": ("（A）三；（B）四", ("三", "四")),
    "small letters": ("a. a. m.; b. p. m.", ("a. m.", "p. m.")),
    "small letters in brackets": ("(a) 3 cm (b) 4 cm", ("3 cm", "4 cm")),
    "small letters in a list": (["a) x", "b) y"], ("x", "y")),
    "small letters on lines": ("a: in b: no\nb: yes", ("in b: no", "yes")),
    "letters inside": ("A. from C. to D;B. x", ("from C. to D", "x")),
    "on lines": ("A: 30°\nB: 40°", ("30°", "40°")),
    "missing at the end": (["x", "y", None, float("nan")], ("x", "y")),
    "whole decimals": ([1.0, 2.0], ("1", "2")),
    "bars": ("x | y, z | 3", ("x", "y, z", "3")),
    "bars without blanks": ("30|40|", ("30", "40")),
    "lines": ("red\nblue\n", ("red", "blue")),
    "semicolons": ("red; light blue", ("red", "light blue")),
    "square brackets": ("[A] 30 [B] 40", ("30", "40")),
    "black brackets": ("【A】30【B】40", ("30", "40")),
}


@pytest.mark.parametrize("name", TEXTS)
def test_forms(name):
    value, expected = TEXTS[name]
    assert read_choices(value, "row 1") == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["x", None, "z"], "choice B is missing, and C is not"),
        ("[__import__('os')]", "look like JSON but are not"),
        ("x" * 5000, "^.{,200}$"),
        ("A. x | C. y", "with the letters in order"),
        ("x | | y", "not of the form"),
    ],
)
def test_refused_forms(value, message):
    with pytest.raises(DataError, match=message):
        read_choices(value, "row 1")


def test_a_cell_is_never_run():
    assert literal("[exit()]") is None
    assert literal("[" * 100_000) is None


IN_QUESTION = {
    "behind a header": ("Angle 2 is ()\nChoices:\nA:30°\nB:40°", "Angle 2 is ()", ("30°", "40°")),
    "on one line": ("What? Options: (A) x (B) y", "What?", ("x", "y")),
    "on lines": ("Which?\n(A) red\n(B) blue", "Which?", ("red", "blue")),
    "at the end": ("Find it. A. 30 B. 40 C. 50 D. 60", "Find it.", ("30", "40", "50", "60")),
    "two at the end": ("True ( ) A. yes B. no", "True ( )", ("yes", "no")),
    "Chinese": ("求角（　　）\nA．30° B．40° C．50°", "求角（　　）", ("30°", "40°", "50°")),
    "drawn": ("Which?\nChoices:\nA:\nB:\nC:", "Which?", ("A", "B", "C")),
    "a request follows": ("Which?\nA. x\nB. y\nAnswer with the letter.", "Which?\nAnswer with the letter.", ("x", "y")),
    "square brackets": ("Which?\n[A] red\n[B] blue", "Which?", ("red", "blue")),
    "small letters": ("Which one?\na) red\nb) blue\nc) green", "Which one?", ("red", "blue", "green")),
    "small letters in brackets": ("Which? (a) red (b) blue", "Which?", ("red", "blue")),
    "small letters and a header": ("Which?\nOptions:\na. red\nb. A. blue", "Which?", ("red", "A. blue")),
    "letters before": ("Give A, B, C or D.\nQuestion: x?\nChoices:\n(A) 1\n(B) 2",
                       "Give A, B, C or D.\nQuestion: x?", ("1", "2")),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_QUESTION)
def test_choices_in_the_question(name):
    text, question, choices = IN_QUESTION[name]
    assert choices_in_question(text) == (question, choices)


@pytest.mark.parametrize(
    "text",
    [
        "In triangle A, B: find C",
        "Is point A. or B. closer?",
        "Find x.",
        "",
        "Choose A. x C. z",
        "A. x",
        "Let a. be 3 and b. be 4",
        "a) x",
    ],
)
def test_no_choices_in_the_question(text):
    assert choices_in_question(text) is None


@pytest.mark.parametrize(
    ("said", "kind"),
    [("multi-choice", "multi_choice"), ("multiple-choice", "multi_choice"), ("free-form", "free_form"),
     ("open", "free_form"), (None, None), ("essay", "essay")],
)  # fmt: skip
def test_question_type(said, kind):
    assert question_type({"question_type": said}) == kind
