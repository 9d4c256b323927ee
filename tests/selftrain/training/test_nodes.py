"""The real LLaMA-Factory over several processes and several "nodes" of this machine: the same training as with one."""

from __future__ import annotations

import json
import shutil

import pytest

from selftrain.training import llamafactory
from selftrain.training.adapter import WEIGHTS, read_tensors
from selftrain.training.hyperparameters import TrainingSettings
from selftrain.training.llamafactory import train
from tests.selftrain.training import fake_slurm
from tests.selftrain.training.test_llamafactory import (
    CONFIGS,
    LIMITS,
    rows,
    store,  # a fixture  # noqa: F401
)

SHARDED = CONFIGS / "zero2.json", CONFIGS / "zero3.json"
OVERRIDES = {"global_batch_size": 8, "num_train_epochs": 1, "lora_rank": 4, "lora_alpha": 8}

PLACES = {
    "one machine": {"processes": 2},
    "two nodes": {"nodes": 2, "launcher": ("srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1")},
}


def losses(adapter) -> list[float]:
    entries = json.loads((adapter / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.slow
def test_processes_and_nodes_train_the_same(tiny_model_path, store, tmp_path, monkeypatch):  # noqa: F811
    fake_slurm.install(tmp_path / "bin", monkeypatch)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node0,node1")
    shared = {"base_model": tiny_model_path, "image_path": store.path, "image_limits": LIMITS}

    def trained(name: str, per_device: int, **place):
        settings = TrainingSettings(
            hyperparameters=CONFIGS / "tiny_lora.yaml",
            overrides=OVERRIDES,
            per_device_batch=per_device,
            save_steps=2,
            **place,
        )
        return train(rows(32), settings=settings, out=tmp_path / name, **shared)

    alone = trained("alone", 4)
    expected = read_tensors(alone.weights / WEIGHTS)
    for name, place in PLACES.items():
        found = trained(name.replace(" ", "-"), 4, **place)
        assert found.resolved["gradient_accumulation_steps"] == 1
        assert found.steps == alone.steps == 4
        assert losses(found.weights) == pytest.approx(losses(alone.weights), rel=1e-3)
        tensors = read_tensors(found.weights / WEIGHTS)
        assert tensors.keys() == expected.keys()
        scale = max(abs(values).max() for values in expected.values())
        for tensor, values in expected.items():
            assert abs(tensors[tensor] - values).max() < 0.02 * scale, (name, tensor)
    # The same two ranks, wherever they are, give the same bytes.
    one, two = ((tmp_path / name / "adapter" / WEIGHTS).read_bytes() for name in ("one-machine", "two-nodes"))
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [None, *SHARDED], ids=lambda path: path.stem if path else "plain")
def test_several_processes_go_on_with_an_interrupted_training(tiny_model_path, store, tmp_path, monkeypatch, deepspeed):  # noqa: F811
    """From a checkpoint in the middle, with dropout: the adapter is the same, byte for byte."""
    if deepspeed:
        pytest.importorskip("deepspeed")
    resolve = llamafactory.resolve  # all checkpoints are kept, so that one from the middle is there afterwards
    monkeypatch.setattr(
        llamafactory, "resolve", lambda *words, **names: resolve(*words, **names) | {"save_total_limit": 9}
    )
    settings = TrainingSettings(
        hyperparameters=CONFIGS / "tiny_lora.yaml",
        overrides=OVERRIDES
        | {"lora_dropout": 0.1}
        | ({"deepspeed": str(deepspeed)} if deepspeed else {"use_cpu": True}),
        per_device_batch=4,
        processes=2,
        save_steps=2,
        environment={"DS_ACCELERATOR": "cpu"},
    )
    work, kept, said = tmp_path / "work", tmp_path / "kept", []
    shared = {"settings": settings, "base_model": tiny_model_path, "image_path": store.path, "image_limits": LIMITS}
    whole = train(rows(32), out=work, checkpoints=kept, **shared)
    expected = (whole.weights / WEIGHTS).read_bytes()
    assert {path.name for path in kept.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    shutil.rmtree(kept / "checkpoint-4")
    shutil.rmtree(work)
    again = train(rows(32), out=work, checkpoints=kept, say=said.append, **shared)
    assert said == ["  resuming the interrupted training after step 2 of 4"]
    assert again.steps == whole.steps == 4
    assert again.train_loss == pytest.approx(whole.train_loss, abs=1e-5)
    assert (again.weights / WEIGHTS).read_bytes() == expected
