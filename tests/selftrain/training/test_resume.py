"""An interrupted training goes on from its last whole checkpoint, and ends as if it had not been interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from data_process.io import write_jsonl
from data_process.schema import to_json
from selftrain.config import Config
from selftrain.files import write_json
from selftrain.progress import Progress
from selftrain.runs.run_dir import RunDir
from selftrain.stages import training as training_stage
from selftrain.training import checkpoints, launcher, llamafactory
from selftrain.training.checkpoints import newest_whole
from selftrain.training.hyperparameters import HyperparameterError, TrainingError, TrainingSettings
from selftrain.training.llamafactory import train
from selftrain.training.row_lengths import PreflightReport
from tests.selftrain.training.test_llamafactory import (
    CONFIGS,
    LIMITS,
    example,
    rows,
    save_adapter,
    store,  # a fixture  # noqa: F401
    wait_for,
)

ROOT = CONFIGS.parents[1]
OVERRIDES = {"global_batch_size": 8, "num_train_epochs": 2, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1}


# --- with a stand-in for LLaMA-Factory ----------------------------------------------------------------------------

# Ten steps with loss 10, 9, ... 1; the adapter's weight is the sum of the losses so far. Ends as DIE says.
STAND_IN = """
    import json, os, shutil, signal, struct, yaml, zipfile
    from pathlib import Path

    def save_adapter(folder, weight):
        header = json.dumps({"x.lora_B.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        folder.mkdir(exist_ok=True)
        data = len(header).to_bytes(8, "little") + header + struct.pack("<f", weight)
        (folder / "adapter_model.safetensors").write_bytes(data)
        (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}))

    def save_checkpoint(folder):
        save_adapter(folder, weight)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            with zipfile.ZipFile(folder / name, "w") as archive:
                archive.writestr("data.pkl", b"state")
        (folder / "trainer_state.json").write_text(json.dumps(state))

    config = yaml.safe_load(Path("train.yaml").read_text())
    Path(os.environ["CALLS"]).open("a").write(f"{config.get('resume_from_checkpoint')}\\n")
    out, die = Path(config["output_dir"]), os.environ.get("DIE", "")
    out.mkdir(exist_ok=True)
    print("Num examples =", Path(config["dataset_dir"], "train.jsonl").read_text().count("\\n"))
    history, done = [], 0
    if "resume_from_checkpoint" in config:
        state = json.loads(Path(config["resume_from_checkpoint"], "trainer_state.json").read_text())
        history, done = state["log_history"], state["global_step"]
    for step in range(done + 1, 11):
        if die == f"at {step}":
            os.kill(os.getpid(), signal.SIGKILL)
        history.append({"step": step, "loss": 11.0 - step})
        with open(out / "trainer_log.jsonl", "a") as log:
            log.write(json.dumps({"current_steps": step, "total_steps": 10}) + "\\n")
        weight = sum(entry["loss"] for entry in history)
        state = {"global_step": step, "max_steps": 10, "log_history": history}
        if step % config["save_steps"] == 0 or step == 10:
            path = out / f"checkpoint-{step}"
            save_checkpoint(path)
            if die == f"while saving {step}":
                (path / "trainer_state.json").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            for old in out.glob("checkpoint-*"):
                if old != path:
                    shutil.rmtree(old)
    if die == "before the end":
        os.kill(os.getpid(), signal.SIGKILL)
    save_adapter(out, float("nan") if die == "with NaN" else weight)
    (out / "trainer_state.json").write_text(json.dumps(state))
    (out / "train_results.json").write_text(json.dumps({"train_loss": sum(range(1, 11 - done)) / 10}))
