"""What has changed since a run began is refused by name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from data_process.io import read_jsonl
from data_process.prompts import prompt_set
from selftrain.engines.base import EngineError
from selftrain.files import RunError
from selftrain.loop import run_loop
from selftrain.runs import splits
from tests.selftrain.whole_loops import QUIET, ROOT, artefacts


def change_question(folder: Path) -> None:
    rows = read_jsonl(folder / "dev.jsonl")
    rows[3]["question"] += " Really."
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_order(folder: Path) -> None:
    lines = (folder / "dev.jsonl").read_text().splitlines(keepends=True)
    (folder / "dev.jsonl").write_text("".join(reversed(lines)))


def change_pixels(folder: Path) -> None:
    row = read_jsonl(folder / "dev.jsonl")[5]
    other = read_jsonl(folder / "dev.jsonl")[6]
    shutil.copyfile(folder / other["image"], folder / row["image"])


@pytest.mark.slow
@pytest.mark.parametrize("change", [change_question, change_order, change_pixels])
def test_changed_data_are_refused(config, own, no_report, change):
    chosen = config("iters=1", data_folder=own)
    run_loop(chosen, QUIET)
    before = artefacts(chosen.output)
    change(own)
    with pytest.raises(RunError, match=r"(?s)other settings or data:\s+inputs\.dev: '\w+' -> '\w+'"):
        run_loop(chosen, QUIET)
    assert artefacts(chosen.output) == before


@pytest.mark.slow
def test_changed_settings_are_refused(config, no_report):
    run_loop(config("iters=1"), QUIET)
    with pytest.raises(RunError, match=r"config\.sampling\.n: 3 -> 4"):
        run_loop(config("iters=1", "sampling.n=4"), QUIET)


@pytest.mark.slow
def test_a_changed_model_is_refused(config, tmp_path, no_report):
    """A folder is bound to the digest of the weights."""
    model = shutil.copytree(ROOT / "models/tiny-qwen2vl", tmp_path / "model")
    more = ("iters=1", "engine={kind: hf, device: cpu}", f"model.path={model}")

    def no_engine(*args):
        raise EngineError("stopped before anything is sampled")

    for _ in range(2):
        with pytest.raises(EngineError, match="stopped before"):
            run_loop(config(*more), QUIET, open_engine=no_engine)
    weights = model / "model.safetensors"
    *content, last = weights.read_bytes()
    weights.write_bytes(bytes([*content, last ^ 1]))
    with pytest.raises(RunError, match=r"other settings or data:\s+inputs\.model: '\w+' -> '\w+'"):
        run_loop(config(*more), QUIET, open_engine=no_engine)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("JUDGE_VERSION", "next"), ("prompt_set", None)])
def test_a_changed_judge_or_wording_is_refused(config, no_report, monkeypatch, name, value):
    run_loop(config("iters=1"), QUIET)
    reworded = dataclasses.replace(prompt_set("short"), cot="{body}\nThink!")
    monkeypatch.setattr(splits, name, value or (lambda _: reworded))
    with pytest.raises(RunError, match=r"inputs\.(judge|prompts): "):
        run_loop(config("iters=1"), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost", ["iter1/train/adapter/adapter_model.rehearsal", "iter1/judge/judged.jsonl", "iter0/dev/rows.jsonl"]
)
def test_a_lost_artefact_is_not_papered_over(config, no_report, lost):
    run_loop(config("iters=1"), QUIET)
    (config().output / lost).unlink()
    with pytest.raises(RunError, match=f"{Path(lost).name} is not what this stage wrote; restore it, or delete"):
        run_loop(config("iters=2"), QUIET)
    before = artefacts(config().output)["metrics.json"]
    shutil.rmtree(config().output / Path(*Path(lost).parts[:2]))
    run_loop(config("iters=1"), QUIET)  # the advice works
    assert artefacts(config().output)["metrics.json"] == before
