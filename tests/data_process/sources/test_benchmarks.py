"""Every benchmark: what its source names, and small files of each published form, prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_process.io import problem_from_row
from data_process.judging import judge
from data_process.judging.published.registry import named_judge
from data_process.prepare.command import SOURCES, source_named
from data_process.prompts import cot, prompt_set, qa
from data_process.sources.base import Source
from tests.data_process.raw_files import load, parquet, picture, png, prepared, write_json, write_lines

ROOT = Path(__file__).parents[3]
NAMES = sorted(set(SOURCES) - {"table", "jsonl"})


@pytest.mark.parametrize("name", NAMES)
def test_a_source_names_its_card_its_wording_and_its_judge(name):
    source = source_named(name)
    unknown = Source("x", source.item)
    assert source.name == name
    assert source.licence != unknown.licence
    assert source.citation != unknown.citation
    assert source.origin
    assert source.files
    assert prompt_set(source.prompts)
    assert named_judge(source.judge)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_has_a_configuration_with_its_wording(name):
    from selftrain.config import load_config

    config = load_config(ROOT / f"configs/{name}_qwen2vl_7b.yaml")
    assert config.prompts == source_named(name).prompts
    assert name in config.data.folder.name or name == "mathvista"


# ---- TabMWP ----


def tabmwp_row(**more: object) -> dict:
    return {
        "question": "How many kites were sold on Monday?", "choices": None, "answer": "1,204", "unit": "kites",
        "table_title": "Kites sold", "table": "Day | Kites\nMonday | 1,204", "solution": "Find Monday.\n1,204",
        "ques_type": "free_text", "ans_type": "integer_number", "grade": 3, **more,
    }  # fmt: skip


@pytest.fixture
def tabmwp(tmp_path):
    rows = {
        "7": tabmwp_row(),
        "8": tabmwp_row(question="Were more sold on Monday?", choices=["no", "yes"], answer="yes", unit=None,
                        ques_type="multi_choice", ans_type="boolean_text"),
        "9": tabmwp_row(question="When does it open?", answer="2:30 P.M.", unit="", ans_type="other_text"),
        "10": tabmwp_row(question="What share is it?", answer="3/5", unit=None, ans_type="decimal_number"),
    }  # fmt: skip
    raw = tmp_path / "raw"
    write_json(raw / "problems_test.json", rows)
    write_json(raw / "problems_test1k.json", {"8": rows["8"]})
    write_json(raw / "splits.json", {"test": ["7", "8"]})
    for number in rows:
        picture(raw / f"tables/{number}.png", f"#0000{int(number):02x}")
    return raw


def test_tabmwp(tabmwp, tmp_path):
    card = prepared("tabmwp", tabmwp, tmp_path / "out")
    assert (card["prompts"], card["judge"], list(card["splits"])) == ("tabmwp", "legacy:tabmwp", ["test"])
    number, choice, clock, share = load(tmp_path / "out", "test")
    assert (number.id, number.answer, number.answer_type, number.unit) == ("7", "1,204", "number", "kites")
    assert (choice.answer, choice.choices) == ("B", ("no", "yes"))
    assert (clock.answer_type, share.answer_type) == ("text", "number")
    assert number.meta["rationale"].startswith("Find Monday")
    assert number.meta["table_title"] == "Kites sold"
    assert number.images == ("images/tables/7.png",)
    assert number.origin.dataset == "TabMWP"
    said = "Monday has 1204.\nAnswer: 1204 kites"
    assert judge(said, number).correct


def test_tabmwp_asks_as_published(tabmwp, tmp_path):
    """njucckevin/MM-Self-Improve: unit behind the question, options in lines, and the end by the kind of question."""
    prepared("tabmwp", tabmwp, tmp_path / "out")
    wording = prompt_set("tabmwp")
    number, choice, *_ = load(tmp_path / "out", "test")
    assert cot(number, wording) == (
        "How many kites were sold on Monday? (Unit: kites)\n"
        "First generate a step-by-step solution, then answer the question using a single word or phrase."
    )
    assert qa(choice, wording) == (
        "Were more sold on Monday?\nOptions:\n(A) no\n(B) yes\n"
        "Answer with the option’s letter from the given choices directly."
    )


def test_tabmwp_small_test_split(tabmwp, tmp_path):
    prepared("tabmwp", tabmwp, tmp_path / "out", "test1k=test")
    assert [p.id for p in load(tmp_path / "out", "test")] == ["8"]


# ---- ChartQA ----


@pytest.fixture
def chartqa(tmp_path):
    human = [
        {"imgname": "1.png", "query": "Which bar is tallest?", "label": "Norway"},
        {"imgname": "1.png", "query": "What is the value of Norway?", "label": "40"},
    ]
    augmented = [{"imgname": "2.png", "query": "In which year did it peak?", "label": "2004"}]
    for split in ("train", "val", "test"):
        folder = tmp_path / "ChartQA" / split
        write_json(folder / f"{split}_human.json", human)
        write_json(folder / f"{split}_augmented.json", augmented)
        for name in ("1.png", "2.png"):
            picture(folder / "png" / name, {"1.png": "red", "2.png": "blue"}[name])
        (folder / "tables").mkdir()
        (folder / "tables" / "1.csv").write_text("Country,Value\nNorway,40\n")
    return tmp_path / "ChartQA"


def test_chartqa_folders(chartqa, tmp_path):
    prepared("chartqa", chartqa, tmp_path / "out")
    name, value, year = load(tmp_path / "out", "test")
    assert [p.id for p in (name, value, year)] == ["test-human-row1", "test-human-row2", "test-augmented-row1"]
    assert [p.answer_type for p in (name, value, year)] == ["text", "number", "number"]
    assert (name.tolerance, value.tolerance) == (None, 0.05)
    assert value.images == ("images/test/png/1.png",)
    assert [p.meta["part"] for p in (name, year)] == ["human", "augmented"]
    assert judge("Answer: 38", value).correct
    assert not judge("Answer: 37.9", value).correct
    assert not judge("Answer: 2010", year).correct


@pytest.mark.parametrize("part", ["human", "augmented"])
def test_chartqa_part(chartqa, tmp_path, part):
    prepared("chartqa", chartqa, tmp_path / "out", options={"part": part})
    assert {p.meta["part"] for p in load(tmp_path / "out", "train")} == {part}


def test_one_chartqa_file(chartqa, tmp_path):
    prepared("chartqa", chartqa / "test/test_human.json", tmp_path / "out", "test")
    assert [p.images for p in load(tmp_path / "out", "test")] == [("images/png/1.png",)] * 2


def test_chartqa_parquet(tmp_path):
    image = {"bytes": png(), "path": None}
    rows = [
        {"image": image, "query": "Which is it?", "label": ["Norway"], "human_or_machine": 0},
        {"image": image, "query": "How much?", "label": ["12.5%"], "human_or_machine": 1},
        {"image": image, "query": "Which span?", "label": ["2007-2009"], "human_or_machine": 1},
    ]
    parquet(tmp_path / "raw/data/test-00000-of-00001.parquet", rows)
    prepared("chartqa", tmp_path / "raw", tmp_path / "out")
    name, share, span = load(tmp_path / "out", "test")
    assert [p.id for p in (name, share, span)] == ["test-row1", "test-row2", "test-row3"]
    assert [p.answer_type for p in (name, share, span)] == ["text", "number", "text"]
    assert [p.meta["part"] for p in (name, share)] == ["human", "augmented"]
    assert judge("The share is 12.4%.\nAnswer: 12.4", share).correct


# ---- CLEVR-Math ----


@pytest.mark.parametrize("form", ["parquet", "list", "object", "flat"])
def test_clevr_math(tmp_path, form):
    rows = [
        {"template": "addition", "id": "CLEVR_test_000001.png", "question": "Add 3 cubes. How many are there?",
         "label": 7},
        {"template": "subtraction", "id": "CLEVR_test_000001.png", "question": "Remove all cubes. How many are left?",
         "label": 0},
    ]  # fmt: skip
    if form == "parquet":
        parquet(tmp_path / "raw/test-00000-of-00001.parquet", [{**r, "image": {"bytes": png()}} for r in rows])
    else:
        named = [
            {
                "question": r["question"],
                "answer": r["label"],
                "image_filename": r["id"],
                "split": "test",
                "template_filename": f"{r['template']}.json",
                "program": [{"function": "scene", "inputs": []}],
            }
            for r in rows
        ]
        write_json(
            tmp_path / "raw/clevr-math-test.json",
            {"info": {"license": "x"}, "questions": named} if form == "object" else named,
        )
        picture(tmp_path / "raw/images" / ("" if form == "flat" else "test") / "CLEVR_test_000001.png")
    prepared("clevr_math", tmp_path / "raw", tmp_path / "out")
    seven, none = load(tmp_path / "out", "test")
    assert [(p.id, p.answer, p.answer_type) for p in (seven, none)] == [
        ("test-row1", "7", "integer"),
        ("test-row2", "0", "integer"),
    ]
    assert len(seven.images) == 1
    assert seven.meta["template"] == "addition"
    assert cot(seven, prompt_set("clevr-math")).endswith("using a single numerical value (0-10).")
    assert judge("Answer: 7", seven).correct
    assert not judge("Answer: 7", none).correct


# ---- M3CoT ----


def m3cot_rows() -> list[dict]:
    row = {
        "id": "physics-1", "question": "Which magnet pulls more?", "choices": ["the left one", "the right one"],
        "context": "Two magnets lie on a table.", "answer": "B", "rationale": "It is larger.", "domain": "science",
        "topic": "natural-science", "image": "data\\images\\physics-1.png",
    }  # fmt: skip
    return [row, {**row, "id": "physics-2", "context": "", "answer": "A", "image": None}]


@pytest.mark.parametrize("form", ["lines", "parquet"])
def test_m3cot(tmp_path, form):
    if form == "lines":
        write_lines(tmp_path / "raw/train.jsonl", m3cot_rows())
        picture(tmp_path / "raw/images/physics-1.png")
    else:
        with_image, without = m3cot_rows()
        rows = [{**with_image, "image": {"bytes": png(), "path": "physics-1.png"}}, without]
        parquet(tmp_path / "raw/train-00000-of-00001.parquet", rows)
    card = prepared("m3cot", tmp_path / "raw", tmp_path / "out", dev_share=0)
    first, second = load(tmp_path / "out", "train")
    assert (first.context, first.answer, first.meta["rationale"]) == (
        "Two magnets lie on a table.",
        "B",
        "It is larger.",
    )
    assert second.context is None
    assert (len(first.images), second.images) == (1, ())
    assert card["splits"]["train"]["notes"]["the row has no image"]["ids"] == ["physics-2"]
    assert cot(first, prompt_set("m3cot")) == (
        "[Context]\nTwo magnets lie on a table.\n[Question]\nWhich magnet pulls more?\n[Choices]\n(A) the left one\n"
        "(B) the right one\n\nLet's think step-by-step!"
    )
    assert cot(second, prompt_set("m3cot")).startswith("[Question]\nWhich magnet")


def test_a_context_is_in_every_wording(tmp_path):
    write_lines(tmp_path / "train.jsonl", m3cot_rows())
    prepared("m3cot", tmp_path / "train.jsonl", tmp_path / "out", "train", dev_share=0, missing="drop")
    (problem,) = load(tmp_path / "out", "train")
    assert problem.context is None  # the one with an image is left out
    with_context = m3cot_rows()[0]
    for name in ("r3v-qwen2vl", "short", "mathvista", "tabmwp"):
        made = problem_from_row({**with_context, "image": None}, "x", tmp_path)
        assert cot(made, prompt_set(name)).startswith("Two magnets lie on a table.\nWhich magnet")
