"""Fixtures of the tests of reward models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_process.sources import minigeo
from tests.selftrain.engines.adapters import random_adapter
from tests.selftrain.reward.heads import hidden_of, save_head


@pytest.fixture(scope="module")
def problems():
    return [problem for problem, _ in minigeo.generate("base", 40)]


@pytest.fixture
def headed(tiny_model_path, tmp_path) -> Path:
    """An adapter of the tiny model that does nothing, with a head whose value is a constant 2."""
    folder = random_adapter(tiny_model_path, tmp_path / "headed", size=0)
    save_head(folder, np.zeros((1, hidden_of(tiny_model_path))), [2.0])
    return folder
