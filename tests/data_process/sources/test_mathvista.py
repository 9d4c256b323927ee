"""MathVista: the official query character for character, every published form, and the split without answers."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process import prompts
from data_process.io import load_problems, read_jsonl
from data_process.schema import DataError, Problem
from data_process.sources.mathvista import choices_text, head_of_query
from tests.data_process.raw_files import item_of, load, png, prepared, shared, write_json, write_lines

META = {"split": "testmini", "language": "english", "source": "GeoQA+", "skills": ["geometry reasoning"]}
CHOICE = {
    "pid": "3", "question": "Find x.", "image": "images/3.jpg", "choices": ["135°", "140°"], "unit": None,
    "precision": None, "answer": "140°", "question_type": "multi_choice", "answer_type": "text", "metadata": META,
    "query": "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
    "Question: Find x.\nChoices:\n(A) 135°\n(B) 140°",
}  # fmt: skip
FREE = {**CHOICE, "pid": "4", "choices": None, "question_type": "free_form", "image": "images/4.jpg", "query": None}
# Of build_query.py; the last two are the official README's own words.
QUERIES = {
    "integer with a unit": (
        {**FREE, "answer_type": "integer", "answer": "7", "unit": "g"},
        "Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at "
        "the end.\nQuestion: Find x. (Unit: g)",
    ),
    "one decimal": (
        {**FREE, "answer_type": "float", "answer": "1.2", "precision": 1.0},
        "Hint: Please answer the question requiring a floating-point number with one decimal place and provide the "
        "final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: Find x.",
    ),
    "two decimals": (
        {**FREE, "answer_type": "float", "answer": "1.25", "precision": 2},
        "Hint: Please answer the question requiring a floating-point number with two decimal places and provide the "
        "final value, e.g., 1.23, 1.34, 1.45, at the end.\nQuestion: Find x.",
    ),
    "list": (
        {**FREE, "answer_type": "list", "answer": "[1, 2]"},
        "Hint: Please answer the question requiring a Python list as an answer and provide the final list, e.g., "
        "[1, 2, 3], [1.2, 1.3, 1.4], at the end.\nQuestion: Find x.",
    ),
    "choice": (CHOICE, CHOICE["query"]),
    "white space at the end": (
        {**FREE, "answer_type": "integer", "answer": "7", "question": "Find x. \r\n"},
        "Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at "
        "the end.\nQuestion: Find x.",
    ),
}


def problem_of(fields: dict) -> Problem:
    fields = {key: value for key, value in fields.items() if key != "choices"} | {"choices": tuple(fields["choices"])}
    return Problem(**fields)


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("given_query", [True, False])
def test_query(name, given_query):
    row, query = QUERIES[name]
    item = item_of("mathvista", {**row, "query": query if given_query else None}, split="testmini")
    assert prompts.cot(problem_of(item.fields), prompts.MATHVISTA) == query
    assert item.notes == (() if given_query else ("no official query to compare the rebuilt one with",))


@pytest.mark.slow
def test_the_official_query_of_every_problem(tmp_path):
    """All 1,000: rebuilt from the fields, it is the given query; and the prompt set renders it."""
    raw = shared("mathvista/testmini.jsonl.gz")
    rows = {row["pid"]: row for row in read_jsonl(raw)}
    without = write_lines(tmp_path / "testmini.jsonl", [{**row, "query": None} for row in rows.values()])
    for out, path in (("given", raw), ("rebuilt", without)):
        card = prepared("mathvista", path, tmp_path / out, missing="count")
        problems = load(tmp_path / out, "test")
        assert len(problems) == 1000
        for problem in problems:
            assert prompts.cot(problem, prompts.MATHVISTA) == rows[problem.id]["query"]
        assert not any("differs" in note for note in card["splits"]["test"]["notes"])
    assert card["splits"]["test"]["notes"]["no official query to compare the rebuilt one with"]["count"] == 1000
    assert card["splits"]["test"]["answer_types"] == {"choice": 540, "float": 40, "integer": 418, "list": 2}
    assert card["splits"]["test"]["languages"] == {"chinese": 62, "english": 936, "persian": 2}


@pytest.mark.slow
def test_the_gold_of_every_problem(tmp_path):
    raw = shared("mathvista/testmini.jsonl.gz")
    prepared("mathvista", raw, tmp_path / "out", missing="count")
    for problem, row in zip(load(tmp_path / "out", "test"), read_jsonl(raw), strict=True):
        official = problem.meta["mathvista"]
        assert official == row
        gold = official["choices"]["ABCDEFGHIJ".index(problem.answer)] if problem.choices else problem.answer
        assert gold == row["answer"]
        assert (problem.precision, problem.unit) == (row["precision"], row["unit"])
        assert problem.images[0] == row["image"]


def test_a_given_query_that_differs_is_used_and_counted():
    query = CHOICE["query"].replace("Hint: Please answer", "Hint: Kindly answer")
    item = item_of("mathvista", {**CHOICE, "query": query}, split="testmini")
    assert prompts.cot(problem_of(item.fields), prompts.MATHVISTA) == query
    assert item.notes == ("the given query differs from the rebuilt one; the given one is used",)


REFUSED = {
    "query without the choices": ({**CHOICE, "query": "Find x."}, "pid 3: the given query does not end in the choices"),
    "query of another question": ({**FREE, "answer_type": "integer", "query": "Find y."}, "does not hold the question"),
    "query with other choices": ({**CHOICE, "choices": ["135°", "140°", "150°"]}, "does not end in the choices"),
    "gold outside": ({**CHOICE, "answer": "150°"}, "pid 3: gold '150°' is outside the choices"),
    "free form with choices": ({**CHOICE, "question_type": "free_form"}, "but there are 2 choices"),
    "three decimals": ({**FREE, "answer_type": "float", "precision": 3}, "hint for free_form, float, precision 3"),
    "half a decimal": ({**FREE, "answer_type": "float", "precision": 1.5}, "'precision' must be a number of decimals"),
    "no pid": ({**CHOICE, "pid": None}, "'pid' must be text"),
    "pid is a number": ({**CHOICE, "pid": 3}, "'pid' must be text"),
    "unit is a number": ({**FREE, "answer_type": "integer", "unit": 3}, "'unit' must be text"),
    "image outside": ({**CHOICE, "image": "images/../../x.jpg"}, "leads outside"),
    "metadata is text": ({**CHOICE, "metadata": "x"}, "'metadata' must be an object"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    row, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        item_of("mathvista", row, split="testmini")


def test_two_choices_that_read_the_same():
    """The letter is the first of the two, the notes say so, and the official answer stays in the official row."""
    row = {**CHOICE, "choices": ["9", "18", "18"], "answer": "18", "query": None}
    item = item_of("mathvista", row, split="testmini")
    assert item.fields["answer"] == "B"
    assert item.notes[:2] == ("two choices of the same text", "the gold choice occurs twice")
    assert item.fields["meta"]["mathvista"]["answer"] == "18"


def _raw(tmp_path, form: str):
    """The same two problems in every form they are published in."""
    rows = [CHOICE, {**QUERIES["one decimal"][0], "query": QUERIES["one decimal"][1], "precision": 1}]
    images = {"3": png("red", form="JPEG"), "4": png("blue", form="JPEG")}
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        def embedded(row):
            return {**row, "precision": float(row["precision"] or "nan"), "choices": row["choices"] or []} | {
                "decoded_image": {"bytes": images[row["pid"]], "path": None}
            }

        (tmp_path / "raw/data").mkdir(parents=True)
        for i, row in enumerate(rows):
            path = tmp_path / f"raw/data/testmini-0000{i}-of-00002-abc.parquet"
            pq.write_table(pa.Table.from_pylist([embedded(row)]), path)
        return tmp_path / "raw"
    (tmp_path / "raw/images").mkdir(parents=True)
    for pid, data in images.items():
        (tmp_path / f"raw/images/{pid}.jpg").write_bytes(data)
    if form == "json":  # as on GitHub: a dict by pid, the queries in a file of their own
        table = {row["pid"]: {k: v for k, v in row.items() if k != "query"} for row in rows}
        write_json(tmp_path / "raw/data/testmini.json", table)
        write_json(tmp_path / "raw/data/query.json", {row["pid"]: row["query"] for row in rows})
        write_json(tmp_path / "raw/data/annot_testmini.json", {})
        return tmp_path / "raw"
    path = tmp_path / "raw/testmini.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


@pytest.mark.parametrize("form", ["json", "jsonl.gz", "parquet"])
def test_every_form_gives_the_same_problems(tmp_path, form):
    card = prepared("mathvista", _raw(tmp_path, form), tmp_path / "out")
    problems = load(tmp_path / "out", "test")
    assert [p.id for p in problems] == ["3", "4"]
    assert [(p.answer, p.answer_type, p.precision) for p in problems] == [("B", "choice", None), ("1.2", "float", 1)]
    assert prompts.cot(problems[1], prompts.MATHVISTA) == QUERIES["one decimal"][1]
    assert (tmp_path / "out/images/3.jpg").read_bytes() == png("red", form="JPEG")
    assert card["splits"]["test"]["notes"] == {}


def test_the_split_without_answers(tmp_path):
    """Its questions are written for a submission, under a name that the loop does not read."""
    write_json(tmp_path / "raw/test.json", {"3": {**CHOICE, "answer": ""}, "4": {**QUERIES["list"][0], "answer": ""}})
    write_json(tmp_path / "raw/query.json", {"4": QUERIES["list"][1]})
    card = prepared("mathvista", tmp_path / "raw", tmp_path / "out", "test", missing="count")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["card.json", "questions.jsonl"]
    rows = read_jsonl(tmp_path / "out/questions.jsonl")
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["meta"]["mathvista"]["query"] for row in rows] == [CHOICE["query"], QUERIES["list"][1]]
    assert not any("answer" in row for row in rows)
    with pytest.raises(DataError, match="'answer' must be text, found nothing"):
        load_problems(tmp_path / "out/questions.jsonl", tmp_path)
    assert "letters" not in card["splits"]["questions"]
    assert any("the loop does not read it" in remark for remark in card["remarks"])
    with pytest.raises(DataError, match="answers of mathvista's test split are not public"):
        prepared("mathvista", tmp_path / "raw", tmp_path / "out2", "test=train")


def test_testmini_without_an_answer_is_refused(tmp_path):
    write_json(tmp_path / "testmini.json", {"3": {**CHOICE, "answer": ""}})
    with pytest.raises(DataError, match="row 1: no answer; problems for training or evaluation need one"):
        prepared("mathvista", tmp_path / "testmini.json", tmp_path / "out", missing="count")


TEXT = st.text(st.characters(exclude_characters="<"), min_size=1)  # marks such as <image> are broken up on purpose


@given(question=TEXT, choices=st.lists(TEXT, min_size=2, max_size=10))
def test_prompt_set_and_query_agree_on_any_text(question, choices):
    head = head_of_query(question, "multi_choice", "text", None, None)
    assert prompts.cot(Problem("1", head, "A", tuple(choices)), prompts.MATHVISTA) == head + choices_text(choices)
