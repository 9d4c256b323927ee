"""Geometry3K: Inter-GPS folders and the Parquet form."""

from __future__ import annotations

import pytest

from data_process.schema import DataError
from tests.data_process.raw_files import item_of, load, png, prepared, write_json

DATA = {
    "id": 7,
    "problem_text": "Find $m \\angle H$",
    "annotat_text": "Find m \\angle H",
    "compact_text": "Find angle H",
    "choices": ["97", "102", "107", "122"],
    "precise_value": [97.0, 102.0, 107.0, 122.0],
    "answer": "A",
    "problem_type_graph": ["Quad"],
    "problem_type_goal": ["Angle"],
}
FORMS = {"text_logic_form": ["Find(MeasureOf(Angle(H)))"], "diagram_logic_form": [], "point_positions": {"H": [1, 2]}}


def _folders(root, **changes):
    for split, items in {"train": ["2", "10"], "val": ["2101"], "test": ["2401"]}.items():
        for name in items:
            write_json(root / split / name / "data.json", {**DATA, "id": int(name), **changes})
            write_json(root / split / name / "logic_form.json", FORMS)
            (root / split / name / "img_diagram.png").write_bytes(png(size=(10 + int(name) % 50, 12)))
    return root


def test_folders(tmp_path):
    card = prepared("geometry3k", _folders(tmp_path / "raw"), tmp_path / "out")
    assert {name: split["items"] for name, split in card["splits"].items()} == {"train": 2, "dev": 1, "test": 1}
    assert card["remarks"] == []  # nothing is held out: val is dev
    first, second = load(tmp_path / "out", "train")
    assert (first.id, second.id) == ("train-2", "train-10")
    assert (first.question, first.answer, first.choices) == ("Find m \\angle H", "A", ("97", "102", "107", "122"))
    assert first.meta["text_logic_form"] == FORMS["text_logic_form"]
    assert first.meta["problem_type_goal"] == ["Angle"]
    raw = tmp_path / "raw/train/10/img_diagram.png"
    assert (tmp_path / "out" / second.images[0]).read_bytes() == raw.read_bytes()


def test_the_text_asked_for(tmp_path):
    options = {"text": "problem_text"}
    prepared("geometry3k", _folders(tmp_path / "raw"), tmp_path / "out", "test", options=options)
    assert load(tmp_path / "out", "test")[0].question == "Find $m \\angle H$"


def test_one_split_folder(tmp_path):
    raw = _folders(tmp_path / "raw")
    assert list(prepared("geometry3k", raw / "val", tmp_path / "a")["splits"]) == ["dev"]
    (raw / "val").rename(raw / "mine")
    with pytest.raises(DataError, match="holds items of one split; say which"):
        prepared("geometry3k", raw / "mine", tmp_path / "b")
    assert list(prepared("geometry3k", raw / "mine", tmp_path / "c", "test")["splits"]) == ["test"]


BROKEN = {
    "no data.json": (lambda f: (f / "data.json").unlink(), r"train/2/data\.json does not exist; unpack"),
    "torn": (lambda f: (f / "data.json").write_text('{"id": 7, "choi'), r"train/2/data\.json: not complete JSON"),
    "not UTF-8": (lambda f: (f / "data.json").write_bytes(b'{"a": "\xff"}'), r"not UTF-8 at byte"),
    "a list": (lambda f: write_json(f / "data.json", [1]), "holds a list, not the fields of one item"),
    "gold outside": (lambda f: write_json(f / "data.json", {**DATA, "answer": "E"}), "gold 'E' is outside the choices"),
    "gold is a value": (lambda f: write_json(f / "data.json", {**DATA, "answer": "97"}), "gold '97' is outside"),
    "no text": (lambda f: write_json(f / "data.json", {"choices": ["1", "2"]}), "'annotat_text' must be text"),
    "torn forms": (lambda f: (f / "logic_form.json").write_text("{"), r"logic_form\.json: not complete JSON"),
    "no image": (lambda f: (f / "img_diagram.png").unlink(), r"1 of 4 .*train-2\.png of train-2 \(missing\)"),
    "empty image": (lambda f: (f / "img_diagram.png").write_bytes(b""), r"train-2 \(empty\)"),
    "no image at all": (lambda f: (f / "img_diagram.png").write_bytes(b"<html>"), r"train-2 \(unreadable\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders(tmp_path, name):
    breaking, message = BROKEN[name]
    raw = _folders(tmp_path / "raw")
    breaking(raw / "train/2")
    with pytest.raises(DataError, match=message):
        prepared("geometry3k", raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


RL = {"images": [{"bytes": png(), "path": None}], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }"}
NEW = {**RL, "id": 5, "choices": ["3", "2 \\sqrt { 221 }"], "ground_truth": "B"}
ROWS = {
    "free answer": (RL, {"id": "test-row4", "answer": "2 \\sqrt { 221 }", "answer_type": "expression"}),
    "choices": (NEW, {"id": "test-5", "answer": "B", "answer_type": "choice", "choices": NEW["choices"]}),
    "no ground truth": ({**NEW, "ground_truth": None}, {"id": "test-5", "answer": "B", "answer_type": "choice"}),
    "ground truth is the text": ({**NEW, "ground_truth": "3", "answer": "3"}, {"answer": "A"}),
    "choices named like letters": ({**NEW, "choices": ["B", "A"], "answer": "A", "ground_truth": "B"}, {"answer": "B"}),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    row, expected = ROWS[name]
    item = item_of("geometry3k", row, split="test", where="test.parquet, row 4")
    assert {key: item.fields[key] for key in expected} == expected
    assert item.fields["question"] == "Find x."
    assert item.images[0].data == png()
    assert item.images[0].name == f"{item.fields['id']}.png"


REFUSED = {
    "contradiction": ({**NEW, "ground_truth": "A"}, "contradict each other"),
    "gold outside": ({**NEW, "answer": "9", "ground_truth": None}, "gold '9' is outside the choices"),
    "two images": ({**RL, "images": RL["images"] * 2}, "'images' must hold one image, found 2"),
    "no image": ({**RL, "images": []}, "must hold one image, found 0"),
    "image is text": ({**RL, "images": ["x"]}, "holds a str, not the bytes"),
    "no answer": ({**RL, "answer": None}, "'answer' must be text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_rows(name):
    row, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        item_of("geometry3k", row, split="test", where="test.parquet, row 4")


@pytest.mark.slow
def test_parquet_files(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "raw/data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [{**NEW, "id": i} for i in range(3)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"raw/data/{split}-00000-of-00001.parquet")
    card = prepared("geometry3k", tmp_path / "raw", tmp_path / "out")
    assert {name: split["items"] for name, split in card["splits"].items()} == {"train": 3, "dev": 3, "test": 3}
    assert (tmp_path / "out/images/val-0.png").read_bytes() == png()
    torn = tmp_path / "raw/data/train-00000-of-00001.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: not a complete Parquet file"):
        prepared("geometry3k", tmp_path / "raw", tmp_path / "out2")
