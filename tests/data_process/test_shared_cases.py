"""Kinds of files and answers that were once misread, from ../shared/cases; where it is absent the tests skip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_process.io import load_problems, read_jsonl
from data_process.judging import judge
from data_process.prepare.command import main
from data_process.schema import Problem
from selftrain.scoring.answer_file import score_files

CASES = Path(__file__).parents[2].parent / "shared" / "cases"


def case(name: str) -> Path:
    """A folder of examples, or a skip that names it."""
    if not (CASES / name).is_dir():
        pytest.skip(f"needs ../shared/cases/{name}")
    return CASES / name


SCORED = ["options_column_ignored", "letter_gold_without_choices"]


@pytest.mark.parametrize("name", SCORED)
def test_verdicts(tmp_path, name):
    folder = case(name)
    score_files(folder / "problems.jsonl", folder / "answers.jsonl", "auto", per_item=tmp_path / "items.jsonl")
    found = {row["id"]: row["verdict"] for row in read_jsonl(tmp_path / "items.jsonl")}
    assert found == {row["id"]: row["verdict"] for row in read_jsonl(folder / "expected.jsonl")}


# name -> the source, its options, and what every problem must be like
PREPARED = {
    "base64_bytes_dict": ("table", [], lambda p: p.images[0].endswith(".png")),
    "base64_png": ("table", [], lambda p: p.images[0].endswith(".png")),
    "llava_conversations": ("table", [], lambda p: len(p.choices) == 4 and p.images),
    "mmmu_option_strings": ("table", [], lambda p: len(p.choices) == 4 and p.images),
    "nan_json": ("table", ["--map", "choices=A,B,C"], lambda p: len(p.choices) in (2, 3) and "nan" not in p.choices),
    "pandas_floats": ("table", ["--answer-is", "index0"], lambda p: p.id.isdecimal() and p.answer in "ABC"),
    "tsv": ("table", [], lambda p: p.choices == ("one", "two")),
    "ids_restart": ("table", [], lambda p: p.id.partition("-")[0] in ("train", "test")),
    "wemath_options": ("table", ["--split", "testmini=test"], lambda p: len(p.choices) == 5 and p.images),
    "chartqa_label_list": (
        "table", ["--map", "question=query", "--map", "answer=label"], lambda p: p.answer_type in ("number", "text"),
    ),
    "clevr_same_question": (
        "table", ["--map", "question=problem", "--map", "answer=solution"], lambda p: p.answer_type == "number",
    ),
}  # fmt: skip


def prepared(folder: Path, out: Path) -> list[Problem]:
    return [problem for file in sorted(out.glob("*.jsonl")) for problem in load_problems(file, out)]


@pytest.mark.parametrize("name", PREPARED)
def test_prepared(tmp_path, capsys, name):
    source, options, fits = PREPARED[name]
    assert main([source, "--raw", str(case(name) / "raw"), *options, "--out", str(tmp_path / "out")]) == 0
    problems = prepared(tmp_path, tmp_path / "out")
    assert len(problems) >= 12
    assert [problem for problem in problems if not fits(problem)] == []
    assert "left out" not in capsys.readouterr().out


def test_conversations_by_a_mapping_and_as_geoqa(tmp_path):
    raw = str(case("llava_conversations") / "raw")
    mapping = ["--map", "question=conversations.0.value", "--map", "answer=conversations.1.value"]
    assert main(["table", "--raw", raw, *mapping, "--out", str(tmp_path / "table")]) == 0
    assert main(["geoqa", "--raw", raw, "--out", str(tmp_path / "geoqa")]) == 0
    for out in ("table", "geoqa"):
        assert all(len(problem.choices) == 4 for problem in prepared(tmp_path, tmp_path / out))


def test_lists_of_one_answer_are_credited(tmp_path):
    folder = case("chartqa_label_list")
    _, options, _ = PREPARED["chartqa_label_list"]
    assert main(["table", "--raw", str(folder / "raw"), *options, "--out", str(tmp_path / "out")]) == 0
    problems = {problem.id: problem for problem in prepared(tmp_path, tmp_path / "out")}
    for row in read_jsonl(folder / "answers.jsonl"):
        assert judge(row["response"], problems[row["id"]]).correct, row


@pytest.mark.parametrize(("raw", "held"), [("raw", 6), ("raw3", 30)])
def test_one_question_for_all_images_can_be_split(tmp_path, raw, held):
    _, options, _ = PREPARED["clevr_same_question"]
    folder = case("clevr_same_question")
    assert main(["table", "--raw", str(folder / raw), *options, "--out", str(tmp_path / "out")]) == 0
    assert len(load_problems(tmp_path / "out/dev.jsonl", tmp_path / "out")) == held


def test_golds_that_no_rule_reads_are_text(tmp_path):
    golds = (case("expression_golds_refused") / "golds.txt").read_text("utf-8").splitlines()
    rows = [{"question": f"What is {number}?", "answer": gold} for number, gold in enumerate(golds)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw, out = str(tmp_path / "train.jsonl"), tmp_path / "out"
    assert main(["table", "--raw", raw, "--holdout", "0", "--out", str(out)]) == 0
    problems = load_problems(out / "train.jsonl", out)
    assert [problem.answer for problem in problems] == [gold.strip() for gold in golds]
    assert all(judge(f"Answer: {problem.answer}", problem).status != "wrong" for problem in problems)


def test_the_official_problem_file_and_result_file(tmp_path):
    problems = case("mathvista_dict") / "testmini.json"
    rows = json.loads(problems.read_text("utf-8"))
    answers = tmp_path / "answers.jsonl"
    said = [
        {"pid": pid, "response": f"It is {row['answer']}.", "extraction": row["answer"]} for pid, row in rows.items()
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    results = tmp_path / "results.json"
    first = score_files(
        problems, answers, "mathvista-official", per_item=tmp_path / "items.jsonl", official_out=results
    )
    again = score_files(problems, results, "mathvista-official", per_item=tmp_path / "items.jsonl")
    assert first["correct"] == again["correct"] == len(rows)
