"""Broken rows and files of the benchmarks: each is named and counted, and the good rows still go through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_process.prepare.command import main
from data_process.schema import DataError
from tests.data_process.raw_files import item_of, load, picture, png, prepared, write_json, write_lines

LONG = "How many? " * 3_000_000  # 30 MB

ROWS = {
    "tabmwp": {"question": "How many?", "choices": None, "answer": "4", "unit": None, "table": "a | 4",
               "solution": "4", "ques_type": "free_text", "ans_type": "integer_number", "image": "a.png"},
    "chartqa": {"image": "a.png", "query": "How many?", "label": ["4"], "human_or_machine": 0},
    "clevr_math": {"template": "addition", "id": "a.png", "question": "How many?", "image": "a.png", "label": 4},
    "m3cot": {"id": "a", "question": "Which?", "choices": ["x", "y"], "context": "", "answer": "B", "rationale": "-",
              "image": "a.png", "domain": "science", "topic": "physics"},
    "mmmu": {"id": "validation_Music_1", "question": "Which <image 1>?", "options": "['do', 're']", "answer": "B",
             "question_type": "multiple-choice", "image_1": "a.png"},
    "mathverse": {"sample_index": "1", "problem_index": "1", "problem_version": "Text Lite", "question": "How many?",
                  "image": "a.png", "answer": "4", "question_type": "free-form", "metadata": {"source": "GeoQA"},
                  "query_wo": "-", "query_cot": "-"},
    "mathvision": {"id": "1", "question": "How many? <image1>", "options": [], "answer": "4", "image": "a.png"},
    "wemath": {"ID": "2steps_1", "key": "2steps_1", "question": "Which?", "option": "A. x;B. y", "answer": "B",
               "image_path": "a.png", "knowledge concept": "Angles"},
}  # fmt: skip
SPLIT = {"mmmu": "validation", "mathverse": "testmini", "mathvision": "test", "wemath": "testmini"}
QUESTION = {"chartqa": "query"}
IMAGE = {"mmmu": "image_1", "wemath": "image_path"}
ID = {"m3cot": "id", "mathvision": "id", "mmmu": "id", "wemath": "key", "mathverse": "problem_version"}
NAMES = sorted(ROWS)


def another(name: str, number: int, **more: object) -> dict:
    """Row number 2, 3 ... of a source, with an id of its own."""
    own = {
        "m3cot": {"id": f"a{number}"}, "mathvision": {"id": str(number)}, "mathverse": {"problem_index": str(number)},
        "mmmu": {"id": f"validation_Music_{number}"}, "wemath": {"ID": f"2steps_{number}"},
    }  # fmt: skip
    return {**ROWS[name], **own.get(name, {}), **more}


def read(name: str, folder: Path, rows: list[dict], **settings: object) -> dict:
    picture(folder / "a.png")
    split = SPLIT.get(name, "test")
    raw = write_lines(folder / f"{split}.jsonl", rows)
    return prepared(name, raw, folder / "out", f"{split}=test", **{"bad_share": 0.9, **settings})


def left_out(card: dict) -> str:
    (reason,) = card["left_out"]
    assert len(reason) < 400
    return reason


@pytest.mark.parametrize("name", NAMES)
def test_the_row_is_good(tmp_path, name):
    assert read(name, tmp_path, [ROWS[name], another(name, 2)], bad_share=0.0)["splits"]["test"]["items"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_question_of_megabytes_fills_no_message(tmp_path, name):
    row = another(name, 2, **{QUESTION.get(name, "question"): LONG, "answer": None, "label": None})
    reason = left_out(read(name, tmp_path, [ROWS[name], row]))
    assert "How many? How many?" * 10 not in reason


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_image_file_is_named(tmp_path, name):
    missing = another(name, 2, **{IMAGE.get(name, "image"): f"{'far/' * 40}b.png"})
    with pytest.raises(DataError, match="1 of 2 problems have no usable image") as error:
        read(name, tmp_path, [ROWS[name], missing])
    assert len(str(error.value).replace(str(tmp_path), "")) < 500
    assert read(name, tmp_path, [ROWS[name], missing], missing="drop")["splits"]["test"]["items"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_an_image(tmp_path, name):
    """Sources whose problems all have one refuse it; the others count it."""
    row = {key: value for key, value in another(name, 2).items() if key != IMAGE.get(name, "image")}
    if name == "clevr_math":
        row.pop("id")
    card = read(name, tmp_path, [ROWS[name], row])
    if name in ("tabmwp", "m3cot", "mathverse"):
        assert card["splits"]["test"]["images"]["text_only"] == 1
    else:
        assert "image" in left_out(card)


@pytest.mark.parametrize("name", NAMES)
def test_a_torn_row(tmp_path, name):
    picture(tmp_path / "a.png")
    split = SPLIT.get(name, "test")
    torn = json.dumps(another(name, 3))[:-20]
    raw = tmp_path / f"{split}.jsonl"
    raw.write_text("\n".join([json.dumps(ROWS[name]), torn, json.dumps(another(name, 2))]) + "\n", encoding="utf-8")
    card = prepared(name, raw, tmp_path / "out", f"{split}=test", bad_share=0.4)
    assert card["splits"]["test"]["items"] == 2
    assert "line 2" in left_out(card) or "row 2" in left_out(card)


@pytest.mark.parametrize("name", sorted(ID))
def test_an_id_used_twice(tmp_path, name):
    assert "was already used" in left_out(read(name, tmp_path, [ROWS[name], ROWS[name]]))


FAULTS = {
    "unknown ans_type": ("tabmwp", {"ans_type": "poem"}, "unknown ans_type 'poem'; known: integer_number"),
    "unknown ques_type": ("tabmwp", {"ques_type": ["free_text"]}, "unknown ques_type"),
    "choices are gone": ("tabmwp", {"ques_type": "multi_choice"}, "'choices' is empty"),
    "a list in a list": ("chartqa", {"label": [["a"]]}, "must be text or a list of texts, found [['a']]"),
    "an object": ("chartqa", {"label": [{"text": "a"}]}, "must be text or a list of texts"),
    "no label": ("chartqa", {"label": []}, "no gold answer"),
    "a count in words": ("clevr_math", {"label": "several"}, "is not a number"),
    "half a cube": ("clevr_math", {"label": 2.5}, "is not an integer"),
    "a letter beyond": ("m3cot", {"answer": "C"}, "outside the choices"),
    "choices as one text": ("m3cot", {"choices": "x and y"}, "not of the form"),
    "an image that is not there": ("mmmu", {"question": "Which <image 3>?"}, "marks <image 3>"),
    "not a type": ("mmmu", {"question_type": "essay"}, "'question_type' must be"),
    "no metadata": ("mathverse", {"metadata": "GeoQA"}, "'metadata' an object"),
    "a part that is not there": ("mathvision", {"question": "How many? <image9>"}, "marks <image9>, but has only 1"),
    "parts in the options": (
        "mathvision", {"options": ["<image7>", "2", "3", "4", "5"], "answer": "A"}, "marks <image7>",
    ),
    "no step": ("wemath", {"key": "steps"}, "'key' must name a step"),
    "two letters": ("wemath", {"answer": "AB"}, "outside the choices"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named(tmp_path, case):
    name, fields, message = FAULTS[case]
    assert message in left_out(read(name, tmp_path, [ROWS[name], another(name, 2, **fields)]))


def test_a_row_of_mathvision_with_a_gap_in_its_marks():
    """One published row names the parts 1, 2, 3, 1, 2, 6 and 7."""
    row = {**ROWS["mathvision"], "question": "Which? <image1><image2>", "answer": "A",
           "options": [f"<image{number}>" for number in (3, 1, 2, 6, 7)]}  # fmt: skip
    assert item_of("mathvision", row).fields["choices"] == [f"image {number}" for number in (3, 1, 2, 6, 7)]


def test_wemath_by_group_of_concepts(tmp_path):
    """Accuracy by group is the mean over its concepts, not over its problems."""
    from data_process.predictions.score_forms import form_lines, form_totals
    from data_process.schema import to_json

    nodes = [{"full node": f"Geometry_Figures_{name}", "root2": "Figures"} for name in ("Angles", "Areas")]
    write_json(tmp_path / "knowledge_structure_nodes.json", nodes)
    rows = [
        another("wemath", number, key=key, **{"knowledge concept": concept})
        for number, key, concept in ((1, "2steps_1", "Angles"), (1, "2steps_2", "Areas"), (1, "2steps_multi", None),
                                     (2, "2steps_1", "Areas"), (2, "2steps_2", "Areas"), (2, "2steps_multi", None))
    ]  # fmt: skip
    read("wemath", tmp_path, rows)
    found = [to_json(problem) for problem in load(tmp_path / "out", "test")]
    totals = form_totals("We-Math", [(row, row["id"].startswith("2steps_1")) for row in found])
    assert totals["measures"]["concept_groups"] == {"Figures": (1 + 1 / 3) / 2}
    assert "concept_groups: Figures 66.67%" in form_lines(totals)
    write_json(tmp_path / "knowledge_structure_nodes.json", {"full node": 1})
    with pytest.raises(DataError, match="expected a list of objects with 'full node' and 'root2'"):
        read("wemath", tmp_path, rows, replace=True)


def test_a_conversation_that_marks_an_image_has_one(tmp_path, capsys):
    row = {"id": "a", "conversations": [{"from": "human", "value": "<image>\nHow large is it?"},
                                        {"from": "gpt", "value": "4"}]}  # fmt: skip
    raw = write_lines(tmp_path / "test.jsonl", [row])
    for source in ("table", "geoqa"):
        assert main([source, "--raw", str(raw), "--split", "test", "--out", str(tmp_path / source)]) == 2
        assert "error" in capsys.readouterr().err
    with pytest.raises(DataError, match="the text marks <image>, but the row has no image"):
        item_of("table", row)


def test_images_in_the_parts_of_a_conversation():
    import base64

    uri = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "How large is it?"}]
    row = {"id": "a", "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "4"}]}
    found = item_of("table", row)
    assert [image.data for image in found.images] == [png()]
    assert found.fields["question"] == "How large is it?"
