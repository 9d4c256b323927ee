"""Every configuration at a paper's size: its plan, and a whole loop on small data of the same form, without a model.

The configurations of recipes are rehearsed in test_recipes, those of one training in training/test_given_rows.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from data_process.io import read_jsonl, write_jsonl
from data_process.sources import minigeo
from selftrain import loop
from selftrain.cli import run, train
from selftrain.config import load_config
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.sampling.distill import DistillSettings, distill
from selftrain.training import hyperparameters, precision

ROOT = Path(__file__).parents[2]
QUIET = Progress(quiet=True)
PAPER = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml") if "qwen" in path.stem)
ONCE = [name for name in PAPER if name.startswith(("s1_", "s1m_"))]  # `selftrain train`
LOOPS = [name for name in PAPER if name not in ONCE]
ELSEWHERE = ("mstar_", "rest_", "rft_", "star_")  # test_recipes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 24, "dev": 6, "test": 6}, seed=0)
    return folder


@pytest.fixture(scope="module")
def asked_once():
    """What another interpreter says is asked once for all plans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyperparameters, "known_fields", functools.cache(hyperparameters.known_fields))
        patch.setattr(precision, "training_device", functools.cache(precision.training_device))
        yield


def test_the_table_has_every_kind_of_paper():
    assert len(ONCE) >= 3
    assert {"r3v_original_qwen2vl_7b", "star_qwen2vl_7b_full", "mstar_qwen2vl_7b", "geoqa_qwen3vl_8b"} <= {*LOOPS}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_a_dry_run(name, asked_once, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = run.plan(load_config(ROOT / f"configs/{name}.yaml"))
    assert " accumulated" in text
    assert "GPU memory at the most" in text
    assert "may not fit" not in text
    assert "not checked" not in text


@pytest.mark.parametrize("name", ONCE)
def test_a_dry_run_of_one_training(name, asked_once, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "<think>Two.</think>\nAnswer: 2"}]
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}])
    text = train.plan(load_config(ROOT / f"configs/{name}.yaml"), [tmp_path / "rows.jsonl"], tmp_path)
    assert "Train all weights of models/Qwen2" in text
    assert "GPU memory at the most" in text
    assert " accumulated" in text
    assert "may not fit" not in text
    assert "not checked" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LOOPS if not name.startswith(ELSEWHERE)])
def test_a_rehearsal(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])
    own = [f"data.folder={data}", f"output={tmp_path}/run", f"bank={tmp_path}/bank.sqlite", "data.source=jsonl"]
    own += ["engine.kind=scripted", "engine.accuracy=0.6", "data.leakage=ignore", "iters=1"]
    if traced := load_config(ROOT / f"configs/{name}.yaml").traces:
        teacher = load_config(ROOT / "configs/tabmwp_teacher.yaml", [*own, "engine.accuracy=1"])
        distill(teacher, DistillSettings(data / "train.jsonl", tmp_path / "teacher.jsonl"), QUIET)
        own += [f"traces=[{{file: {tmp_path}/teacher.jsonl, kind: cot, weight: {traced[0].weight}}}]"]
    config = load_config(ROOT / f"configs/{name}.yaml", own)
    outcome = run_loop(config, QUIET)
    assert outcome.stopped is None
    rows = read_jsonl(config.output / "iter1/build/examples.jsonl")
    wanted = {kind for kind, weight in config.build.parts if weight and kind in ("qa", "cot")}
    assert wanted <= {row["kind"] for row in rows}
    assert read_json(config.output / "iter1/train/result.json")["rows"] == len(rows)
    assert (config.output / "iter0/train").exists() == bool(config.warmup)
    assert [iteration.evaluation["dev"].n for iteration in outcome.metrics.iterations] == [6] * (
        2 + bool(config.warmup)
    )
    assert sum(row["id"].startswith("outside/") for row in rows) > 0 or not traced