"""


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """attempt(die, rows): one training of ten steps, a checkpoint every three, into a new folder; (result, said)."""
    script, interpreter = tmp_path / "stand_in.py", tmp_path / "python"
    script.write_text(textwrap.dedent(STAND_IN))
    interpreter.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" "$@"\nexec "{sys.executable}" "{script}" "$@"\n'
    )
    interpreter.chmod(0o755)
    monkeypatch.setattr(llamafactory, "preflight", lambda rows, *_: PreflightReport([100] * len(rows), list(rows), {}))

    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')

    def go(die: str = "", n: int = 3, **changes):
        environment = {"DIE": die, "CALLS": str(tmp_path / "calls")}
        settings = TrainingSettings(
            hyperparameters=CONFIGS / "tiny_lora.yaml",
            interpreter=interpreter,
            environment=environment,
            save_steps=3,
            **changes,
        )
        shutil.rmtree(tmp_path / "work", ignore_errors=True)  # as a half-done stage is
        said, progress = [], []
        result = train(
            [example(i) for i in range(n)],
            settings=settings,
            base_model=tmp_path,
            image_path=Path,
            out=tmp_path / "work",
            image_limits=LIMITS,
            checkpoints=tmp_path / "kept",
            on_progress=lambda line: progress.append(line["current_steps"]),
            say=said.append,
        )
        return result, said, progress

    return go


def calls(folder: Path) -> list[str]:
    """From where each run of LLaMA-Factory set out: the name of a checkpoint, or None."""
    return [Path(line).name for line in (folder / "calls").read_text().split()]


def weight_of(result) -> float:
    from selftrain.training.adapter import WEIGHTS, read_tensors

    return float(read_tensors(result.weights / WEIGHTS)["x.lora_B.weight"][0])


WHOLE = (10, 5.5, 55.0)  # steps, mean loss, weight


DEATHS = {
    # how it died: from where it went on, how many steps were trained then
    "at 2": ("None", 10),
    "at 3": ("None", 10),
    "at 8": ("checkpoint-6", 4),
    "while saving 6": ("checkpoint-3", 7),
    "while saving 10": ("checkpoint-9", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("die", DEATHS)
def test_it_goes_on_from_the_last_whole_checkpoint(attempt, tmp_path, die):
    source, trained = DEATHS[die]
    with pytest.raises(TrainingError, match="ended by signal 9"):
        attempt(die)
    result, said, progress = attempt()
    assert calls(tmp_path) == ["None", source]
    assert (result.steps, result.train_loss, weight_of(result)) == WHOLE
    assert progress == list(range(11 - trained, 11))
    assert ("is not whole" in said[0]) == ("saving" in die)
    assert said[-1].endswith("left no whole checkpoint" if source == "None" else f"after step {10 - trained} of 10")
    log = [json.loads(line)["current_steps"] for line in (result.weights / "trainer_log.jsonl").open()]
    assert log == list(range(1, 11))
    assert not list(result.weights.glob("checkpoint-*"))
    assert [path.name for path in (tmp_path / "kept").glob("checkpoint-*")] == ["checkpoint-10"]


@pytest.mark.slow
def test_a_training_that_fails_when_gone_on_with_says_how_to_start_anew(attempt, tmp_path):
    with pytest.raises(TrainingError) as first:
        attempt("at 5")
    assert "resumed" not in str(first.value)
    with pytest.raises(TrainingError, match=r"had resumed from .*checkpoint-3. If it fails again, remove .*/kept"):
        attempt("at 5")


@pytest.mark.slow
def test_it_can_die_again_and_again(attempt, tmp_path):
    for die in ("at 5", "at 5", "at 8", "while saving 9"):
        with pytest.raises(TrainingError):
            attempt(die)
    result, *_ = attempt()
    assert calls(tmp_path) == ["None", "checkpoint-3", "checkpoint-3", "checkpoint-6", "checkpoint-6"]
    assert (result.steps, result.train_loss, weight_of(result)) == WHOLE


@pytest.mark.slow
def test_nothing_is_trained_after_the_last_step(attempt, tmp_path):
    """Killed after the last checkpoint, or after the end but before the stage was marked as done."""
    with pytest.raises(TrainingError):
        attempt("before the end")
    for _ in range(2):
        result, said, _ = attempt("would die at once if it were started")
        assert (result.steps, result.train_loss, weight_of(result)) == WHOLE
        assert said == ["  resuming the interrupted training after step 10 of 10"]
        assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth"} & {path.name for path in result.weights.iterdir()}
    assert calls(tmp_path) == ["None"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n": 4}, "rows: "),
        pytest.param({"seed": 1}, "settings.data_seed: 0 -> 1", marks=pytest.mark.slow),
        pytest.param({"overrides": {"learning_rate": 0.5}}, "learning_rate: 0.002 -> 0.5", marks=pytest.mark.slow),
    ],
)
def test_another_training_starts_anew(attempt, tmp_path, changes, told):
    with pytest.raises(TrainingError):
        attempt("at 8")
    result, said, _ = attempt(**changes)
    assert calls(tmp_path) == ["None", "None"]
    assert result.steps == 10
    assert len(said) == 1
    assert told in said[0]
    assert said[0].startswith("  training starts again: the interrupted one had other settings or rows (")


@pytest.mark.slow
def test_checkpoints_of_a_bad_adapter_are_not_gone_on_from(attempt, tmp_path):
    with pytest.raises(TrainingError, match="NaN"):
        attempt("with NaN")
    assert not (tmp_path / "kept").exists()
    assert attempt()[0].steps == 10


@pytest.mark.slow
def test_a_training_with_fsdp_cannot_be_resumed(attempt):
    with pytest.raises(HyperparameterError, match="save_steps cannot be used with fsdp"):
        attempt(overrides={"fsdp": "full_shard"})


def test_checkpoints_outlive_a_half_done_stage(tmp_path, monkeypatch):
    """They lie beside the stage while it is not done, and are gone when it is."""
    seen = []

    def tune(config, store, examples, start, out, seed, update, overrides, *, checkpoints, interval, say):  # noqa: F811
        seen.append(sorted(path.name for path in checkpoints.glob("*")))
        checkpoints.mkdir(exist_ok=True)
        (checkpoints / f"checkpoint-{len(seen)}").mkdir()
        if len(seen) == 1:
            raise KeyboardInterrupt
        save_adapter(out / "adapter", [1.0])
        return {"steps": 1}

    monkeypatch.setattr(training_stage, "tune", tune)
    with RunDir(tmp_path / "run") as folder:

        def build(into: Path) -> None:
            write_jsonl(into / "examples.jsonl", [to_json(example(0))])
            write_json(into / "counts.json", {})

        folder.stage("iter1/build", build)
        config = Config(training={"save_steps": 5})
        run = SimpleNamespace(
            config=config,
            folder=folder,
            store=None,
            progress=Progress(quiet=True),
            base=0,
            weights=lambda _: None,
            weights_stage=lambda _: [],
            close_engine=int,
        )
        with pytest.raises(KeyboardInterrupt):
            training_stage.train_stage(run, 1)
        assert not folder.done("iter1/train")
        training_stage.train_stage(run, 1)
        assert seen == [[], ["checkpoint-1"]]
        assert {path.name for path in (tmp_path / "run/iter1").iterdir()} == {"build", "train"}


# --- with the real LLaMA-Factory ----------------------------------------------------------------------------------

DRIVER = """
    import pickle, sys
    from pathlib import Path
    from selftrain.training.llamafactory import train

    arguments = pickle.loads(Path(sys.argv[1]).read_bytes())
    pictures = arguments.pop("pictures")
    result = train(image_path=pictures.__getitem__, say=print, **arguments)
    print("steps", result.steps, "loss", result.train_loss)
