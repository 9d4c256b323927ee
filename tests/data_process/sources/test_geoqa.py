"""GeoQA: the three published forms, and the real questions where they are there."""

from __future__ import annotations

import pytest

from data_process.io import read_jsonl
from data_process.schema import DataError
from tests.data_process.raw_files import item_of, load, png, prepared, shared, write_json, write_lines

ROW = {"id": "train-0", "question": "Find angle C.", "choices": ["30.0", "40.0"], "answer": "B", "image": "train-0.png"}
SHAREGPT = {
    "messages": [
        {"role": "user", "content": "<image>Find angle C.\nChoices:\n(A) 30.0\n(B) 40.0"},
        {"role": "assistant", "content": "Answer: \nB"},
    ],
    "images": ["/home/someone/geoQA-data/images/train-0.png"],
}
CONVERSATIONS = {
    "conversations": [
        {"from": "user", "value": "<image>Find angle C.\nChoices:\n(A) 30.0\n(B) 40.0"},
        {"from": "assistant", "value": "Answer: \nB"},
    ],
    "image": "train-0.png",
}


@pytest.mark.parametrize("row", [ROW, SHAREGPT, CONVERSATIONS], ids=["rows", "messages", "conversations"])
def test_one_problem_of_every_form(row):
    item = item_of("geoqa", row)
    assert item.fields == {
        "id": "train-0",
        "question": "Find angle C.",
        "choices": ["30.0", "40.0"],
        "answer": "B",
        "answer_type": "choice",
    }
    assert item.images[0].name == "train-0.png"
    assert item.notes == ()


