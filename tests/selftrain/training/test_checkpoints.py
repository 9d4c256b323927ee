"""Which checkpoint an interrupted training goes on from: the newest whole one of the same training, or none."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from selftrain.training.checkpoints import (
    ATTEMPT,
    LOCK,
    PROGRESS,
    corruption_reason,
    holding,
    newest_whole,
    resume_point,
)
from selftrain.training.hyperparameters import TrainingError
from selftrain.training.llamafactory import mean_loss
from tests.selftrain.training.test_llamafactory import save_adapter

ATTEMPTED = {"settings": {"learning_rate": 0.001, "seed": 3}, "ranks": 1, "rows": "abc", "start": None}


def archive(path: Path) -> None:
    """A file as torch.save writes them: a zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", bytes(range(256)) * 8)


def save_checkpoint(folder: Path, step: int, ranks: int = 1, deepspeed: bool = False) -> Path:
    path = save_adapter(folder / f"checkpoint-{step}", [0.5, 1.0])
    names = ["scheduler.pt", "training_args.bin"]
    names += ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    if deepspeed:
        names += [f"global_step{step}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)]
        (path / "latest").write_text(f"global_step{step}")
    else:
        names.append("optimizer.pt")
    for name in names:
        archive(path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 10, "log_history": []}))
    return path


@pytest.mark.parametrize(("ranks", "deepspeed"), [(1, False), (4, False), (4, True)])
def test_a_whole_checkpoint(tmp_path, ranks, deepspeed):
    assert corruption_reason(save_checkpoint(tmp_path, 6, ranks, deepspeed), ranks) is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[200] ^= 255
    path.write_bytes(raw)


