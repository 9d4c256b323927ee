"""A continuous training: one schedule and one optimizer over all intervals, each of which resumes when it is killed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from selftrain.config import load_config
from selftrain.files import RunError
from selftrain.training import llamafactory
from selftrain.training.continuous import Interval, check_state, keep_state, start_folder, state_digests, steps_of
from selftrain.training.dry_run import training_plan
from selftrain.training.hyperparameters import HyperparameterError, TrainingError, TrainingSettings
from selftrain.training.llamafactory import train
from selftrain.training.open_turns import SCHEDULE
from tests.selftrain.training.test_checkpoints import save_checkpoint
from tests.selftrain.training.test_llamafactory import (
    CONFIGS,
    LIMITS,
    rows,
    save_adapter,
    store,  # a fixture  # noqa: F401
)

ROOT = CONFIGS.parents[1]

REFUSED = {
    "no steps": ({}, "each needs a number of steps, but max_steps is None; set training.overrides.max_steps"),
    "epochs": ({"max_steps": -1, "num_train_epochs": 3}, "max_steps is -1"),
    "a share": ({"max_steps": 0.5}, "max_steps is 0.5"),
    "FSDP": ({"max_steps": 5, "fsdp": "full_shard"}, "continuous cannot be used with fsdp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    hyperparameters, message = REFUSED[case]
    with pytest.raises(HyperparameterError, match=message):
        steps_of(hyperparameters)


def test_the_plan_of_a_run_names_the_whole_schedule():
    words = ["training.restart=continuous", "iters=4"]
    with pytest.raises(HyperparameterError, match="max_steps is None"):
        training_plan(load_config(None, words))
    plan = training_plan(load_config(None, [*words, "training.overrides={max_steps: 25}"]))
    assert "one schedule of 100 steps = 4 iterations x 25; the state of the optimizer goes on" in plan[2]
    assert f"{SCHEDULE}=100 " in plan[3]
    assert plan[3].endswith("open_turns.py train train.yaml")


def checkpoint(folder: Path) -> Path:
    path = save_checkpoint(folder, 10)
    state = {"global_step": 10, "max_steps": 10, "train_batch_size": 4, "stateful_callbacks": {"A": 1}, "epoch": 2.5}
    (path / "trainer_state.json").write_text(json.dumps({**state, "log_history": [{"step": 10}], "save_steps": 3}))
    return path


def test_what_an_interval_keeps_and_how_the_next_one_starts(tmp_path):
    recorded = keep_state(checkpoint(tmp_path), tmp_path / "state")
    assert {*recorded} == {"optimizer.pt", "scheduler.pt", "trainer_state.json"}  # no weights, no random states
    check_state(tmp_path / "state", recorded)
    adapter = save_adapter(tmp_path / "adapter", [2.0])
    resolved = {"max_steps": 10, "logging_steps": 0.25, "save_steps": 7}
    start = start_folder(tmp_path / "state", adapter, tmp_path / "work/start", resolved)
    assert (start / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    assert (start / "optimizer.pt").read_bytes() == (tmp_path / "checkpoint-10/optimizer.pt").read_bytes()
    state = json.loads((start / "trainer_state.json").read_text())
    expected = {"global_step": 0, "train_batch_size": 4, "stateful_callbacks": {"A": 1}}
    assert state == expected | {"logging_steps": 3, "save_steps": 7}


@pytest.mark.parametrize("deepspeed", [False, True])
def test_a_spoilt_state_is_named(tmp_path, deepspeed):
    path = save_checkpoint(tmp_path, 10, 2, deepspeed)
    checkpoint_state = {"train_batch_size": 4, "stateful_callbacks": {}}
    (path / "trainer_state.json").write_text(json.dumps(checkpoint_state))
    recorded = keep_state(path, tmp_path / "state")
    lost = "global_step10/zero_pp_rank_1_mp_rank_00_optim_states.pt" if deepspeed else "optimizer.pt"
    assert lost in recorded
    (tmp_path / "state" / lost).write_bytes(b"")
    with pytest.raises(RunError, match=f"{lost} is not what the training wrote"):
        check_state(tmp_path / "state", recorded)
    (tmp_path / "state" / lost).unlink()
    with pytest.raises(RunError, match=f"{lost} is missing; restore it from a copy, or choose another --output"):
        check_state(tmp_path / "state", recorded)
    with pytest.raises(RunError, match="was trained without keeping its optimizer state"):
        check_state(tmp_path / "state", None)


def test_a_training_that_leaves_no_last_checkpoint_is_an_error(tmp_path):
    save_checkpoint(tmp_path / "kept", 9)
    with pytest.raises(TrainingError, match="left no checkpoint of its last step"):
        llamafactory.keep_last_state(tmp_path / "kept", 1, tmp_path / "state", tmp_path / "train.log")


# --- with the real LLaMA-Factory ----------------------------------------------------------------------------------

STEPS, INTERVALS, PEAK = 4, 3, 2.0e-3
OVERRIDES = {
    **{"global_batch_size": 8, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1, "max_steps": STEPS},
    **{"learning_rate": PEAK, "lr_scheduler_type": "cosine", "warmup_steps": 0.25},
}


def interval(k: int, out: Path, tiny: Path, pictures, save_steps: int | None, kill: bool = False):
    """Train interval k (from 1) into out/k, with checkpoints in out/kept-k if they are kept."""
    settings = TrainingSettings(
        hyperparameters=CONFIGS / "tiny_lora.yaml", overrides=OVERRIDES, per_device_batch=4, save_steps=save_steps,
        seed=k,
    )  # fmt: skip
    before = out / str(k - 1)

    def interrupt(line: dict) -> None:
        if kill and line["current_steps"] == 3:
            raise KeyboardInterrupt

    return train(
        rows(24), settings=settings, base_model=tiny, image_path=pictures.path, image_limits=LIMITS, out=out / str(k),
        start=before / "adapter" if k > 1 else None, checkpoints=out / f"kept-{k}" if save_steps else None,
        interval=Interval(INTERVALS, before / "state" if k > 1 else None, kept=k < INTERVALS), on_progress=interrupt,
    )  # fmt: skip


def rate(step: int) -> float:
    """Of the whole schedule, in the optimizer's step `step` from 0: a linear warm-up over a quarter, then a cosine."""
    total = STEPS * INTERVALS
    warm = math.ceil(0.25 * total)
    if step < warm:
        return PEAK * step / warm
    return PEAK * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


