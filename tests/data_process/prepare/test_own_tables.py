"""A user's own file without any flag: which split it is, what is held out, and which columns were taken."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from data_process.prepare.command import main
from tests.data_process.raw_files import load, parquet, picture, write_lines

SUMS = [{"problem": f"What is {k} plus {k * k}?", "solution": str(k + k * k), "level": k % 5} for k in range(3, 43)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        return parquet(path, rows)
    if path.suffix == ".jsonl":
        return write_lines(path, rows)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def card_of(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["table", "--json", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


def sizes(card: dict[str, Any]) -> dict[str, int]:
    return {name: split["items"] for name, split in card["splits"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_no_flag_is_needed(tmp_path, capsys, suffix):
    raw = written(tmp_path / f"my{suffix}", SUMS)
    card = card_of(capsys, "--raw", raw, "--out", tmp_path / "out")
    assert sizes(card) == {"train": 32, "dev": 4, "test": 4}
    assert card["columns"] == {"question": ["problem"], "answer": ["solution"]}
    assert card["unused_columns"] == ["level"]
    assert card["remarks"][0] == f"no --split, and the name my{suffix} says none: all rows are train"
    assert sizes(card_of(capsys, "--raw", tmp_path, "--out", tmp_path / "folder")) == sizes(card)
    assert main(["table", "--raw", str(raw), "--out", str(tmp_path / "text")]) == 0
    text = capsys.readouterr().out
    assert "columns: question from 'problem'; answer from 'solution'" in text
    assert "unused columns: 'level' (a field takes one with --map FIELD=COLUMN)" in text


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("my", ["--holdout", "0"], {"train": 40}),
        ("my", ["--holdout", "0.2"], {"train": 24, "dev": 8, "test": 8}),
        ("my", ["--holdout", "0.2", "--test-share", "0"], {"train": 32, "dev": 8}),
        ("my", ["--dev-share", "0"], {"train": 36, "test": 4}),
        ("my", ["--split", "train"], {"train": 32, "dev": 4, "test": 4}),
        ("my", ["--split", "test"], {"test": 40}),
        ("my_val", [], {"dev": 40}),
        ("my_test", [], {"test": 40}),
    ],
)
def test_what_is_held_out(tmp_path, capsys, name, words, expected):
    raw = written(tmp_path / f"{name}.jsonl", SUMS)
    assert sizes(card_of(capsys, "--raw", raw, "--out", tmp_path / "out", *words)) == expected


def test_the_draw_is_seeded_and_keeps_images_together(tmp_path, capsys):
    rows = [{"question": f"Question {k}?", "answer": str(k), "image": f"{k // 4}.png"} for k in range(48)]
    for k in range(12):
        picture(tmp_path / f"{k}.png", f"#{k * 16:06x}")
    raw = written(tmp_path / "my.jsonl", rows)
    digests = [
        card_of(capsys, "--raw", raw, "--out", tmp_path / f"out{n}", "--seed", seed)["digest"]
        for n, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]
    images = [{problem.images for problem in load(tmp_path / "out0", split)} for split in ("train", "dev", "test")]
    assert all(images)
    assert sum(map(len, images)) == len(set.union(*images)) == 12


COLUMNS = {
    "in any case": ({"QUESTION": "1 + 1?", "Label": "2"}, {"question": "QUESTION", "answer": "Label"}),
    "options": (
        {"question": "Which?", "options": "A. x; B. y", "answer": "B"},
        {"question": "question", "choices": "options", "answer": "answer"},
    ),
    "one column each": (
        {"prompt": "Which?", "option_a": "x", "option_b": "y", "output": "b"},
        {"question": "prompt", "choices": "option_a, option_b", "answer": "output"},
    ),
    "in the question": (
        {"query": "Which?\nA. x\nB. y", "target": "A"},
        {"question": "query", "choices": "query", "answer": "target"},
    ),
    "turns": (
        {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]},
        {"question": "messages", "answer": "messages"},
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_card_says_which_columns_were_taken(tmp_path, capsys, name):
    row, expected = COLUMNS[name]
    raw = write_lines(tmp_path / "my.jsonl", [{**row, "comment": "seen", "empty": None}])
    card = card_of(capsys, "--raw", raw, "--out", tmp_path / "out", "--holdout", "0")
    assert card["columns"] == {field: [column] for field, column in expected.items()}
    assert card["unused_columns"] == ["comment"]
