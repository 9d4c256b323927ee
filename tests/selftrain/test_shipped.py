"""Configurations and the tiny model are found from any working directory, and stored as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selftrain import shipped
from selftrain.cli.main import main
from selftrain.config import Config, ConfigError, load_config
from selftrain.scaling.grid import load_scale_config

ROOT = Path(__file__).parents[2]
MODEL = Path("models/tiny-qwen2vl")


@pytest.fixture(params=["checkout", "wheel"])
def root(request, tmp_path, monkeypatch) -> Path:
    """Where things ship, for a process whose working directory is empty."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    if request.param == "wheel":
        (tmp_path / "shipped").mkdir()
        for folder in ("configs", "models"):
            (tmp_path / "shipped" / folder).symlink_to(ROOT / folder)
        monkeypatch.setattr(shipped, "ROOT", tmp_path / "shipped")
    assert shipped.ROOT.name == ("shipped" if request.param == "wheel" else ROOT.name)
    return shipped.ROOT


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("models/tiny-qwen2vl", True),
        ("configs/llamafactory/tiny_lora.yaml", True),
        ("configs/none.yaml", False),
        ("models/none", False),
        (f"models/{'x' * 300}", False),
        ("selftrain/config/sections.py", False),
        ("/models/tiny-qwen2vl", False),
        ("../configs/demo.yaml", False),
        ("", False),
    ],
)
def test_find(root, path, found):
    assert shipped.find(Path(path)) == (root / path if found else Path(path))
    assert shipped.portable_name(shipped.find(Path(path))) == str(Path(path))


def test_a_file_of_the_working_directory_wins(root):
    MODEL.mkdir(parents=True)
    assert shipped.find(MODEL) == MODEL
    assert shipped.portable_name(root / MODEL) == str(root / MODEL), "the shipped one has no other name now"
    Path("configs").mkdir()
    Path("configs/demo.yaml").write_text("seed: 77\n")
    assert load_config(Path("demo")).seed == 77
    Path("demo").write_text("seed: 78\n")
    assert load_config(Path("demo")).seed == 78


def test_configs_by_path_and_by_name(root):
    assert load_config(Path("demo")) == load_config(Path("configs/demo.yaml"))
    assert load_config(Path("demo_star")).name == "demo-star", "extends: is followed from the shipped file"
    assert load_scale_config(Path("configs/scale/qwen2vl_7b.yaml"), [], False) != load_scale_config(None, [], False)
    with pytest.raises(ConfigError, match=r"there is no configuration file .*/none"):
        load_config(Path("none"))


def test_settings_do_not_depend_on_where_the_package_is(root, monkeypatch):
    config = Config()
    assert config.model.path == root / MODEL
    assert config.training.hyperparameters.is_file()
    elsewhere = json.loads(config.model_dump_json()), config.digest()
    monkeypatch.chdir(ROOT)
    config = Config()
    assert config.model.path == MODEL
    assert elsewhere == (json.loads(config.model_dump_json()), config.digest())


@pytest.mark.slow
def test_a_dry_run_in_an_empty_folder(root, capsys):
    assert main(["run", "--config", "demo", "--dry-run"]) == 0
    assert "path: models/tiny-qwen2vl" in capsys.readouterr().out
