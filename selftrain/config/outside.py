"""The sections about rows that the weights being trained did not write by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_process.traces import TraceKind
from data_process.traces.tags import CLOSE, OPEN
from selftrain.config.overrides import Overrides
from selftrain.engine_settings import Positive, Section
from selftrain.shipped import ShippedPath

Weight = Annotated[float, Field(ge=0)]


class TracesConfig(Section):
    """A file of outside traces; `data_process/traces/forms.py` says what each kind is."""

    file: Path
    kind: TraceKind
    # Below 1 a seeded share of the rows, above 1 repeated rows; in the mixture of every iteration, and in the warm-up.
    weight: Weight = 1.0
    warmup_weight: Weight = 1.0
    # What is around the thinking in this file. The rows have <think> and </think> instead.
    tags: tuple[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]] = (OPEN, CLOSE)
    unjudged: bool = False  # keep rows without a gold answer, which no judge can check
    limit: Positive | None = None  # use the first so many rows that pass

    @property
    def name(self) -> str:
        return self.file.name.partition(".")[0]


class WarmupConfig(Section):
    """One training on the traces before iteration 1. Iteration 0 is then its weights, and no longer the base model."""

    hyperparameters: ShippedPath | None = None  # None: those of `training`
    overrides: Overrides = Field(default_factory=dict)  # on top of training.overrides
    qa: Weight = 0.0  # of direct answers to the training problems (R3V: 1)


class RationaliseConfig(Section):
    """Samples that were shown the gold answer, on problems that no sample has solved (STaR, M-STaR)."""

    n: Positive = 1  # samples per problem
    problems: Positive | None = None  # per iteration, a seeded draw of those that are unsolved; None: all
