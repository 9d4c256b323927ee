"""The dtype of a training: what is chosen, kept by a run, and given to LLaMA-Factory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_process.schema import DataError
from data_process.sources import minigeo
from selftrain.config import Config, load_config
from selftrain.environment import Device
from selftrain.files import RunError
from selftrain.runs.run_dir import RunDir
from selftrain.training import hyperparameters, precision
from selftrain.training.hyperparameters import TrainingSettings
from selftrain.training.precision import link_base, settle, stored_dtype, unlink_base

ROOT = Path(__file__).parents[3]
TINY = ROOT / "configs/llamafactory/tiny_lora.yaml"
OLD_CPU, NEW_CPU = Device("CPU", False), Device("CPU", True)
OLD_GPU, NEW_GPU = Device("GPU", False), Device("GPU", True)


FULL = ("training.finetuning_type=full", "training.hyperparameters=configs/llamafactory/tiny_full.yaml")


def base(folder: Path, **config) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", **config}))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The settings of a run of a base with this dtype, on a machine with this device."""

    def make(stored: str | None, device: Device | None, *words: str) -> Config:
        def machine(interpreter: Path, *, use_cpu: bool) -> Device:
            assert device is not None, "the machine is asked although it does not matter"
            return NEW_CPU if use_cpu else device

        monkeypatch.setattr(precision, "training_device", machine)
        model = tmp_path / f"base-{stored}"
        if not model.exists():
            base(model, **{"dtype": stored} if stored else {})
        return load_config(None, [f"model.path={model}", f"output={tmp_path / 'run'}", *words])

    return make


@pytest.mark.parametrize(
    ("stored", "device", "words", "dtype", "text"),
    [
        ("bfloat16", OLD_CPU, (), "float32", "training in float32: this CPU has no bf16 kernels"),
        ("bfloat16", NEW_CPU, (), "base", "training in bfloat16: this CPU has bf16 kernels"),
        ("bfloat16", OLD_GPU, (), "float32", "training in float32: this GPU has no bf16 kernels"),
        ("bfloat16", NEW_GPU, (), "base", "training in bfloat16: this GPU has bf16 kernels"),
        ("float16", NEW_CPU, (), "float32", "training in float32: this CPU has no fp16 kernels"),
        ("float16", OLD_GPU, (), "base", "training in float16: this GPU has fp16 kernels"),
        ("float32", None, (), "base", "training in float32: as the base is stored"),
        (None, OLD_CPU, (), "float32", "training in float32: this CPU has no bf16 kernels"),
        (None, NEW_GPU, (), "base", "training in the base's own dtype: this GPU has bf16 kernels"),
        ("float32", OLD_CPU, ("training.overrides={bf16: true}",), "float32", "has no bf16 kernels"),
        ("bfloat16", OLD_GPU, ("training.overrides={use_cpu: true}",), "base", "this CPU has bf16 kernels"),
        ("bfloat16", None, ("training.dtype=float32",), "float32", "training.dtype is float32"),
        ("bfloat16", None, ("training.dtype=base",), "base", "training in bfloat16: training.dtype is base"),
        ("float32", None, ("training.dtype=bfloat16",), "bfloat16", "training.dtype is bfloat16"),
        ("bfloat16", None, ("training.launcher=[srun]",), "base", "because training.launcher starts it elsewhere"),
        ("bfloat16", None, FULL, "float32", "full fine-tuning without mixed precision"),
        ("bfloat16", NEW_CPU, (*FULL, "training.overrides={bf16: true}"), "base", "this CPU has bf16 kernels"),
    ],
)
def test_what_is_chosen(run, stored, device, words, dtype, text):
    config, chosen = settle(run(stored, device, *words))
    assert config.training.dtype == chosen.dtype == dtype
    assert text in str(chosen)


def claim(config: Config) -> None:
    with RunDir(config.output) as folder:
        inputs = {"training_dtype": config.training.dtype} if config.training.dtype != "base" else {}
        folder.claim(config.identity(), inputs)