@pytest.mark.slow
def test_one_schedule_and_one_optimizer_and_a_killed_interval(tiny_model_path, store, tmp_path):  # noqa: F811
    import torch

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for k in (1, 2):  # of three
        result = interval(k, whole, tiny_model_path, store, None)
        assert result.steps == STEPS
        log = [json.loads(line) for line in (result.weights / "trainer_log.jsonl").open()]
        found = [line["lr"] for line in log if "lr" in line]
        assert found == pytest.approx([rate((k - 1) * STEPS + step) for step in range(STEPS)], abs=1e-12)
        assert [line["total_steps"] for line in log] == [STEPS] * len(log)
        optimizer = torch.load(whole / f"{k}/state/optimizer.pt", weights_only=True)
        assert {float(state["step"]) for state in optimizer["state"].values()} == {k * STEPS}
        size = sum(path.stat().st_size for path in (whole / f"{k}/state").iterdir())
        assert size < 3 * (result.weights / "adapter_model.safetensors").stat().st_size
        assert not (whole / f"{k}/start").exists()
        assert not list((whole / str(k)).rglob("checkpoint-*"))
    # Killed in the second interval, after a checkpoint: as if left alone. The first was not, but keeps checkpoints.
    shutil.copytree(whole / "1", killed / "1")
    with pytest.raises(KeyboardInterrupt):
        interval(2, killed, tiny_model_path, store, 2, kill=True)
    shutil.rmtree(killed / "2")
    result = interval(2, killed, tiny_model_path, store, 2)
    resumed = yaml.safe_load((killed / "2/train.yaml").read_text())["resume_from_checkpoint"]
    assert Path(resumed) == killed / "kept-2/checkpoint-2"
    for name in ("adapter/adapter_model.safetensors", "state/optimizer.pt", "state/scheduler.pt"):
        assert (killed / "2" / name).read_bytes() == (whole / "2" / name).read_bytes()
    assert result.state == state_digests(whole / "2/state")


@pytest.mark.slow
def test_all_weights_go_on_with_their_optimizer(tiny_model_path, store, tmp_path):  # noqa: F811
    """Two intervals of a full fine-tuning: the second starts from the first one's weights and moments."""
    import torch

    overrides = {"global_batch_size": 8, "max_steps": 2, "learning_rate": PEAK, "lr_scheduler_type": "constant"}
    for k, restart in ((1, False), (2, False), (2, True)):
        out, before = tmp_path / f"{k}{'-new' * restart}", tmp_path / "1"
        settings = TrainingSettings(
            hyperparameters=CONFIGS / "tiny_full.yaml", overrides=overrides, per_device_batch=4, seed=k,
            finetuning_type="full",
        )  # fmt: skip
        kept = Interval(3, before / "state" if k > 1 else None, kept=True)
        result = train(
            rows(16), settings=settings, base_model=tiny_model_path, image_path=store.path, image_limits=LIMITS,
            out=out, start=before / "weights" if k > 1 else None, interval=None if restart else kept,
        )  # fmt: skip
        assert result.steps == 2
        assert (out / "weights/model.safetensors").is_file()
        assert (result.state is None) is restart
    optimizer = torch.load(tmp_path / "2/state/optimizer.pt", weights_only=True)
    assert {float(state["step"]) for state in optimizer["state"].values()} == {4.0}
    continued, anew = (tmp_path / name / "weights/model.safetensors" for name in ("2", "2-new"))
    assert continued.read_bytes() != anew.read_bytes()  # of the same rows and weights, with another optimizer
