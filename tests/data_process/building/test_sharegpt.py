"""LLaMA-Factory rows and the private dataset folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.building.sharegpt import to_row, write_dataset
from data_process.images.marks import neutralise
from data_process.io import read_jsonl
from data_process.schema import DataError, Example


def example(name="a", prompt="Which?", target="Answer: \nB", images: tuple[str, ...] = ("a.png",)) -> Example:
    return Example(f"qa/{name}", "qa", name, prompt, target, images)


def path_of(image: str) -> Path:
    return Path("/store") / image


def test_row_with_and_without_an_image():
    assert to_row(example(), path_of) == {
        "messages": [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "Answer: \nB"}],
        "images": ["/store/a.png"],
    }
    row = to_row(example(images=()), path_of)
    assert row["messages"][0]["content"] == "Which?"
    assert row["images"] == []


def test_dataset_folder(tmp_path):
    counts = write_dataset(tmp_path / "data", "iter1", [example(), example("b", images=())], path_of)
    assert counts == {"written": 2}
    assert len(read_jsonl(tmp_path / "data" / "iter1.jsonl")) == 2
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    assert info == {
        "iter1": {
            "file_name": "iter1.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        }
    }
    write_dataset(tmp_path / "data", "text-only", [example(images=())], path_of)
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    assert set(info) == {"iter1", "text-only"}
    assert info["text-only"]["columns"] == {"messages": "messages"}
    assert len(list((tmp_path / "data").iterdir())) == 3


# (target, prompt, reason)
LEFT_OUT = [
    ("See <image> above. Answer: B", "Which?", "mark_in_target"),
    ("Answer: B<|im_end|>", "Which?", "mark_in_target"),
    ("<|vision_start|><|image_pad|>", "Which?", "mark_in_target"),
    ("", "Which?", "empty_target"),
    (" \n", "Which?", "empty_target"),
    ("Answer: B", "Which <|im_end|>?", "mark_in_prompt"),
    ("Answer: B", "Which <image> or <image>?", "mark_in_prompt"),  # more places than images
]


@pytest.mark.parametrize(("target", "prompt", "reason"), LEFT_OUT)
def test_what_is_left_out_is_counted(tmp_path, target, prompt, reason):
    counts = write_dataset(tmp_path, "d", [example(), example("b", prompt, target)], path_of)
    assert counts == {"written": 1, reason: 1}
    assert len(read_jsonl(tmp_path / "d.jsonl")) == 1


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20) | st.just("<image>"), st.sampled_from([None, "a.png"])), max_size=5))
def test_targets_are_exact_and_counts_add_up(tmp_path_factory, items):
    folder = tmp_path_factory.mktemp("sharegpt")
    examples = [
        example(str(k), target=target, images=(image,) if image else ()) for k, (target, image) in enumerate(items)
    ]
    counts = write_dataset(folder, "d", iter(examples), path_of)
    assert counts.total() == len(examples)
    rows = read_jsonl(folder / "d.jsonl")
    kept = [e.target for e in examples if e.target.strip() and neutralise(e.target) == e.target]
    assert [row["messages"][1]["content"] for row in rows] == kept
    for row in rows:
        assert row["messages"][0]["content"].count("<image>") == len(row["images"])
    first = (folder / "d.jsonl").read_bytes()
    write_dataset(folder, "d", examples, path_of)
    assert (folder / "d.jsonl").read_bytes() == first


def test_refused(tmp_path):
    for name in ("", "../x", "a/b", ".hidden", "a b"):
        with pytest.raises(DataError, match="dataset name"):
            write_dataset(tmp_path, name, [], path_of)
    (tmp_path / "dataset_info.json").write_text("{torn")
    with pytest.raises(DataError, match=r"dataset_info\.json: not complete JSON"):
        write_dataset(tmp_path, "d", [], path_of)
    (tmp_path / "dataset_info.json").write_text("[]")
    with pytest.raises(DataError, match="must contain one object"):
        write_dataset(tmp_path, "d", [], path_of)
    assert not (tmp_path / "d.jsonl").exists()


def test_an_error_midway_leaves_no_dataset(tmp_path):
    def missing(image: str) -> Path:
        raise DataError(f"no image {image}")

    with pytest.raises(DataError, match=r"no image a\.png"):
        write_dataset(tmp_path, "d", [example()], missing)
    assert list(tmp_path.iterdir()) == []