TORN = {
    "no state": (1, False, lambda path: (path / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    "half a state": (1, False, lambda path: cut(path / "trainer_state.json"), "trainer_state.json is .*damaged"),
    "another step's": (1, False, lambda path: path.rename(path.with_name("checkpoint-7")), "of another step"),
    "no optimizer": (1, False, lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "half an optimizer": (1, False, lambda path: cut(path / "optimizer.pt"), "optimizer.pt is truncated"),
    "an empty file": (1, False, lambda path: (path / "scheduler.pt").write_bytes(b""), "scheduler.pt is truncated"),
    "a changed byte": (1, False, lambda path: damage(path / "optimizer.pt"), "optimizer.pt is truncated or damaged"),
    "no schedule": (1, False, lambda path: (path / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "no random state": (1, False, lambda path: (path / "rng_state.pth").unlink(), "rng_state.pth is missing"),
    "a slow rank": (3, False, lambda path: (path / "rng_state_2.pth").unlink(), "rng_state_2.pth is missing"),
    "of one process": (3, False, lambda path: (path / "rng_state_0.pth").unlink(), "rng_state_0.pth is missing"),
    "no adapter": (1, False, lambda path: (path / "adapter_model.safetensors").unlink(), "adapter_model"),
    "half an adapter": (1, False, lambda path: cut(path / "adapter_model.safetensors"), "not a whole safetensors"),
    "DeepSpeed": (2, True, lambda path: next(path.glob("*/*rank_1*")).unlink(), "1 of 2 DeepSpeed optimizer files"),
    "DeepSpeed, cut": (2, True, lambda path: cut(next(path.glob("*/*rank_1*"))), "optim_states.pt is truncated"),
    "DeepSpeed, empty": (2, True, lambda path: (path / "latest").write_text(""), "0 of 2 DeepSpeed"),
}


@pytest.mark.parametrize("case", TORN)
def test_a_torn_checkpoint_is_skipped_with_its_reason(tmp_path, case):
    ranks, deepspeed, tear, message = TORN[case]
    older = save_checkpoint(tmp_path, 4, ranks, deepspeed)
    tear(save_checkpoint(tmp_path, 6, ranks, deepspeed))
    said = []
    found = newest_whole(tmp_path, ranks, said.append)
    assert found is not None
    assert (found.path, found.step, found.last) == (older, 4, False)
    assert len(said) == 1
    assert re.search(message, said[0]), said


def test_steps_are_numbers(tmp_path):
    for step in (8, 10, 9):
        save_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-final").mkdir()
    found = newest_whole(tmp_path, 1)
    assert (found.step, found.last) == (10, True)


def interrupted(folder: Path, *steps: int) -> Path:
    """What a training that was killed has left."""
    folder.mkdir()
    (folder / LOCK).touch()
    for step in steps:
        save_checkpoint(folder, step)
    (folder / ATTEMPT).write_text(json.dumps(ATTEMPTED))
    (folder / "README.md").write_text("of a half-written end")
    (folder / PROGRESS).write_text("".join(f'{{"current_steps": {k}, "loss": 1.0}}\n' for k in range(1, 9)) + '{"curr')
    return folder


def test_the_same_training_goes_on(tmp_path):
    folder = interrupted(tmp_path / "kept", 4, 6)
    cut(folder / "checkpoint-6" / "optimizer.pt")
    said = []
    found = resume_point(folder, ATTEMPTED, 1, said.append)
    assert found.step == 4
    assert "checkpoint-6 is not whole" in said[0]
    assert {path.name for path in folder.iterdir()} == {LOCK, ATTEMPT, PROGRESS, "checkpoint-4"}
    steps = [json.loads(line)["current_steps"] for line in (folder / PROGRESS).read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


OTHERS = {
    "rows": ({**ATTEMPTED, "rows": "abd"}, "rows: 'abc' -> 'abd'"),
    "setting": (
        {**ATTEMPTED, "settings": {"learning_rate": 0.002, "seed": 3}},
        "settings.learning_rate: 0.001 -> 0.002",
    ),
    "processes": ({**ATTEMPTED, "ranks": 2}, "ranks: 1 -> 2"),
    "start": ({**ATTEMPTED, "start": "f00"}, "start: None -> 'f00'"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_training_starts_anew_and_says_so(tmp_path, case):
    attempt, message = OTHERS[case]
    folder = interrupted(tmp_path / "kept", 4)
    said = []
    assert resume_point(folder, attempt, 1, said.append) is None
    assert len(said) == 1
    assert message in said[0]
    assert {path.name for path in folder.iterdir()} == {LOCK, ATTEMPT}
    assert json.loads((folder / ATTEMPT).read_text()) == attempt


def test_nothing_whole_and_nothing_at_all(tmp_path):
    folder = interrupted(tmp_path / "kept", 4)
    shutil.rmtree(folder / "checkpoint-4")
    said = []
    assert resume_point(folder, ATTEMPTED, 1, said.append) is None
    assert said == ["  training starts again: the interrupted one left no whole checkpoint"]
    (tmp_path / "new").mkdir()
    assert resume_point(tmp_path / "new", ATTEMPTED, 1, pytest.fail) is None
    # Killed before it was written down whose checkpoints these are: nobody's.
    save_checkpoint(folder, 4)
    (folder / ATTEMPT).write_text('{"settings": {')
    assert resume_point(folder, ATTEMPTED, 1) is None
    assert not (folder / "checkpoint-4").exists()


def test_a_folder_is_held_by_one_training(tmp_path):
    folder = tmp_path / "kept"
    with (
        holding(folder, 0),
        pytest.raises(TrainingError, match="an earlier training still writes into"),
        holding(folder, 0.2),
    ):
        pass
    with holding(folder, 0) as held:
        inherited = os.dup(held)  # as the child's supervisor has it
    with pytest.raises(TrainingError, match="an earlier training"), holding(folder, 0):
        pass
    os.close(inherited)
    with holding(folder, 0):
        pass


@pytest.mark.parametrize(
    ("history", "mean"),
    [
        ([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 4.0}], 3.0),
        ([{"step": 10, "loss": 2.0}, {"step": 15, "loss": 5.0}, {"step": 15, "train_loss": 9.0}], 3.0),
        ([{"step": 5, "eval_loss": 9.0}, {"step": 5, "loss": 1.0}], 1.0),
    ],
)
def test_mean_loss(history, mean):
    assert mean_loss(history) == pytest.approx(mean)


def test_no_loss_is_an_error():
    with pytest.raises(ValueError, match="no loss"):
        mean_loss([{"step": 3, "train_loss": 1.0}])