@pytest.mark.parametrize(
    ("first", "second", "dtype", "text"),
    [
        (OLD_CPU, OLD_CPU, "float32", "training in float32: this CPU has no bf16 kernels"),
        (OLD_CPU, NEW_CPU, "float32", "training in float32: the run started with it (this CPU has bf16 kernels)"),
        (NEW_CPU, OLD_CPU, "base", "training in bfloat16: the run started with it (this CPU has no bf16 kernels)"),
    ],
)
def test_a_run_keeps_its_dtype_on_another_machine(run, first, second, dtype, text):
    claim(settle(run("bfloat16", first))[0])
    config, kept = settle(run("bfloat16", second))
    assert (config.training.dtype, str(kept)) == (dtype, text)
    claim(config)


def test_another_dtype_than_the_runs_is_refused(run):
    claim(settle(run("bfloat16", OLD_CPU))[0])
    config, _ = settle(run("bfloat16", OLD_CPU, "training.dtype=bfloat16"))
    with pytest.raises(RunError, match=r"inputs\.training_dtype: 'float32' -> 'bfloat16'"):
        claim(config)


def test_a_dtype_is_decided_before_a_training():
    with pytest.raises(ValueError, match=r"dtype\s+Input should be 'base', 'float32' or 'bfloat16'"):
        TrainingSettings(hyperparameters=TINY, dtype="auto")


def test_float32_turns_mixed_precision_off(tmp_path):
    values = {"global_batch_size": 32, "bf16": True}
    for dtype, bf16 in (("float32", False), ("base", True), ("bfloat16", True)):
        settings = TrainingSettings(hyperparameters=TINY, dtype=dtype)
        assert hyperparameters.resolve(values, settings, tmp_path, tmp_path, 9, (1, 2))["bf16"] is bf16


def test_links_stand_for_the_base_and_go_again(tmp_path):
    model = base(tmp_path / "base", torch_dtype="bfloat16", text_config={"dtype": "bfloat16", "hidden_size": 8})
    (model / "model.safetensors").write_bytes(b"weights")
    folder = link_base(model, "float32", tmp_path / "linked")
    assert json.loads((folder / "config.json").read_text()) == {
        "model_type": "qwen2_vl",
        "torch_dtype": "float32",
        "dtype": "float32",
        "text_config": {"dtype": "float32", "hidden_size": 8},
    }
    assert (folder / "model.safetensors").is_symlink()
    assert (stored_dtype(folder), stored_dtype(model)) == ("float32", "bfloat16")
    adapter = base(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": str(folder)}))
    unlink_base(folder, model, adapter)
    assert not folder.exists()
    assert (model / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((adapter / "adapter_config.json").read_text()) == {"r": 4, "base_model_name_or_path": str(model)}


def test_a_damaged_config_is_named(tmp_path):
    (base(tmp_path / "base") / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"base/config.json: not complete JSON.*copy the checkpoint again"):
        stored_dtype(tmp_path / "base")


@pytest.mark.slow
def test_a_cpu_without_bf16_kernels_trains_in_float32(tmp_path):
    """A whole small run, restricted to AVX2: the plan, the progress, the adapter and the resumed run agree."""
    minigeo.write(tmp_path / "data", {"train": 40, "dev": 4, "test": 4}, seed=0)
    words = [f"data.folder={tmp_path / 'data'}", f"bank={tmp_path / 'bank.sqlite'}", "data.leakage=ignore"]
    words += ["training.overrides={max_steps: 3}", "evaluation.test=none"]
    command = [sys.executable, "run.py", "--config", "configs/smoke.yaml", "--iters", "1"]
    command += ["--output", str(tmp_path / "run"), *(part for word in words for part in ("--set", word))]

    def go(**variables: str) -> str:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    said = go(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2")
    assert "training in float32: this CPU has no bf16 kernels" in said
    stage = tmp_path / "run/iter1/train"
    assert yaml.safe_load((stage / "work/train.yaml").read_text())["model_name_or_path"].endswith("/base-float32")
    assert "dtype=torch.float32 as defined in model's config" in (stage / "work/train.log").read_text()
    adapter = json.loads((stage / "adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(ROOT / "models/tiny-qwen2vl")
    assert not (stage / "work/base-float32").exists()
    assert json.loads((tmp_path / "run/identity.json").read_text())["inputs"]["training_dtype"] == "float32"
    assert "training in float32: " in go()
