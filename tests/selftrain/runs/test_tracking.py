"""Trackers get every result of the run folder once, and cost a run nothing when they fail."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from selftrain import loop
from selftrain.config import load_config
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs import tracking
from selftrain.runs.run_dir import RunDir
from selftrain.runs.tracking import FILE, for_trainer, points
from tests.selftrain.loop.conftest import banks, data, finished  # noqa: F401
from tests.selftrain.whole_loops import QUIET, REHEARSAL, settings


class Said(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text.strip())


@pytest.fixture
def config(data, banks, tmp_path, monkeypatch):  # noqa: F811
    """A run whose samples are in the bank already."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])

    def make(trackers: str, iters: int):
        run = settings(data, tmp_path / "run", banks / "finished.sqlite", f"iters={iters}", f"report_to={trackers}")
        return load_config(REHEARSAL, run)

    return make


@pytest.fixture
def stand_ins(monkeypatch):
    """Modules with the calls of wandb and trackio that we make: everything that is logged, by tracker."""
    logged: dict[str, list] = {"wandb": [], "trackio": []}
    started: dict[str, list] = {"wandb": [], "trackio": []}

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            started["wandb"][-1]["ended"] = True

        def define_metric(self, name, step_metric):
            assert (name, step_metric) == ("*", "iteration")

        def log(self, values):
            logged["wandb"].append((values["iteration"], {k: v for k, v in values.items() if k != "iteration"}))

    wandb, trackio = ModuleType("wandb"), ModuleType("trackio")
    wandb.Settings = SimpleNamespace
    wandb.init = lambda **given: started["wandb"].append(given) or Run()
    trackio.init = lambda **given: started["trackio"].append(given)
    trackio.log = lambda values, step: logged["trackio"].append((step, values))
    trackio.finish = lambda: started["trackio"][-1].update(ended=True)
    for module in (wandb, trackio):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return logged, started


@pytest.mark.slow
def test_points_are_the_numbers_of_the_report(finished):  # noqa: F811
    found = {point.stage: point for point in points(RunDir(finished))}
    metrics = read_json(finished / "metrics.json")
    for row in metrics["iterations"]:
        k = row["iteration"]
        for split, result in row["eval"].items():
            point = found.pop(f"iter{k}/{split}")
            assert point.iteration == k
            assert point.values.keys() == {f"{split}{kind}/{name}" for kind in ("", "_tokens") for name in
                                           result["strategies"]}  # fmt: skip
            for name, score in result["strategies"].items():
                assert point.values[f"{split}/{name}"] == score["accuracy"]
                assert point.values[f"{split}_tokens/{name}"] == score["tokens_per_problem"]["generated"]
        if k:
            values, train = found.pop(f"iter{k}/train").values, row["train"]
            rows, dropped = sum(train["examples"].values()), sum(train["dropped"].values())
            assert values["train/share_kept"] == rows / (rows + dropped)
            assert values["sampling/correct"] == train["correct"] / train["candidates"]
    assert found == {}


@pytest.mark.slow
def test_tensorboard_has_each_number_once(config):
    """Through its own library, and read back by it: after a run, after the same again, and after one more iteration."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for iters in (1, 1, 2):
        run_loop(config("tensorboard", iters), QUIET)
    run = config("tensorboard", 2).output
    sent = EventAccumulator(str(run / "tensorboard/loop")).Reload()
    expected: dict[str, list] = {}
    for point in points(RunDir(run)):
        for name, value in point.values.items():
            expected.setdefault(name, []).append((point.iteration, pytest.approx(value)))
    for name, values in expected.items():
        assert sorted((event.step, event.value) for event in sent.Scalars(name)) == values, name
    assert sorted(sent.Tags()["scalars"]) == sorted(expected)


@pytest.mark.slow
def test_wandb_and_trackio_through_their_own_calls(config, stand_ins, monkeypatch):
    logged, started = stand_ins
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    for iters in (1, 1, 2):
        run_loop(config("[wandb,trackio]", iters), QUIET)
    run = config("none", 2).output
    everything = sorted((point.iteration, sorted(point.values.items())) for point in points(RunDir(run)))
    for name, project in (("wandb", "ours"), ("trackio", "selftrain")):
        assert sorted((k, sorted(values.items())) for k, values in logged[name]) == everything
        [known] = {given["name"] for given in started[name]}
        assert known == f"rehearsal-{read_json(run / FILE)['id']}"
        for given in started[name]:
            assert (given["project"], given["resume"], given["ended"]) == (project, "allow", True)
            assert given["config"]["iters"] in (1, 2)
    assert {given["id"] for given in started["wandb"]} == {known}


@pytest.mark.slow
def test_one_that_fails_costs_nothing_and_is_caught_up(config, stand_ins, monkeypatch):
    logged, _ = stand_ins
    monkeypatch.setattr(sys.modules["trackio"], "log", None)
    said = Said()
    run_loop(config("[trackio,wandb]", 1), said)
    told = "trackio: nothing was sent (TypeError: 'NoneType' object is not callable); it is tried again later"
    assert said.lines.count(told) == 3
    assert logged["wandb"]
    monkeypatch.setattr(sys.modules["trackio"], "log", lambda values, step: logged["trackio"].append((step, values)))
    run_loop(config("[trackio,wandb]", 1), said)
    assert sorted(map(repr, logged["trackio"])) == sorted(map(repr, logged["wandb"]))


def test_they_are_no_part_of_what_a_run_is_bound_to(config):
    assert config("[wandb,trackio]", 1).identity() == config("none", 1).identity()
    assert config("wandb", 1).report_to == ("wandb",)


def test_the_trainer_sends_to_the_same(config, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    given = config("[tensorboard,wandb]", 1)
    chosen, variables = for_trainer(given, given.output / "iter1/train.partial/work")
    assert chosen == {"report_to": ["tensorboard", "wandb"], "run_name": "rehearsal-iter1-train",
                      "project": "selftrain"}  # fmt: skip
    assert variables["TENSORBOARD_LOGGING_DIR"] == str(given.output / "tensorboard/iter1-train")
    assert for_trainer(given, Path("/elsewhere/train.partial/work"))[0]["run_name"] == "rehearsal-train"
    assert for_trainer(config("none", 1), given.output) == ({}, {})
    assert set(tracking.SENDERS) == {"tensorboard", "wandb", "trackio"}