"""


LORA = {"hyperparameters": CONFIGS / "tiny_lora.yaml", "overrides": OVERRIDES}
FULL = {
    "hyperparameters": CONFIGS / "tiny_full.yaml",
    "overrides": {"global_batch_size": 8, "num_train_epochs": 2},
    "finetuning_type": "full",
}


@pytest.mark.slow
@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_killed_in_the_middle_it_ends_as_if_left_alone(tiny_model_path, store, tmp_path, method):  # noqa: F811
    """kill -9 of the driver, with dropout; a torn checkpoint on top. The weights are the same, byte for byte."""
    import pickle

    examples = rows(48)
    settings = TrainingSettings(**method, per_device_batch=4, save_steps=4)
    shared = {"settings": settings, "base_model": tiny_model_path, "image_limits": LIMITS}
    whole = train(examples, out=tmp_path / "whole", image_path=store.path, **shared)
    assert whole.steps == 12
    assert not list(whole.weights.glob("checkpoint-*"))

    kept, work = tmp_path / "kept", tmp_path / "work"
    pictures = {image: store.path(image) for row in examples for image in row.images}
    arguments = {"examples": examples, "out": work, "checkpoints": kept, "pictures": pictures, **shared}
    (tmp_path / "arguments").write_bytes(pickle.dumps(arguments))
    driver = [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path / "arguments")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(driver, env=environment, stdout=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: newest_whole(kept, 1) is not None or child.poll() is not None, 300)
    finally:
        child.kill()
        child.wait()
    with checkpoints.holding(kept, launcher.STOP_GRACE + 5):
        pass  # until what it had started has ended too
    found = newest_whole(kept, 1)
    assert found.step in (4, 8)
    torn = kept / f"checkpoint-{found.step + 4}"
    shutil.rmtree(torn, ignore_errors=True)
    shutil.copytree(found.path, torn, ignore=shutil.ignore_patterns("trainer_state.json"))

    shutil.rmtree(work)
    again = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert f"{torn.name} is not whole" in again.stdout
    assert f"resuming the interrupted training after step {found.step} of 12" in again.stdout
    assert yaml.safe_load((work / "train.yaml").read_text())["resume_from_checkpoint"] == str(found.path)
    steps, loss = again.stdout.split("steps ")[1].split(" loss ")
    assert int(steps) == whole.steps
    assert float(loss) == pytest.approx(whole.train_loss, abs=1e-5)
    names = ("model.safetensors", "config.json") if settings.full else ("adapter_model.safetensors",)
    for name in (*names, "tokenizer.json"):
        assert (work / settings.result / name).read_bytes() == (whole.weights / name).read_bytes()
    if settings.full:
        return
    state, expected = (json.loads((a / "trainer_state.json").read_text()) for a in (work / "adapter", whole.weights))
    assert [entry.get("loss") for entry in state["log_history"]] == [e.get("loss") for e in expected["log_history"]]
