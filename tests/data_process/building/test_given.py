"""Training rows from files, ours and ShareGPT ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_process.building.given import read_given
from data_process.io import write_jsonl
from data_process.schema import DataError, Example, to_json

OWN = Example("e1", "refine", "p1", "How large is <image> B?", "Answer: (B)", ("a.png",), ("p1/0/1",), (("x", "Wait"),))
USER, ANSWER = {"role": "user", "content": "How large is B?"}, {"role": "assistant", "content": "40"}


def read(folder: Path, *rows: Any):
    write_jsonl(folder / "rows.jsonl", rows)
    return read_given([folder / "rows.jsonl"], folder)


def test_examples_are_read_as_they_were_written(tmp_path):
    assert read(tmp_path, to_json(OWN))[0] == [OWN]


@pytest.mark.parametrize(
    ("row", "images"),
    [
        ({"messages": [USER, ANSWER]}, ()),
        ({"messages": [USER, ANSWER], "images": ["a.png", "b/c.png"]}, ("a.png", "b/c.png")),
        ({"messages": [USER, ANSWER], "image": "a.png"}, ("a.png",)),
        ({"messages": [USER, ANSWER], "images": None}, ()),
        (
            {"conversations": [{"from": "human", "value": "How large is B?"}, {"from": "gpt", "value": "40"}]},
            (),
        ),
    ],
)
def test_sharegpt(tmp_path, row, images):
    [found], dropped = read(tmp_path, row)
    assert (found.prompt, found.target, found.images, found.id) == ("How large is B?", "40", images, "rows-000001")
    assert not dropped
    [named], _ = read(tmp_path, {**row, "id": "mine"})
    assert (named.id, named.problem_id) == ("mine", "mine")


def test_what_one_prompt_and_one_target_cannot_hold_is_counted(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    rows = [[USER, ANSWER], [system, USER, ANSWER], [USER, ANSWER, USER, ANSWER], [USER], [USER, ANSWER]]
    found, dropped = read(tmp_path, *({"messages": turns} for turns in rows))
    assert [example.id for example in found] == ["rows-000001", "rows-000005"]
    assert dropped == {"system_prompt": 1, "several_turns": 1, "no_answer": 1}
    with pytest.raises(DataError, match=r"no row to train on in .*rows.jsonl \(no_answer 1\)"):
        read(tmp_path, {"messages": [USER]})


def test_absolute_paths_within_the_folder_of_images(tmp_path):
    [found], _ = read(tmp_path, {"messages": [USER, ANSWER], "images": [str(tmp_path / "a/b.png")]})
    assert found.images == ("a/b.png",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "B?"}, "line 1: neither an example .* nor a ShareGPT row"),
        ({"messages": "How?"}, "neither an example"),
        ({"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "a turn is of 'tool'; known: user, human"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "'content' must be a text, found None"),
        ({"messages": [USER, ANSWER], "images": [1]}, r"'images' must be a list of paths, found \[1\]"),
        (
            {"messages": [USER, ANSWER], "images": ["/etc/a.png"]},
            "'/etc/a.png' is not in .*name its folder with --images",
        ),
        ({"prompt": "B?", "target": "40"}, "an example needs 'id', 'kind', 'problem_id', 'sources' as well"),
        ({**to_json(OWN), "target": 40}, "'target' must be a text, found 40"),
        ({**to_json(OWN), "sources": None}, "not an example"),
        ({**to_json(OWN), "weight": 2}, "not an example"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_a_torn_file_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [USER, ANSWER]})[:-5])
    with pytest.raises(DataError, match="line 1: not complete JSON"):
        read_given([tmp_path / "rows.jsonl"], tmp_path)
