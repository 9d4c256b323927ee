"""Test problems among the training problems stop a run before it samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_process.io import read_jsonl, write_jsonl
from data_process.schema import DataError
from selftrain.files import read_json
from selftrain.loop import run_loop
from tests.selftrain.whole_loops import QUIET


@pytest.fixture
def leaking(data, tmp_path) -> Path:
    """Data whose first three test questions stand in train too, under other ids and other picture names."""
    folder = tmp_path / "leaking"
    shutil.copytree(data, folder)
    copies = []
    for row in read_jsonl(folder / "test.jsonl")[:3]:
        picture = f"images/copy-{Path(row['image']).name}"
        shutil.copy(folder / row["image"], folder / picture)
        copies.append({**row, "id": f"copy-{row['id']}", "image": picture})
    write_jsonl(folder / "train.jsonl", [*read_jsonl(folder / "train.jsonl"), *copies])
    return folder


@pytest.mark.slow
def test_test_questions_in_train_are_refused(config, leaking, no_report):
    with pytest.raises(DataError, match=r"(?s)3 .*data\.leakage=drop"):
        run_loop(config("data.leakage=error", data_folder=leaking), QUIET)


@pytest.mark.slow
def test_test_questions_in_train_can_be_left_out(config, leaking, no_report):
    chosen = config("data.leakage=drop", "iters=1", data_folder=leaking)
    run_loop(chosen, QUIET)
    sampled = {row["problem_id"] for row in read_jsonl(chosen.output / "iter1/sample/candidates.jsonl")}
    assert not any(name.startswith("copy-") for name in sampled)
    assert len(sampled) == 60
    report = (chosen.output / "leakage/report.json").read_bytes()
    run_loop(chosen, QUIET)
    assert (chosen.output / "leakage/report.json").read_bytes() == report


@pytest.mark.slow
def test_data_sets_that_contain_each_other_are_refused_and_can_be_accepted(config, data, tmp_path, no_report):
    """The rows name their data sets, so a run needs no setting to know."""
    folder = tmp_path / "overlapping"
    shutil.copytree(data, folder)
    for split, origin in (("train", "GeoQA"), ("dev", "GeoQA"), ("test", ["UniGeo", "MathVista"])):
        file = folder / f"{split}.jsonl"
        write_jsonl(file, [{**row, "origin": origin} for row in read_jsonl(file)])
    with pytest.raises(DataError, match=r"(?s)LEAK source: 60 .*24 problems of test are from UniGeo.*allow_sources"):
        run_loop(config("data.leakage=error", data_folder=folder), QUIET)
    chosen = config("data.leakage=error", "data.allow_sources=[GeoQA]", "iters=1", data_folder=folder, name="allowed")
    run_loop(chosen, QUIET)
    assert read_json(chosen.output / "leakage/report.json")["sources"][0]["blocking"] is False


@pytest.mark.slow
def test_the_guard_can_be_switched_off(config, leaking, no_report):
    chosen = config("data.leakage=ignore", "iters=1", data_folder=leaking)
    run_loop(chosen, QUIET)
    assert len({row["problem_id"] for row in read_jsonl(chosen.output / "iter1/sample/candidates.jsonl")}) == 63
