"""The values of a reward head as probabilities."""

from __future__ import annotations

import contextlib
import math
import random

import numpy as np
import pytest

from selftrain.engines.base import Completion
from selftrain.engines.decoding import reward_head
from selftrain.reward.calibrate import LIMIT, READING_SCALE, calibrate, log_odds
from selftrain.reward.labels import StepLabel
from selftrain.reward.rater import JUDGEMENT
from selftrain.training.adapter import read_tensors
from selftrain.training.hyperparameters import TrainingError
from tests.selftrain.reward.heads import settings


class Judge:
    """A sampler that says what a head of these raw values would, as `calibrate` reads them."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def draw(self, asks, params, n):
        assert (params, n) == (JUDGEMENT, 1)
        found = {}
        for ask in asks:
            value = self.values[ask.prefix] * READING_SCALE
            logprob = float(np.float32(-np.logaddexp(0, -abs(value))))
            found[ask.id] = [Completion("+" if value >= 0 else "-", (1,), 1, "stop", logprob)]
        return found


@pytest.fixture
def steps(problems):
    """400 steps, good with the chance sigmoid(v / 8 - 9) where v is their raw value: a head that has drifted far."""
    draw = random.Random(0)
    values = [draw.gauss(72, 16) for _ in range(400)]
    right = [draw.random() < 1 / (1 + math.exp(9 - value / 8)) for value in values]
    labels = [StepLabel(problems[0].id, k, 0, f"Step {k}", 4 * r, 4) for k, r in enumerate(right)]
    return labels, dict(zip((one.steps for one in labels), values, strict=True))


def test_calibration_finds_the_zero_and_the_unit(problems, steps, headed, tmp_path):
    labels, values = steps
    opened = []

    def judging(weights):
        opened.append(weights)
        assert read_tensors(weights / reward_head.FILE)[reward_head.BIAS] == pytest.approx(2 * READING_SCALE)
        assert (weights / "adapter_model.safetensors").is_file()
        return contextlib.nullcontext(Judge(values))

    found = calibrate(headed, labels, problems, settings(), judging, tmp_path / "out")
    assert found["steps"] == 400
    assert found["good"] == sum(one.right > 0 for one in labels)
    assert found["scale"] == pytest.approx(1 / 8, rel=0.25)
    assert found["offset"] == pytest.approx(-9, rel=0.25)
    chances = [1 / (1 + math.exp(-found["scale"] * values[one.steps] - found["offset"])) for one in labels]
    assert sum(chances) / 400 == pytest.approx(found["good"] / 400, abs=0.01)
    head = read_tensors(tmp_path / "out" / reward_head.FILE)
    assert head[reward_head.BIAS] == pytest.approx(2 * found["scale"] + found["offset"], rel=1e-5)
    assert not opened[0].exists()
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (headed, tmp_path / "out")]
    assert weights[0] == weights[1]


def test_a_head_that_is_no_use(problems, steps, headed, tmp_path):
    labels, values = steps
    values = {text: -value for text, value in values.items()}
    with pytest.raises(TrainingError, match=r"higher values go with bad steps \(Platt's scale -0\.1\d+, AUC 0\.1"):
        calibrate(headed, labels, problems, settings(), lambda _: contextlib.nullcontext(Judge(values)), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_log_odds_have_limits():
    assert log_odds(0.5) == 0
    assert log_odds(0.2) == pytest.approx(-log_odds(0.8))
    assert (log_odds(0.0), log_odds(1.0), log_odds(1e-30)) == (-LIMIT, LIMIT, -LIMIT)
