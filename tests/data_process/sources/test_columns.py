"""Any table by a column mapping: where fields come from, the forms of choices and answers, and what is refused."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process.io import read_jsonl
from data_process.prepare.command import main
from data_process.schema import DataError
from data_process.sources.base import is_missing
from data_process.sources.columns import infer_type, parse_map, parse_tolerance, read_choices
from tests.data_process.raw_files import item_of, load, png, prepared, shared, write_lines

CHOICES = {
    "list": ["30", "40"],
    "numbers": [30, 40],
    "list with labels": ["A. 30", "B. 40"],
    "list with brackets": ["(A) 30", "(B) 40"],
    "object": {"A": "30", "B": "40"},
    "small letters": {"a": "30", "b": "40"},
    "numbered": {"1": "30", "2": "40"},
    "label and text": {"label": ["A", "B"], "text": ["30", "40"]},
    "nulls of Parquet": {"A": "30", "B": "40", "C": None, "D": None},
    "JSON in text": '["30", "40"]',
    "text": "A. 30 B. 40",
    "text on lines": "(A) 30\n(B) 40\n",
    "text with semicolons": "A) 30; B) 40",
}


@pytest.mark.parametrize("name", CHOICES)
def test_forms_of_choices(name):
    assert read_choices(CHOICES[name], "row 1") == ("30", "40")


BAD_CHOICES = {
    "letters out of order": ("A. 30 C. 40", "with the letters in order"),
    "words before": ("Choose: A. 30 B. 40", "not of the form"),
    "no letters": ("30, 40", "not of the form"),
    "object out of order": ({"B": "30", "A": "40"}, "not A, B, C"),
    "unequal lists": ({"label": ["A"], "text": ["30", "40"]}, "not A, B, C"),
    "torn JSON": ('["30", ', "look like JSON but are not"),
    "eleven": ([str(n) for n in range(11)], "11 choices; there must be 2 to 10"),
    "nested": ([["30"], ["40"]], "choices must be a list of texts"),
    "a number": (7, "choices must be a list of texts"),
}


@pytest.mark.parametrize("name", BAD_CHOICES)
def test_refused_choices(name):
    value, message = BAD_CHOICES[name]
    with pytest.raises(DataError, match=message):
        read_choices(value, "row 1")


LABELS = st.text(st.characters(categories=["L", "N"]), min_size=2).filter(lambda text: not is_missing(text))


@pytest.mark.slow
@given(st.lists(LABELS, min_size=2, max_size=10))
def test_every_form_of_choices_says_the_same(choices):
    letters = "ABCDEFGHIJ"[: len(choices)]
    labelled = dict(zip(letters, choices, strict=True))
    forms = [choices, labelled, json.dumps(choices), json.dumps(labelled), {"label": list(letters), "text": choices}]
    forms.append("\n".join(f"({letter}) {choice}" for letter, choice in labelled.items()))
    assert {read_choices(form, "row 1") for form in forms} == {tuple(choices)}


ROW = {"question": "Find x.", "choices": ["30", "40"], "answer": "B"}
GOLD = {
    "letter": ("B", {}, "B"),
    "small letter": ("b", {}, "B"),
    "in brackets": ("(B)", {}, "B"),
    "with a full stop": ("B.", {}, "B"),
    "text": ("40", {}, "B"),
    "number": (40, {}, "B"),
    "index from 0": (1, {"answer_is": "index0"}, "B"),
    "index from 1": ("2", {"answer_is": "index1"}, "B"),
    "in tags": ("<answer> B </answer>", {}, "B"),
    "by a pattern": ("So ... the answer is A. No, the answer is B.", {"answer_pattern": r"answer is ([A-D])"}, "B"),
}


@pytest.mark.parametrize("name", GOLD)
def test_gold_letters(name):
    answer, options, letter = GOLD[name]
    item = item_of("table", {**ROW, "answer": answer}, options=options)
    assert (item.fields["answer"], item.fields["answer_type"], item.notes) == (letter, "choice", ())


BAD_GOLD = {
    "letter beyond": ({**ROW, "answer": "C"}, {}, "gold 'C' is outside the choices"),
    "value beyond": ({**ROW, "answer": "50"}, {}, "gold '50' is outside the choices"),
    "index beyond": ({**ROW, "answer": 2}, {"answer_is": "index0"}, "no index from 0 into 2"),
    "index 0 from 1": ({**ROW, "answer": 0}, {"answer_is": "index1"}, "no index from 1 into 2"),
    "index is a letter": ({**ROW, "answer": "B"}, {"answer_is": "index0"}, "no index"),
    "text of two": ({**ROW, "choices": ["4", "4"], "answer": "4"}, {}, "the text of 2 choices"),
    "letter and text": ({**ROW, "choices": ["B", "A"], "answer": "A"}, {}, "say which: letter or text"),
    "none": ({**ROW, "answer": None}, {}, "no gold answer"),
    "blank": ({**ROW, "answer": " "}, {}, "no gold answer"),
    "true": ({**ROW, "answer": True}, {}, "no gold answer: found True"),
    "pattern does not fit": (ROW, {"answer_pattern": "is ([A-D])"}, "does not match the answer"),
    "choice without choices": ({"question": "q", "answer": "B"}, {"answer_type": "choice"}, "needs choices"),
    "unknown type": ({**ROW, "answer_type": "letter"}, {}, "unknown answer_type 'letter'; known: choice"),
}


@pytest.mark.parametrize("name", BAD_GOLD)
def test_refused_gold(name):
    row, options, message = BAD_GOLD[name]
    with pytest.raises(DataError, match=message):
        item_of("table", row, options=options)


def test_letter_or_text_as_asked():
    row = {**ROW, "choices": ["B", "A"], "answer": "A"}
    found = [item_of("table", row, options={"answer_is": kind}).fields["answer"] for kind in ("letter", "text")]
    assert found == ["A", "B"]


INFERRED = {
    "12": "number", "-3.5": "number", "1,000": "number", "3/4": "number", "140°": "number", "9cm": "number",
    "[1, 2]": "list", "10√{2}": "expression", r"\frac{\sqrt{3}}{2}": "expression", "3π": "expression",
    "x^2": "expression",
    "2x": "expression", "Paris": "text", "the red one": "text", "yes": "text",
}  # fmt: skip


@pytest.mark.parametrize("answer", INFERRED)
def test_inferred_types(answer):
    assert infer_type(answer) == INFERRED[answer]
    notes = item_of("table", {"question": "q", "answer": answer}).notes
    assert notes == (f"answer_type {INFERRED[answer]} inferred from the answer",)


def test_the_mapping():
    row = {
        "qid": 7, "problem": "Find x.", "a": "30", "b": "40", "c": "", "key": {"gold": "A"}, "pic": "p/1.png",
        "level": 3, "raw": b"x",
    }  # fmt: skip
    mapping = {"id": "qid", "question": "problem", "choices": "a,b,c", "answer": "key.gold", "image": "pic"}
    item = item_of("table", row, options={"map": mapping})
    assert item.fields == {
        "id": "7", "question": "Find x.", "choices": ["30", "40"], "answer": "A", "answer_type": "choice",
        "meta": {"level": 3},
    }  # fmt: skip
    assert item.images[0].name == "p/1.png"


def test_columns_of_the_same_name_need_no_mapping():
    row = {"id": "a", "question": "How far?", "answer": "12.5", "answer_type": "float", "precision": 1, "unit": "km"}
    assert item_of("table", row).fields == row
    assert item_of("table", row).images == ()


USUAL = {
    "query and label": ({"query": "How far?", "label": "12"}, ("How far?", "12", "number")),
    "capitals": ({"Question": "How far?", "Answer": "12"}, ("How far?", "12", "number")),
    "problem and gold": ({"problem": "How far?", "gold": 12}, ("How far?", "12", "number")),
    "accepted answers": ({"question": "Who?", "answers": ["Ann", "Anna"]}, ("Who?", "Ann", "text")),
    "choices in answers": ({"question": "Which?", "answers": ["x", "y"], "gold": "B"}, ("Which?", "B", "choice")),
    "bars": ({"question": "Which?", "options": "x | y | z", "answer": "C"}, ("Which?", "C", "choice")),
    "lines in brackets": ({"query": "Which?\n[A] x\n[B] y", "label": "[B]"}, ("Which?", "B", "choice")),
    "small letters": ({"query": "Which?\na) x\nb) y", "label": "b"}, ("Which?", "B", "choice")),
    "an unknown called b": ({"question": "Which letter is the slope?", "answer": "b"},
                            ("Which letter is the slope?", "b", "text")),
    "a point": ({"question": "Where?", "answer": "(2, -3)"}, ("Where?", "(2, -3)", "expression")),
}  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_usual_columns_need_no_mapping(name):
    row, expected = USUAL[name]
    item = item_of("table", row)
    assert (item.fields["question"], item.fields["answer"], item.fields["answer_type"]) == expected
    for field in ("question", "answer"):
        named = any(str(column).lower() == field for column in row)
        assert any(note.startswith(f"the {field} is the column") for note in item.notes) == (not named)


def test_alternatives_are_accepted_answers(tmp_path):
    row = {"id": "a", "question": "Who?", "answer": "Ann", "alternatives": ["Anna"]}
    fields = item_of("table", row).fields
    assert (fields["alternatives"], "meta" in fields) == (["Anna"], False)
    chosen = {"question": "Which?", "choices": ["x", "y", "z"], "answer": "A", "alternatives": ["C"]}
    assert item_of("table", chosen).fields["alternatives"] == ["C"]


def test_an_index_is_asked_for():
    with pytest.raises(
        DataError, match=r"unless it is their index; say so with --answer-is index0 \(from 0\) or index1"
    ):
        item_of("table", {**ROW, "answer": 1})


def test_choices_that_a_free_answer_leaves_out():
    item = item_of("table", {**ROW, "answer": "40"}, options={"answer_type": "number"})
    assert (item.fields["answer"], item.fields.get("choices")) == ("40", None)
    assert item.fields["meta"] == {"choices": ["30", "40"]}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["question"], "write it as FIELD=COLUMN"),
        (["question="], "write it as FIELD=COLUMN"),
        (["qestion=x"], "unknown field 'qestion'; did you mean 'question'"),
        (["zzz=x"], "known: id, question"),
        (["question=a", "question=b"], "mapped twice"),
    ],
)
def test_refused_mappings(pairs, message):
    with pytest.raises(DataError, match=message):
        parse_map(pairs)


REFUSED = {
    "no such column": ({"q": "x"}, {"question": "problem"}, "there is no column 'problem'; columns: q"),
    "no question": ({"q": "x", "answer": "1"}, {}, "no question: column 'question' holds None; columns: q, answer"),
    "id is a list": ({**ROW, "id": [1]}, {}, "'id' must be text or a number"),
    "image outside": ({**ROW, "image": "../a.png"}, {}, "leads outside"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    row, mapping, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        item_of("table", row, options={"map": mapping})


def test_text_and_images_on_one_path(tmp_path):
    """A folder with a table for each split; text-only problems pass beside those with an image."""
    rows = [{"question": f"What is {n} + {n}?", "answer": 2 * n} for n in range(8)]
    rows[3]["image"] = "a b.png"
    write_lines(tmp_path / "raw/train.jsonl", rows)
    write_lines(tmp_path / "raw/validation.jsonl", rows[:1])
    (tmp_path / "raw/a b.png").write_bytes(png())
    card = prepared("table", tmp_path / "raw", tmp_path / "out", "train", "validation=dev")
    problems = load(tmp_path / "out", "train")
    assert [(p.id, p.answer, p.answer_type) for p in problems[:2]] == [
        ("train-row1", "0", "number"),
        ("train-row2", "2", "number"),
    ]
    assert [p.images for p in problems if p.images] == [("images/a b.png",)]
    images = card["splits"]["train"]["images"]
    assert (images["with_image"], images["text_only"]) == (1, 7)
    assert card["splits"]["train"]["notes"]["answer_type number inferred from the answer"]["count"] == 8


@pytest.mark.slow
def test_geoqa_read_as_a_table(tmp_path):
    """The general path gives what the source of its own gives."""
    raw = shared("geoqa/train_questions.jsonl")
    prepared("table", raw, tmp_path / "out", "train", missing="count", dev_share=0)
    rows = read_jsonl(raw)
    assert [(p.id, p.answer, list(p.choices)) for p in load(tmp_path / "out", "train")] == [
        (row["id"], row["answer"], row["choices"]) for row in rows
    ]


TOLERANCES = {
    "5%": {"tolerance": 0.05},
    "0.05": {"tolerance": 0.05},
    " 2.5 % ": {"tolerance": 0.025},
    "+-0.5": {"absolute_tolerance": 0.5},
    "+/- 2": {"absolute_tolerance": 2.0},
    "±.5": {"absolute_tolerance": 0.5},
    "0": {"tolerance": 0.0},
}


@pytest.mark.parametrize("text", TOLERANCES)
def test_parse_tolerance(text):
    assert parse_tolerance(text) == TOLERANCES[text]


@pytest.mark.parametrize("text", ["", "5", "100%", "-5%", "±5%", "five", "0.05abs", "nan", "1e-3"])
def test_parse_tolerance_refuses(text):
    with pytest.raises(DataError, match=r"must be 5% or 0\.05, relative to the answer, or"):
        parse_tolerance(text)


def test_one_tolerance_for_all_numbers(tmp_path, capsys):
    rows = [
        {"question": "How much?", "answer": "40"},
        {"question": "Exactly?", "answer": "41", "tolerance": 0.001},
        {"question": "About?", "answer": "42", "tolerance": "±3"},
        {"question": "Which?", "answer": "Norway"},
    ]
    write_lines(tmp_path / "test.jsonl", rows)
    words = ["table", "--raw", str(tmp_path / "test.jsonl"), "--split", "test", "--out"]
    assert main([*words, str(tmp_path / "out"), "--tolerance", "5%"]) == 0
    found = [(p.tolerance, p.absolute_tolerance) for p in load(tmp_path / "out", "test")]
    assert found == [(0.05, None), (0.001, None), (None, 3.0), (None, None)]
    assert main([*words, str(tmp_path / "bad"), "--tolerance", "5"]) == 2
    assert "tolerance '5' must be 5% or 0.05" in capsys.readouterr().err


def test_a_context_is_only_taken_where_it_is_named():
    row = {"question": "Q?", "answer": "4", "context": "geometry diagram"}
    found = item_of("table", row)
    assert "context" not in found.fields
    assert found.fields["meta"] == {"context": "geometry diagram"}
    assert item_of("table", row, options={"map": {"context": "context"}}).fields["context"] == "geometry diagram"


DATA_URI = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
SEVERAL = {
    "a list": ({"images": ["a.png", "b.png"]}, ["a.png", "b.png"]),
    "a list with gaps": ({"image": ["a.png", None, "c.png"]}, ["a.png", "c.png"]),
    "a list of files": ({"images": [{"bytes": png()}, {"bytes": png("blue")}]}, ["7-1.png", "7-2.png"]),
    "one file": ({"images": [{"bytes": png()}]}, ["7.png"]),
    "MMMU's columns": (
        {"image_1": "a.png", "image_2": "b.png", **{f"image_{i}": None for i in range(3, 8)}},
        ["a.png", "b.png"],
    ),
    "columns without underscore": ({"image1": "a.png", "image2": "b.png"}, ["a.png", "b.png"]),
    "ten columns": ({f"image_{i}": f"{i}.png" for i in (10, *range(1, 10))}, [f"{i}.png" for i in range(1, 11)]),
    "an address with data": ({"image": {"url": DATA_URI}}, ["7.png"]),
    "as a server takes it": ({"image": {"type": "image_url", "image_url": {"url": DATA_URI}}}, ["7.png"]),
    "an address": ({"image": {"url": "https://example.org/far/b.png?size=2"}}, ["7.png"]),
    "columns by a map": ({"left": "a.png", "right": "b.png"}, ["a.png", "b.png"]),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_images(name):
    row, names = SEVERAL[name]
    mapping = {"map": {"image": "left,right"}} if "left" in row else {}
    row = {"id": "7", "question": "Is <image 1> it?", "answer": "3", **row}
    item = item_of("table", row, options=mapping)
    assert [image.name for image in item.images] == names
    assert item.fields["question"] == "Is <image 1> it?"
    assert "meta" not in item.fields
