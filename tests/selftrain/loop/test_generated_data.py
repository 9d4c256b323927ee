"""Data that a run makes itself are whole, and never written over others."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from data_process.schema import DataError
from data_process.sources import minigeo
from selftrain.runs.splits import generate_data
from tests.selftrain.whole_loops import QUIET, Interrupted, splits_of


@pytest.fixture
def small_minigeo(monkeypatch):
    write, written = minigeo.write, []

    def small(out: Path, *, seed: int, **rest: Any) -> dict:
        written.append(out)
        return write(out, {"train": 4, "dev": 2, "test": 2}, seed=seed, **rest)

    monkeypatch.setattr(minigeo, "write", small)
    return written


def test_missing_data_are_generated_whole_or_not_at_all(config, tmp_path, small_minigeo, monkeypatch):
    chosen = config(data_folder=tmp_path / "fresh/minigeo")
    with monkeypatch.context() as patch:
        patch.setattr(minigeo, "text_only_accuracy", None)
        patch.setattr(json, "dumps", lambda *args, **kwargs: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            generate_data(chosen, QUIET)
    assert list((tmp_path / "fresh").iterdir()) == []
    generate_data(chosen, QUIET)
    assert sorted(p.name for p in chosen.data.folder.iterdir()) == [
        *("card.json", "dev.jsonl", "images", "test.jsonl", "train.jsonl")
    ]
    generate_data(chosen, QUIET)
    assert len(small_minigeo) == 2
    assert list((tmp_path / "fresh").iterdir()) == [chosen.data.folder]


@pytest.mark.slow
def test_data_of_another_seed_are_not_taken_for_these(config, tmp_path, small_minigeo):
    generate_data(config("data.seed=1", data_folder=tmp_path / "m"), QUIET)
    with pytest.raises(DataError, match=r"seed 1, not 0; set data\.seed=1"):
        generate_data(config(data_folder=tmp_path / "m"), QUIET)


def test_data_of_another_version_are_not_taken_for_these(config, tmp_path, small_minigeo, monkeypatch):
    generate_data(config(data_folder=tmp_path / "m"), QUIET)
    monkeypatch.setattr(minigeo, "VERSION", minigeo.VERSION + 1)
    with pytest.raises(DataError, match=r"delete the folder to have it generated again"):
        generate_data(config(data_folder=tmp_path / "m"), QUIET)
    assert len(splits_of(config("data.source=jsonl", data_folder=tmp_path / "m"))[0]["train"]) == 4


def test_own_problems_are_never_written_over(config, tmp_path, small_minigeo):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files, but no train"):
        generate_data(config(data_folder=folder), QUIET)
    (folder / "train.jsonl").write_text("mine")
    with contextlib.suppress(DataError):
        splits_of(config(data_folder=folder))
    assert (folder / "train.jsonl").read_text() == "mine"
    assert small_minigeo == []


@pytest.mark.parametrize("other_run_was_first", [True, False])
def test_a_rename_that_fails_is_told_unless_another_run_was_first(
    config, tmp_path, small_minigeo, monkeypatch, other_run_was_first
):
    chosen = config(data_folder=tmp_path / "minigeo")
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target != chosen.data.folder:
            return replace(self, target)
        if other_run_was_first:
            target.mkdir()
            (target / "card.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    if other_run_was_first:
        generate_data(chosen, QUIET)
    else:
        with pytest.raises(OSError, match="No space left"):
            generate_data(chosen, QUIET)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
