"""What the tests of reward heads share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from selftrain.config import Config, load_config
from selftrain.engines.decoding import reward_head
from selftrain.files import read_json

ROOT = Path(__file__).parents[3]


def settings(*more: str) -> Config:
    return load_config(ROOT / "configs/rehearsal.yaml", ["reward.form=head", *more])


def hidden_of(model: Path) -> int:
    config = read_json(model / "config.json")
    return config.get("text_config", config)["hidden_size"]


def save_head(folder: Path, weight: object, bias: object, name: str = reward_head.WEIGHT) -> None:
    from safetensors.numpy import save_file

    parts = {name: weight, reward_head.BIAS: bias}
    save_file({name: np.asarray(part, dtype="f4") for name, part in parts.items()}, folder / reward_head.FILE)
