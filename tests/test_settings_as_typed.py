"""Settings as people type them, what explains them, and what a dry run says before anything is sampled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_process.sources import minigeo
from selftrain import doctor
from selftrain.cli.main import build_parser, main
from selftrain.cli.run import run_main
from selftrain.config import ConfigError, load_config
from selftrain.config.layers import ALIASES, HYPERPARAMETERS, canonical_key
from selftrain.doctor import not_ready
from selftrain.explain import explain
from selftrain.training.hyperparameters import documented_fields

ROOT = Path(__file__).parents[1]
HUB = "some-owner/Some-Model-2B"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


LINES = {
    "alone": (["sampling.n=4"], ["sampling.n=4"]),
    "between options": (["sampling.n=4", "--iters", "2", "lr=1e-4"], ["sampling.n=4", "lr=1e-4"]),
    "after --set": (["--set", "seed=1", "n=4", "--quiet"], ["seed=1", "n=4"]),
    "with equals in the value": (["name=a=b"], ["name=a=b"]),
    "--model": (["--model", "models/x", "n=4"], ["n=4", 'model.path="models/x"']),
}


@pytest.mark.parametrize("name", LINES)
def test_settings_anywhere_on_the_line(name):
    words, expected = LINES[name]
    assert build_parser().parse_args(["run", *words]).set == expected


@pytest.mark.parametrize(
    "words", [["run", "sampling"], ["run", "-x"], ["report", "outputs/demo", "n=4"], ["run", "=4"]]
)
def test_what_is_no_setting_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(words)
    assert "unrecognized arguments" in capsys.readouterr().err


def test_short_names_are_settings():
    """Every alias is a key that the configuration, or LLaMA-Factory, knows; numbers keep their value."""
    known = {*documented_fields(Path(sys.executable)), "global_batch_size"}
    assert set(HYPERPARAMETERS) <= known
    for name in ALIASES:
        *above, key = canonical_key([name])
        assert key in known if above == ["training", "overrides"] else explain(load_config(), name).key.endswith(key)
    config = load_config(None, ["lr=1e-4", "training.num_train_epochs=2", "n=7", "temperature=5e-1", "lora_rank=4"])
    assert config.training.overrides == {"learning_rate": 1e-4, "num_train_epochs": 2, "lora_rank": 4}
    assert (config.sampling.n, config.sampling.temperature) == (7, 0.5)
    assert load_config(None, ["training.overrides.learning_rate=1e-4"]).training.overrides == {"learning_rate": 1e-4}
    with pytest.raises(ConfigError, match=r"unknown key 'training\.learning_rat'"):
        load_config(None, ["training.learning_rat=1"])


EXPLAINED = {
    "sampling.n": ("candidates per problem", "whole number >= 1", 3, 5),
    "temperature": ("of the softmax", "float > 0", 0.9, 0.9),
    "data.leakage": (
        "Training problems that stand in dev or test",
        "Literal['error', 'drop', 'ignore']",
        "error",
        "error",
    ),
    "engine.batch_size": ("completions decoded together", "whole number >= 1", 192, 192),
    "lr": ("learning rate", "float", None, 0.002),
    "batch_size": ("Rows of one optimizer step", "int", None, 32),
}


@pytest.mark.parametrize("key", EXPLAINED)
def test_a_setting_is_explained(key):
    meaning, kind, default, value = EXPLAINED[key]
    found = explain(load_config(ROOT / "configs/demo.yaml"), key)
    assert meaning in found.meaning
    assert (found.type, found.default) == (kind, default)
    if key != "batch_size":
        assert found.value == value
    assert isinstance(found.value, type(value))


@pytest.mark.slow
def test_every_setting_has_a_meaning():
    config = load_config()

    def look(key: str) -> int:
        found = explain(config, key)
        assert found.meaning, key
        return 1 + sum(map(look, found.inside))

    assert sum(map(look, type(config).model_fields)) > 100


@pytest.mark.slow
def test_the_command_config(capsys):
    assert main(["config", "n=9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampling"]["n"] == 9
    assert main(["config", "--explain", "sampling"]) == 0
    out = capsys.readouterr().out
    assert "How candidates for training are drawn" in out
    assert "    sampling.n: candidates per problem\n" in out
    assert main(["config", "--explain", "sampling.nn"]) == 2
    assert "did you mean 'sampling.n'?" in capsys.readouterr().err
    assert main(["config", "--explain", "training.overrides.learning_rates"]) == 2
    assert "did you mean learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "select-data" in script
    assert "--dry-run" in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_hub_id_is_told_by_the_dry_run_and_refused_by_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    words = ["--config", "configs/demo.yaml", "--model", HUB, "--output", str(tmp_path / "run")]
    assert run_main([*words, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert f"# Evaluate {HUB} on dev." in told.out
    assert f"not ready: model: {HUB} is neither a checkpoint folder here nor in the Hugging Face cache" in told.err
    assert f"`hf download {HUB} --local-dir models/Some-Model-2B`" in told.err
    assert run_main(words) == 2
    assert "this run would fail, so it was not started" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_hub_id_in_the_cache_is_its_folder(tmp_path, monkeypatch, capsys):
    folder = ROOT / "models/tiny-qwen2vl"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(folder / file))
    assert load_config(None, [f"model.path={HUB}"]).model.path == folder
    assert f"note: model.path {HUB} is {folder}" in capsys.readouterr().err
    assert not [line for line in not_ready(load_config(None, [f"model.path={HUB}"])) if line.startswith("model")]
    assert str(load_config(None, ["engine.kind=scripted", f"model.path={HUB}"]).model.path) == HUB


@pytest.mark.slow
def test_trackers_are_checked_before_the_start(monkeypatch):
    monkeypatch.setenv("NETRC", "/nowhere")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    [absent] = not_ready(load_config(None, ["training.overrides.report_to=no_such_tracker"]))
    assert absent.startswith("tracker no_such_tracker: ")
    assert "`uv pip install no_such_tracker` there" in absent
    with pytest.raises(ConfigError, match=r"report_to.*'tensorboard', 'wandb' or 'trackio'"):
        load_config(None, ["report_to=no_such_tracker"])
    for setting in ("report_to=none", "training.report_to=none", "training.report_to=[none]"):
        assert not_ready(load_config(None, [setting])) == []
    there = {"wandb": "ok", "tensorboard": "fail"}
    monkeypatch.setattr(
        doctor, "_installed", lambda need: doctor.Finding(there.get(need.packages[0], "ok"), need.name, "here", "do")
    )
    for engine in ("hf", "scripted"):  # the loop sends its results without a trainer too
        given = [f"engine.kind={engine}", "report_to=[wandb,tensorboard]"]
        wandb, tensorboard = not_ready(load_config(None, given))
        assert "it has no key, and would ask for one" in wandb
        assert tensorboard == "tracker tensorboard: here; do"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not_ready(load_config(None, ["training.report_to=wandb"])) == []


@pytest.mark.slow  # asks torch which precision a training would have
def test_dry_runs_of_scale_and_select_data(tmp_path, capsys):
    """They say what is there, and leave nothing: no samples, no folder, no reading of test."""
    data, run = tmp_path / "data", tmp_path / "run"
    minigeo.write(data, {"train": 12, "dev": 6, "test": 6}, seed=0)
    given = ["--config", "rehearsal", f"data.folder={data}", f"bank={tmp_path / 'bank.sqlite'}", "iters=1", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selftrain.loop.write_run_report", lambda path: [])
        patch.setattr("selftrain.cli.run.show", lambda *_: None)
        assert run_main([*given, "--output", str(run)]) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["scale", "--run", str(run), "--quick", "--dry-run", "sizes=[1,3]"]) == 0
    out = capsys.readouterr().out
    assert f"# Results folder {run}/scale-quick." in out
    assert f"6 problems of {data}/dev.jsonl, 6 problems of {data}/test.jsonl" in out
    assert "; vote@3; " in out
    assert "; vote@5; " not in out
    assert main(["scale", "--run", str(run), "--weights", "iter7", "--dry-run"]) == 2
    assert main(["select-data", "--run", str(run), "--dry-run"]) == 2
    assert "there is nothing to train" in capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    config["engine"] = {"kind": "hf"}
    (run / "config.json").write_text(json.dumps(config))
    before[run / "config.json"] = (run / "config.json").stat().st_mtime_ns
    assert main(["select-data", "--run", str(run), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"36 candidates of {run}" in out
    assert "train train.yaml" in out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
