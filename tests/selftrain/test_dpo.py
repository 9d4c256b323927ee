"""Iterations of DPO: the settings, whole rehearsals, and what is read of a training."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_process.io import read_examples
from data_process.schema import DataError
from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import Config, ConfigError, load_config
from selftrain.export.rows import write_rows
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs.metrics import Metrics
from selftrain.runs.run_dir import folder_digests

ROOT = Path(__file__).parents[2]
QUIET = Progress(quiet=True)
DPO = "training.method=dpo"
TRACES = "traces=[{file: a.jsonl, kind: cot}]"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 40, "dev": 12, "test": 12}, seed=0)
    return folder


def rehearsal(data: Path, output: Path, *more: str) -> Config:
    own = [f"data.folder={data}", f"output={output}", f"bank={output.parent}/bank.sqlite", "data.leakage=ignore"]
    return load_config(ROOT / "configs/demo_dpo.yaml", [*own, "engine={kind: scripted}", "iters=3", *more])


def test_only_the_method_that_reads_a_setting_has_it_in_its_identity():
    plain, dpo = (load_config(None, words).identity() for words in ([], [DPO]))
    assert {"method", "dpo"} & plain["training"].keys() == set()
    assert "pairs" not in plain["build"]
    assert dpo["training"]["dpo"] == {"sft_iterations": 0, "restart": None, "overrides": {}}
    assert dpo["build"]["pairs"] == {"cot": 2, "select": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build.pairs.cot=3"], "build.pairs is for training.method dpo"),
        (["training.dpo.sft_iterations=1"], "dpo is for method dpo"),
        ([DPO, "build.pairs={cot: 0, select: 0}"], "needs pairs"),
        ([DPO, "build.pairs.cot=-1"], "build.pairs.cot"),
        ([DPO, "training.dpo.restart=newest"], "training.dpo.restart"),
        ([DPO, "training.dpo.restart=warmup"], "training.dpo.restart is warmup, but there is no warm-up"),
        ([DPO, "training.finetuning_type=full"], "method dpo trains adapters alone"),
        ([DPO, "rationalise=true"], "rationalise makes training rows, and DPO from iteration 1 on uses none"),
        ([DPO, TRACES], "DPO from iteration 1 on mixes in no rows of a.jsonl"),
        (["training.method=kto"], "training.method"),
        (
            [DPO, "select_format=rationale", "build.parts.select=0", "evaluation.select_max_tokens=200",
             "training.max_length=300"],
            "above training.max_length 300",
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [(False, "base")] * 3),
        ([DPO], [(True, "base")] * 3),
        ([DPO, "training.restart=previous"], [(True, "previous")] * 3),
        (
            [DPO, "training.dpo={sft_iterations: 2, restart: previous}"],
            [(False, "base"), (False, "base"), (True, "previous")],
        ),
        (
            [DPO, "training.dpo={sft_iterations: 1, restart: warmup}", "warmup={qa: 1}"],
            [(False, "base"), (True, "warmup"), (True, "warmup")],
        ),
    ],
)
def test_how_each_iteration_is_trained(words, expected):
    training = load_config(None, words).training
    assert [(training.prefers(k), training.starts_from(k)) for k in (1, 2, 3)] == expected


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    run_loop(rehearsal(data, output), QUIET)
    return output


@pytest.mark.slow
def test_a_whole_rehearsal(finished):
    first, *later = ([*read_examples(finished / f"iter{k}/build/examples.jsonl")] for k in (1, 2, 3))
    assert not any(example.rejected for example in first)
    assert {example.kind for example in first} >= {"cot", "reflect"}
    for k, examples in enumerate(later, start=2):
        assert all(example.rejected for example in examples)
        counts = read_json(finished / f"iter{k}/build/counts.json")
        for kind in ("cot", "select"):
            assert counts["examples"][kind] == sum(example.kind == kind for example in examples)
            without = sum(n for key, n in counts["dropped"].items() if key.startswith(f"{kind}:"))
            assert counts["paired"][kind] + without == counts["problems"] == 40
        assert read_json(finished / f"iter{k}/train/result.json")["rows"] == len(examples)
        assert read_json(finished / f"iter{k}/train/work/data/dataset_info.json")["selftrain"]["ranking"] is True
        assert not (finished / f"iter{k}/rethink").exists(), "pairs use no second thoughts"
    assert (finished / "iter1/rethink").exists()
    metrics = Metrics.read(finished / "metrics.json")
    assert [row.iteration for row in metrics.iterations] == [0, 1, 2, 3]
    assert metrics.run.recipe == "cot+refine+select+reflect, then DPO cot+select"
    assert metrics.iterations[2].train.examples.keys() == {"cot", "select"}


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["iter2/build", "iter3/train"])
def test_a_rehearsal_resumes(data, finished, tmp_path, monkeypatch, lost):
    """From the stage on that the stop came before, with the same result."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])
    config = rehearsal(data, tmp_path / "run")
    stage = lost.split("/")[1]
    module, name = {"build": (loop.pairing, "pair_stage"), "train": (loop.training, "train_stage")}[stage]
    real = getattr(module, name)

    def stopped(run, iteration):
        if lost.startswith(f"iter{iteration}/"):
            raise KeyboardInterrupt
        real(run, iteration)

    monkeypatch.setattr(module, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        run_loop(config, QUIET)
    assert not (config.output / lost).exists()
    monkeypatch.setattr(module, name, real)
    run_loop(config, QUIET)
    for k in (2, 3):
        for part in ("build", "dev"):
            assert folder_digests(config.output / f"iter{k}/{part}") == folder_digests(finished / f"iter{k}/{part}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["training.dpo.sft_iterations=0", "engine={kind: scripted, accuracy: 1, abstain: 0}"],
            "all .* samples are right",
        ),
        (
            # One sample of each problem: no problem has a right and a wrong one.
            ["training.dpo.sft_iterations=0", "sampling.n=1"],
            "no preference pair could be built: .*(cot|select):no_(wrong|right)",
        ),
    ],
)
def test_nothing_to_prefer_stops_the_loop_with_the_reason(data, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])
    outcome = run_loop(rehearsal(data, tmp_path / "run", "iters=1", *words), QUIET)
    assert re.search(message, outcome.stopped), outcome.stopped


@pytest.mark.slow
def test_max_rows_draws_pairs_and_counts_the_others(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])
    run_loop(rehearsal(data, tmp_path / "run", "iters=1", "training.dpo.sft_iterations=0", "build.max_rows=7"), QUIET)
    counts = read_json(tmp_path / "run/iter1/build/counts.json")
    assert sum(counts["examples"].values()) == 7
    assert counts["dropped"]["row:above_max_rows"] > 0


@pytest.mark.slow
def test_pairs_are_no_self_cot_rows_of_a_selector(finished, tmp_path):
    from selftrain.scaling.select_sft import cot_rows

    assert cot_rows(finished) == []
    first = tmp_path / "iter1/build"
    first.parent.mkdir()
    first.symlink_to(finished / "iter1/build")
    assert cot_rows(tmp_path)


@pytest.mark.slow
def test_the_export_of_rows_refuses_pairs(data, finished, tmp_path):
    """It has no column for the rejected text."""
    found = SimpleNamespace(run=finished, iteration=2, config=rehearsal(data, tmp_path / "run"))
    with pytest.raises(DataError, match="iteration 2 was trained on preference pairs"):
        write_rows(found, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()
