"""Choices an experiment makes between stages, as small functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

from data_process.schema import Problem
from data_process.seeds import seed_for


def problems_for(problems: Sequence[Problem], n: int | None, seed: int, iteration: int) -> list[Problem]:
    """The problems an iteration samples: all, or a seeded draw of `n`, in their own order."""
    if n is None or n >= len(problems):
        return list(problems)
    chosen = set(Random(seed_for(seed, "problems", iteration)).sample(range(len(problems)), n))
    return [problem for index, problem in enumerate(problems) if index in chosen]


def initial_adapter(restart: Literal["base", "previous"], previous: Path | None) -> Path | None:
    """Where an iteration's training starts: None is the base model (R3V), otherwise the previous adapter's weights."""
    return previous if restart == "previous" else None


def accept(dev: Mapping[int, Mapping[str, Any]]) -> int:
    """The iteration with the best greedy accuracy on dev, the earliest of equals; 0 is the base model."""
    return max(dev, key=lambda k: (dev[k]["strategies"]["greedy"]["accuracy"], -k))