FREE = {
    "outputs": ({"id": "test-0", "question": "q", "gold": "10√{2}", "output": "..."}, "test-0", "10√{2}"),
    "prompts": ({"image_path": "./G/test/7.png", "question": "q", "ground_truth": "5cm^2^"}, "test-7", "5cm^2^"),
    "number": ({"id": "test-1", "question": "q", "gold": 12}, "test-1", "12"),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_free_answers_are_expressions(name):
    row, identifier, answer = FREE[name]
    fields = item_of("geoqa", row, split="test").fields
    assert fields == {"id": identifier, "question": "q", "answer": answer, "answer_type": "expression"}


REFUSED = {
    "letter beyond the choices": ({**ROW, "answer": "E"}, r"row 1: gold 'E' is outside the choices"),
    "answer missing": ({**ROW, "answer": None}, "'answer' must be a letter"),
    "choices are text": ({**ROW, "choices": "A B"}, "choices must be a list of texts"),
    "one choice": ({**ROW, "choices": ["30"]}, "1 choices; there must be 2 to 10"),
    "an empty choice": ({**ROW, "choices": ["30", " "]}, "choices must be a list of texts"),
    "no question": ({**ROW, "question": ""}, "'question' must be text"),
    "question is a number": ({**ROW, "question": 7}, "'question' must be text, found 7"),
    "id is a number": ({**ROW, "id": 7}, "'id' must be text, found 7"),
    "no id, no image": ({"question": "q", "gold": "1"}, "'id' must be text"),
    "no gold": ({"id": "a", "question": "q"}, "neither choices nor a gold answer"),
    "image outside": ({**ROW, "image": "../x.png"}, "leads outside the image folder"),
    "absolute image": ({**ROW, "image": "/etc/x.png"}, "leads outside the image folder"),
    "windows image": ({**ROW, "image": "C:\\x.png"}, "leads outside the image folder"),
    "image is a number": ({**ROW, "image": 7}, "the image must be a path"),
    "training output": (
        {**SHAREGPT, "messages": [SHAREGPT["messages"][0], {"role": "assistant", "content": "Since ... Answer: B"}]},
        "must be 'Answer: ' and a letter",
    ),
    "three turns": ({"messages": SHAREGPT["messages"] * 2}, "one user turn and one assistant turn"),
    "choices out of order": (
        {"messages": [{**SHAREGPT["messages"][0], "content": "q\nChoices:\n(B) 1\n(A) 2"}, SHAREGPT["messages"][1]]},
        "must end in 'Choices:'",
    ),
    "no choices in the turn": (
        {**SHAREGPT, "messages": [{"role": "user", "content": "<image>Find C."}, SHAREGPT["messages"][1]]},
        "must end in 'Choices:'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    row, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        item_of("geoqa", row)


def test_a_folder_as_it_is_shipped(tmp_path):
    """JSON arrays named .jsonl and an images folder; images arrive byte for byte, and dev is held out of train."""
    rows = [{**ROW, "id": f"train-{i}", "image": f"train-{i}.png", "question": f"Question {i}?"} for i in range(20)]
    write_json(tmp_path / "raw/train.jsonl", rows)
    write_json(tmp_path / "raw/test.jsonl", [{**ROW, "id": "test-0", "image": "test-0.png"}])
    (tmp_path / "raw/images").mkdir()
    for i in range(20):
        (tmp_path / f"raw/images/train-{i}.png").write_bytes(png(size=(20 + i, 10)))
    (tmp_path / "raw/images/test-0.png").write_bytes(png("blue", form="JPEG"))
    card = prepared("geoqa", tmp_path / "raw", tmp_path / "out")
    assert {name: split["items"] for name, split in card["splits"].items()} == {"train": 18, "dev": 2, "test": 1}
    assert card["splits"]["train"]["images"]["with_image"] == 18
    problems = load(tmp_path / "out", "train") + load(tmp_path / "out", "dev")
    assert sorted(p.id for p in problems) == sorted(row["id"] for row in rows)
    for problem in problems:
        assert (tmp_path / "out" / problem.images[0]).read_bytes() == (
            tmp_path / f"raw/images/{problem.id}.png"
        ).read_bytes()
    assert any("dev has 2 of 20 train problems, held out (seed 0" in remark for remark in card["remarks"])


def test_which_split_a_file_is(tmp_path):
    by_ids = write_lines(tmp_path / "questions.jsonl", [{**ROW, "image": None}])
    assert list(prepared("geoqa", by_ids, tmp_path / "a", dev_share=0)["splits"]) == ["train"]
    by_name = write_lines(tmp_path / "my_test.jsonl", [{**ROW, "id": "x", "image": None}])
    assert list(prepared("geoqa", by_name, tmp_path / "b")["splits"]) == ["test"]
    unknown = write_lines(tmp_path / "questions2.jsonl", [{**ROW, "id": "x", "image": None}])
    with pytest.raises(DataError, match=r"which split is this\? Say it with --split train"):
        prepared("geoqa", unknown, tmp_path / "c")
    assert list(prepared("geoqa", unknown, tmp_path / "d", "dev")["splits"]) == ["dev"]


def test_it_says_where_geoqa_is_from(tmp_path):
    with pytest.raises(DataError, match=r"GeoQA is read from files.*MM-self-improve.*--raw DIR"):
        prepared("geoqa", None, tmp_path / "out")


@pytest.mark.slow
def test_the_real_questions(tmp_path):
    """3,497 questions without images: nothing is lost, and no text stands on both sides of the held-out dev."""
    raw = shared("geoqa/train_questions.jsonl")
    with pytest.raises(DataError, match=r"3497 of 3497 problems have no usable image \(missing 3497\)"):
        prepared("geoqa", raw, tmp_path / "none")
    assert not list(tmp_path.iterdir())
    card = prepared("geoqa", raw, tmp_path / "out", missing="count")
    train, dev = load(tmp_path / "out", "train"), load(tmp_path / "out", "dev")
    rows = {row["id"]: row for row in read_jsonl(raw)}
    assert len(train) + len(dev) == len(rows) == 3497
    assert len(dev) == 350
    for problem in train + dev:
        row = rows[problem.id]
        assert (problem.question, list(problem.choices), problem.answer) == (
            row["question"],
            row["choices"],
            row["answer"],
        )
        assert problem.images[0] == f"images/{row['image']}"
    assert card["overlaps"] == {"train/dev": {"question": 0, "question_choices_image": 0}}
    letters = [card["splits"][split]["letters"] for split in ("train", "dev")]
    assert {a: letters[0][a] + letters[1][a] for a in "ABCD"} == {"A": 677, "B": 1066, "C": 1056, "D": 698}
    assert card["splits"]["train"]["images"]["unusable"] == 3147
    assert card["splits"]["train"]["chance"] == 0.25


def test_the_real_free_answers(tmp_path):
    raw = shared("geoqa/qwen2vl_7b_instruct_test_outputs.jsonl")
    card = prepared("geoqa", raw, tmp_path / "out")
    problems = load(tmp_path / "out", "test")
    assert [p.answer for p in problems] == [row["gold"].strip() for row in read_jsonl(raw)]
    assert card["splits"]["test"]["answer_types"] == {"expression": 754}
    assert card["splits"]["test"]["notes"]["the row names no image"]["count"] == 754
