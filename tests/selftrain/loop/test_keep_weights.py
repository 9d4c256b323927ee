"""Full fine-tuning in the loop: whole checkpoints pass between stages, and which of them stay on the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selftrain import loop
from selftrain.config import load_config
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.runs import run_dir
from selftrain.runs.run_dir import weights_of
from selftrain.scaling.targets import models_of
from tests.selftrain.whole_loops import (
    KILLED,
    QUIET,
    REHEARSAL,
    ROOT,
    artefacts,
    settings,
)

FULL = ("training.finetuning_type=full", "training.hyperparameters=configs/llamafactory/tiny_full.yaml")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


def on_disk(run: Path) -> list[int]:
    """Iterations whose weights are there."""
    return sorted(int(path.parts[-3][4:]) for path in run.glob("iter*/train/weights"))


def results(run: Path) -> dict:
    """What a run leaves, without weights, some of which may be removed."""
    found = artefacts(run)
    kept = {
        stage: {file: digest for file, digest in files.items() if not file.startswith("weights/")}
        for stage, files in found["stages"].items()
    }
    return {**found, "stages": kept}


def words(data: Path, run: Path, bank: Path, keep: str, *more: str) -> list[str]:
    return [*settings(data, run, bank, *FULL), f"training.keep_weights={keep}", "iters=4", *more]


@pytest.fixture(scope="module")
def finished(data, banks, tmp_path_factory):
    """run(keep, gain): a whole run of four iterations; accuracy rises or falls by `gain` with each."""
    made = {}

    def go(keep: str, gain: float = 0.1) -> Path:
        if (keep, gain) not in made:
            run = tmp_path_factory.mktemp("run") / f"{keep}"
            bank = banks / f"keep-{keep}-{gain}.sqlite"
            more = (f"engine.gain={gain}", "engine.accuracy=0.4")
            run_loop(load_config(REHEARSAL, words(data, run, bank, keep, *more)), QUIET)
            made[keep, gain] = run
        return made[keep, gain]

    return go


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.1, -0.1])
@pytest.mark.parametrize("keep", ["all", "accepted", "last"])
def test_what_stays_at_the_end(finished, keep, gain):
    run = finished(keep, gain)
    accepted = read_json(run / "metrics.json")["accepted"]
    assert (accepted >= 1) == (gain > 0)
    expected = {"all": {1, 2, 3, 4}, "accepted": {accepted, 4} - {0}, "last": {4}}[keep]
    assert set(on_disk(run)) == expected
    assert results(run) == results(finished("all", gain))  # what is kept changes no result


@pytest.mark.slow
def test_no_more_than_three_sets_are_there_at_a_time(data, banks, tmp_path, monkeypatch):
    """The best, the last and the one that is being written: that is what the disk is planned for."""
    seen = []
    rehearse = loop.training.train_stage

    def counting(run, iteration):
        rehearse(run, iteration)
        seen.append(len(on_disk(run.folder.path)))

    monkeypatch.setattr(loop.training, "train_stage", counting)
    more = ("engine.gain=-0.02", "engine.accuracy=0.5", "iters=6")
    run_loop(load_config(REHEARSAL, words(data, tmp_path / "run", banks / "three.sqlite", "accepted", *more)), QUIET)
    assert max(seen) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("where", ["sample", "train", "dev", "metrics"])
def test_killed_and_continued(data, banks, tmp_path, finished, where):
    """As the loop's own test of stops, while weights are removed on the way."""
    more = ("engine.gain=0.1", "engine.accuracy=0.4")
    overrides = words(data, tmp_path / "run", banks / f"keep-killed-{where}.sqlite", "last", *more)
    child = subprocess.run(
        [sys.executable, "-c", KILLED, where, REHEARSAL, *overrides], cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    run_loop(load_config(REHEARSAL, overrides), QUIET)
    assert results(tmp_path / "run") == results(finished("all"))
    assert on_disk(tmp_path / "run") == [4]


@pytest.mark.slow
def test_a_longer_run_goes_on_from_what_was_kept(data, banks, tmp_path, finished):
    more = ("engine.gain=0.1", "engine.accuracy=0.4")
    overrides = words(data, tmp_path / "run", banks / "keep-longer.sqlite", "last", *more)
    run_loop(load_config(REHEARSAL, [*overrides, "iters=2"]), QUIET)
    assert on_disk(tmp_path / "run") == [2]
    run_loop(load_config(REHEARSAL, overrides), QUIET)
    alone = results(finished("all"))["stages"]
    assert {name: digest for name, digest in results(tmp_path / "run")["stages"].items() if name in alone} == alone


@pytest.mark.slow
def test_removed_weights_are_named(finished):
    run = finished("last")
    config = load_config(REHEARSAL, [*FULL, "training.keep_weights=last"])
    for ask in (lambda: weights_of(run, 1, config), lambda: models_of(run, ["iter1"])):
        with pytest.raises(
            RunError, match=r"weights of iteration 1 were removed.*delete .*iter1/train and run the loop"
        ):
            ask()
    [kept] = models_of(run, ["iter4"])
    assert kept.weights == run / "iter4/train/weights"


@pytest.mark.slow
def test_a_stop_while_weights_are_removed(data, banks, tmp_path, monkeypatch, finished):
    """Noted first, removed then: half a folder is removed by the next run, and nothing complains of it."""
    remove = shutil.rmtree

    def half(folder: Path, **options) -> None:
        if folder.name != "weights":
            remove(folder, **options)
            return
        next(folder.iterdir()).unlink()
        raise KeyboardInterrupt

    more = ("engine.gain=0.1", "engine.accuracy=0.4")
    overrides = words(data, tmp_path / "run", banks / "keep-half.sqlite", "accepted", *more)
    with monkeypatch.context() as patch:
        patch.setattr(run_dir.shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            run_loop(load_config(REHEARSAL, overrides), QUIET)
    assert any(os.listdir(path) for path in (tmp_path / "run").glob("iter1/train/weights"))
    run_loop(load_config(REHEARSAL, overrides), QUIET)
    assert results(tmp_path / "run") == results(finished("all"))


class Stopped(BaseException):
    """Stands for Ctrl-C at a given place."""


@pytest.mark.slow
def test_the_tiny_model_through_the_loop(data, tmp_path, monkeypatch):
    """Real trainings, the second on the first one's weights; stopped at the end of every stage and continued."""
    sizes = ("data.train_limit=24", "data.dev_limit=8", "sampling.n=3", "sampling.max_tokens=80", "build.max_rows=16")
    sizes += ("training.overrides={max_steps: 2, global_batch_size: 8}", "evaluation.strategies=[greedy, majority]")
    sizes += ("evaluation.test_strategies=[]", "evaluation.test=none", "build.parts={qa: 0, cot: 1, refine: 1}")

    def config(name: str):
        line = [*settings(data, tmp_path / name, tmp_path / f"{name}.sqlite"), *sizes, "training.keep_weights=last"]
        return load_config(ROOT / "configs/smoke_full.yaml", line)

    run_loop(config("whole"), QUIET)
    stopped: dict[str, list[int]] = {}
    digests = run_dir.folder_digests

    def stopping(folder: Path) -> dict[str, str]:
        """A stage is done when its digests are written."""
        stage = str(folder.relative_to(tmp_path / "run"))
        if stage.endswith(".partial") and stage not in stopped:
            stopped[stage] = on_disk(tmp_path / "run")
            raise Stopped
        return digests(folder)

    with monkeypatch.context() as patch:
        patch.setattr(run_dir, "folder_digests", stopping)
        for _ in range(30):
            with contextlib.suppress(Stopped):
                run_loop(config("run"), QUIET)
                break
    assert stopped.keys() > {
        f"iter{k}/{stage}.partial" for k in (1, 2) for stage in ("sample", "build", "train", "dev")
    }
    assert stopped["iter2/dev.partial"] == [1, 2]
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    assert on_disk(tmp_path / "run") == [2]
    found = (tmp_path / name / "iter2/train/weights/model.safetensors" for name in ("run", "whole"))
    first, second = (file.read_bytes() for file in found)
    assert first == second != (ROOT / "models/tiny-qwen2vl/model.safetensors").read_bytes()
