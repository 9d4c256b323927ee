"""From the values of a reward head to probabilities.

A head is trained on differences alone, so its zero and its unit mean nothing. Platt scaling (Platt 1999, "Probabilistic
outputs for support vector machines") on the steps of problems that were held out makes sigmoid(scale * v + offset) the
chance that a step is good, and the two numbers become part of the head.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_process.prompts import prompt_set
from data_process.schema import Problem
from selftrain.config import Config
from selftrain.engines.decoding.reward_head import FILE, write_head
from selftrain.reward.labels import StepLabel
from selftrain.reward.rater import JUDGEMENT, probability
from selftrain.reward.rows import MORE, ask_about, is_good
from selftrain.sampling.sampler import Sampler
from selftrain.stats.calibration import auc, platt
from selftrain.training.hyperparameters import TrainingError

# Values are read as log-odds, which a float32 probability loses above 15 or so. A head that has drifted goes beyond.
READING_SCALE = 1 / 16
LIMIT = 15.0


def calibrate(
    trained: Path,
    labels: Sequence[StepLabel],
    problems: Sequence[Problem],
    config: Config,
    sampler_with: Callable[[Path], Sampler],
    out: Path,
) -> dict[str, Any]:
    """Write into `out` what was `trained` with a calibrated head, and return what it was calibrated on.

    `labels`: of the held-out steps, good and bad ones. `sampler_with`: opens a folder of weights. TrainingError if
    higher values make a step less likely good: the scale is negative. EngineError from the engine.
    """
    reading = with_head(trained, READING_SCALE, 0.0, out.with_name(f"{out.name}-reading"))
    by_id, prompts = {problem.id: problem for problem in problems}, prompt_set(config.prompts)
    asks = [ask_about(f"{one.id}/calibrate", by_id[one.problem_id], one.steps, prompts, head=True) for one in labels]
    with sampler_with(reading) as sampler:
        drawn = sampler.draw(asks, JUDGEMENT, 1)
    shutil.rmtree(reading)
    values = [log_odds(probability(drawn[ask.id][0])) / READING_SCALE for ask in asks]
    good = [is_good(one, config) for one in labels]
    scale, offset = platt(values, good)
    area = auc(list(zip(values, good, strict=True)))
    assert area is not None
    if scale <= 0:
        raise TrainingError(
            f"the reward head is no use: on {len(good)} steps of held-out problems higher values go with bad steps "
            f"(Platt's scale {scale:.3g}, AUC {area:.3f}); train it longer (reward.overrides.max_steps), or {MORE}"
        )
    with_head(trained, scale, offset, out)
    return {"steps": len(good), "good": sum(good), "auc": area, "scale": scale, "offset": offset}


def with_head(trained: Path, scale: float, offset: float, out: Path) -> Path:
    """Write `out`: a copy of an adapter with a reward head whose value v is `scale` * v + `offset`. Returns it."""
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns(FILE))
    write_head(trained, scale, offset, out)
    return out


def log_odds(p: float) -> float:
    """Of a probability, within [-LIMIT, LIMIT]."""
    if 0 < p < 1:
        return max(-LIMIT, min(LIMIT, math.log(p / (1 - p))))
    return LIMIT if p else -LIMIT
