"""The weight of each part of a training mixture: a seeded share of its rows, or copies of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import get_args

from data_process.schema import DataError, Example, Kind
from data_process.seeds import seed_for

KINDS: tuple[Kind, ...] = get_args(Kind)


def part_weights(parts: Mapping[Kind, float]) -> dict[Kind, float]:
    for kind, weight in parts.items():
        if kind not in KINDS:
            raise DataError(f"unknown part {kind!r}; known: {', '.join(KINDS)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise DataError(f"the weight of part {kind} is {weight!r}; it must be a number of at least 0")
    return {kind: float(parts.get(kind, 1.0)) for kind in KINDS}


def weigh(
    examples: Sequence[Example], kind: str, weight: float, seed: int, dropped: Counter[str], repeated: Counter[str]
) -> list[Example]:
    """The part at its weight: whole copies, then a seeded subset for the fraction, rounded half up."""
    copies = int(weight)
    n_more = math.floor((weight - copies) * len(examples) + 0.5)
    chosen = sorted(Random(seed_for(seed, "mixture", kind)).sample(range(len(examples)), n_more))
    if copies == 0:
        if n_more < len(examples):
            dropped[f"{kind}:weight"] += len(examples) - n_more
        return [examples[k] for k in chosen]
    rows = list(examples)
    for copy in range(2, copies + 1):
        rows += [replace(example, id=f"{example.id}#{copy}") for example in examples]
    rows += [replace(examples[k], id=f"{examples[k].id}#{copies + 1}") for k in chosen]
    if len(rows) > len(examples):
        repeated[kind] += len(rows) - len(examples)
    return rows
