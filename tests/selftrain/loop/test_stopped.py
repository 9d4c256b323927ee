"""A run that is stopped anywhere, and continued, ends as if it had been left alone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from selftrain.cli.run import run_main
from selftrain.config import load_config
from selftrain.engines.base import EngineError
from selftrain.loop import run_loop
from selftrain.runs.timing import timing
from selftrain.sampling.engine_factory import open_engine
from tests.selftrain.whole_loops import KILLED, QUIET, REHEARSAL, ROOT, artefacts, settings

STOPS = {
    "sample": "iter1/sample.partial",
    "judge": "iter1/judge.partial",
    "build": "iter2/build.partial",
    "train": "iter1/train.partial",
    "dev": "iter1/dev.partial",
    "test": "iter0/test.partial",
    "metrics": "metrics.json",
}


@pytest.mark.slow
@pytest.mark.parametrize("where", STOPS)
def test_killed_and_continued_is_as_if_left_alone(data, banks, tmp_path, finished, no_report, where):
    """Another folder and another bank: every artefact is the same, byte for byte."""
    overrides = settings(data, tmp_path / "run", banks / f"killed-{where}.sqlite", "iters=3")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, where, REHEARSAL, *overrides], cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "run" / STOPS[where]).exists(), "it was killed somewhere else"
    drawn = []

    def counted(config, *args):
        engine = open_engine(config, *args)
        engine.on_batch = drawn.append
        return engine

    run_loop(load_config(REHEARSAL, overrides), QUIET, open_engine=counted)
    assert artefacts(tmp_path / "run") == artefacts(finished)
    assert not list((tmp_path / "run").rglob("*.partial"))
    if where == "sample":
        whole = 24 * 5 * 4 + 24 * 5 * 2 + 180 * 3  # dev four times, test twice, three samplings
        assert sum(drawn) == whole - 24 * 5 - 48 * 2  # what two units of the first sampling gave was not drawn again


@pytest.mark.slow
@pytest.mark.parametrize("request_number", [1, 100, 400])
def test_an_engine_that_fails_and_is_tried_again(config, finished, no_report, request_number):
    """EngineError at the k-th request of all: the same command goes on, with the same result."""
    left = [request_number]

    def failing(config, *args):
        engine = open_engine(config, *args)
        generate = engine.generate

        def counted(requests, params):
            left[0] -= len(requests)
            if 0 >= left[0] > -len(requests):
                raise EngineError("out of memory")
            return generate(requests, params)

        engine.generate = counted
        return engine

    with pytest.raises(EngineError):
        run_loop(config("iters=3"), QUIET, open_engine=failing)
    run_loop(config("iters=3"), QUIET, open_engine=failing)
    assert artefacts(config().output) == artefacts(finished)


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 2, 4, 7, 12, 20, 29, 37])
def test_a_full_disk_at_any_moment(config, finished, no_report, monkeypatch, capsys, call):
    """ENOSPC from the k-th flush on: one clear message, status 2, and the same command goes on once there is room."""
    chosen = config("iters=3")
    left, flush = [call], os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:  # and it stays full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    argv = ["--quiet", "--config", str(REHEARSAL), "--iters", "3"]
    for override in settings(chosen.data.folder, chosen.output, chosen.bank):
        argv += ["--set", override]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run_main(argv) == 2
    message = capsys.readouterr().err.lower()
    assert "no space left" in message
    assert "run the same command again" in message
    run_loop(chosen, QUIET)
    assert artefacts(chosen.output) == artefacts(finished)


@pytest.mark.slow
@pytest.mark.parametrize("step", [-86400, 86400])
def test_a_clock_that_is_set_while_a_run_works(config, finished, no_report, monkeypatch, step):
    """Back or ahead by a day with every look, interrupted and resumed: the same artefacts, and times of this test."""
    real, looks = time.time, [0]

    def jumping() -> float:
        looks[0] += 1
        return real() + step * looks[0]

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    started = time.monotonic()
    for iters in (1, 3):
        run_loop(config(f"iters={iters}"), QUIET)
    assert looks[0] > 10
    assert artefacts(config().output)["stages"].items() >= artefacts(finished)["stages"].items()
    assert 0 < timing(config().output).wall_seconds < time.monotonic() - started + 1


@pytest.mark.slow
def test_the_bank_or_folder_of_another_run(config, finished, no_report, tmp_path):
    """A second run with the same settings and bank draws nothing."""
    run_loop(config("iters=1"), QUIET)
    again = load_config(REHEARSAL, [*settings(config().data.folder, tmp_path / "b", config().bank), "iters=1"])
    run_loop(again, QUIET, open_engine=lambda *args: pytest.fail("an engine was opened"))
    assert artefacts(again.output) == artefacts(config().output)
