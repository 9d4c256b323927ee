"""Every reading of test is on record before its results can be seen, and no run of commands hides one."""

from __future__ import annotations

import json
import shutil

import pytest

from data_process.io import read_jsonl
from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import load_config
from selftrain.files import RunError, read_json
from selftrain.loop import run_loop
from selftrain.runs import readings
from selftrain.runs.metrics import Metrics
from selftrain.runs.readings import FILE, Reading, readings_of, record
from selftrain.stages import evaluating
from tests.selftrain.whole_loops import QUIET, REHEARSAL, settings


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 30, "dev": 12, "test": 12}, seed=0)
    return folder


@pytest.fixture
def config(data, tmp_path, monkeypatch):
    """A run that reads test for all its iterations."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])

    def make(iters):
        more = ("evaluation.test=all", f"iters={iters}")
        return load_config(REHEARSAL, settings(data, tmp_path / "run", tmp_path / "bank.sqlite", *more))

    return make


def weights(run):
    return [reading.weights for reading in readings_of(run)]


def reading(*weights, by="run", **more):
    values = {"iters": 2, "splits": ("test",), "settings": "a", "strategies": ("greedy",), **more}
    return Reading(by=by, weights=weights, **values)


@pytest.mark.slow
def test_each_continuation_is_a_reading(config):
    """2, 3 and 4 iterations read test three times; the same command again does not; fewer are refused."""
    for iters in (2, 3, 3, 4):
        outcome = run_loop(config(iters), QUIET)
    accepted = [k for k in range(5) if "test" in outcome.metrics.iterations[k].evaluation]
    run = config(4).output
    assert weights(run) == [(0, 1, 2), (3,), (4,)]
    assert accepted == [0, 1, 2, 3, 4]
    assert [one.iters for one in readings_of(run)] == [2, 3, 4]
    assert Metrics.read(run / "metrics.json").readings == readings_of(run)
    rows = read_jsonl(run / FILE)
    assert [row.get("finished") for row in rows] == [None, 1, None, 2, None, 3]
    assert all(row["time"].endswith("+00:00") for row in rows)
    assert {row["settings"] for row in rows if "settings" in row} == {config(4).digest()}
    before = (run / FILE).read_bytes(), (run / "metrics.json").read_bytes()
    with pytest.raises(RunError, match=r"has done 4 iterations, and 2 are asked for.*--iters 4 or more.*--output"):
        run_loop(config(2), QUIET)
    assert ((run / FILE).read_bytes(), (run / "metrics.json").read_bytes()) == before
    shutil.rmtree(run / "iter4/test")  # made again, it is another reading
    run_loop(config(4), QUIET)
    assert weights(run) == [(0, 1, 2), (3,), (4,), (4,)]


@pytest.mark.slow
def test_a_reading_is_recorded_first_and_resumed(config, monkeypatch):
    """It stands in the file while the first problem of test is evaluated; a run that stops there goes on with it."""
    seen, evaluate = [], evaluating.evaluate

    def stopping(problems, *args):
        if "test" in problems[0].id:
            seen.append(weights(config(1).output))
            if len(seen) in (1, 3):
                raise KeyboardInterrupt
        return evaluate(problems, *args)

    monkeypatch.setattr(evaluating, "evaluate", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_loop(config(1), QUIET)
    run_loop(config(1), QUIET)
    assert seen == [[(0, 1)]] * 4
    assert weights(config(1).output) == [(0, 1)]
    assert read_json(config(1).output / "metrics.json")["readings"][0]["weights"] == [0, 1]


@pytest.mark.slow
def test_a_folder_from_before_there_was_a_record(config):
    run_loop(config(1), QUIET)
    run = config(1).output
    (run / FILE).unlink()
    run_loop(config(2), QUIET)
    assert [(one.weights, one.settings is None) for one in readings_of(run)] == [((0, 1), True), ((2,), False)]
    assert read_jsonl(run / FILE)[0]["time"] is None


@pytest.mark.slow
def test_nothing_is_read_without_a_record(config, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(readings, "_append", full)
    with pytest.raises(RunError, match=r"test_readings\.jsonl cannot be written .*run the same command again"):
        run_loop(config(1), QUIET)
    assert not (config(1).output / "iter0/test").exists()


@pytest.mark.slow
def test_a_full_disk_at_the_end_names_the_file(config, monkeypatch):
    append = readings._append

    def full(file, row):
        if "finished" in row:
            raise OSError(28, "No space left on device")
        append(file, row)

    monkeypatch.setattr(readings, "_append", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*test_readings\.jsonl'"):
        run_loop(config(1), QUIET)
    monkeypatch.undo()
    run_loop(config(1), QUIET)
    assert len(readings_of(config(1).output)) == 1


def test_a_torn_line_and_a_damaged_one(tmp_path):
    assert record(tmp_path, reading(0, 1)) == 1
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + b'{"by": "run", "wei')  # killed while it was written
    assert weights(tmp_path) == [(0, 1)]
    assert record(tmp_path, reading(2)) == 2
    assert [json.loads(line)["weights"] for line in (tmp_path / FILE).read_text().splitlines()] == [["0", "1"], ["2"]]
    assert weights(tmp_path) == [(0, 1), (2,)]
    (tmp_path / FILE).write_bytes(b"{\n" + whole)
    with pytest.raises(RunError, match=r"test_readings\.jsonl, line 1: .*restore the file"):
        record(tmp_path, reading(3))
    (tmp_path / FILE).write_bytes(b'{"by": "me"}\n')
    with pytest.raises(RunError, match=r"line 1: by is wrong .*weights is missing"):
        readings_of(tmp_path)


def test_scale_is_a_reading_once(tmp_path):
    """Measured again it finds the same samples; other settings or other weights are another reading."""
    names = ("base", "accepted")
    assert record(tmp_path, reading(0, 1)) == 1
    assert [record(tmp_path, reading(*names, by="scale", strategies=("a", "b"))) for _ in range(2)] == [2, 2]
    assert record(tmp_path, reading(*names, by="scale", strategies=("a", "c"))) == 3
    assert record(tmp_path, reading("iter1", by="scale", strategies=("a", "b"))) == 4
