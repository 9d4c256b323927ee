"""Runs of the rehearsal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import Config, load_config
from selftrain.loop import run_loop
from tests.selftrain.whole_loops import QUIET, REHEARSAL, settings


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "minigeo"
    minigeo.write(folder, {"train": 60, "dev": 24, "test": 24}, seed=0)
    return folder


@pytest.fixture(scope="session")
def banks(tmp_path_factory) -> Path:
    """One folder for all banks: the pictures of all runs lie beside it, so that training rows name the same files."""
    return tmp_path_factory.mktemp("banks")


@pytest.fixture
def config(data, banks, tmp_path):
    def make(*more: str, name: str = "run", data_folder: Path = data) -> Config:
        bank = banks / f"{tmp_path.name}-{name}.sqlite"
        return load_config(REHEARSAL, settings(data_folder, tmp_path / name, bank, *more))

    return make


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes most of a rehearsal's second, and most tests do not look at it."""
    monkeypatch.setattr(loop, "write_run_report", lambda path: [])


@pytest.fixture(scope="session")
def finished(data, banks, tmp_path_factory) -> Path:
    """Three iterations, left alone."""
    run = tmp_path_factory.mktemp("finished") / "run"
    run_loop(load_config(REHEARSAL, settings(data, run, banks / "finished.sqlite", "iters=3")), QUIET)
    return run


@pytest.fixture
def own(data, tmp_path) -> Path:
    """A copy of the data that a test may spoil."""
    return shutil.copytree(data, tmp_path / "own")
