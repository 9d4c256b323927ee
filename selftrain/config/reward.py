"""Settings of the process reward model: which one a run uses, and how `selftrain reward` makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from selftrain.engine_settings import Positive, Section
from selftrain.shipped import ShippedPath


class RewardConfig(Section):
    """`model` is what a run uses, all else is how one is made."""

    model: Path | None = None  # folder of a reward model; None: there are no rewards
    make: StrictBool = False  # a run makes it first, as `selftrain reward` does, where it is not there
    # verifier: the model writes + or - (generative). head: a linear layer on its last hidden state gives a number.
    form: Literal["verifier", "head"] = "verifier"
    problems: Positive | None = 400  # of train, a seeded draw, whose solutions are labelled; None: all
    traces: Positive = 2  # sampled solutions of each problem
    rollouts: Positive = 4  # completions from the end of each of their steps
    # hard: a step is good if some roll-out is correct (arXiv 2312.08935). soft: with the share of correct ones
    # as the chance.
    labels: Literal["hard", "soft"] = "hard"
    max_steps: Positive = 12  # neighbours are joined until a solution has so many at most
    hyperparameters: ShippedPath | None = None  # None: those of `training`
    overrides: dict[str, Any] = Field(default_factory=dict)  # on top of training.overrides
    max_dropped_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of judgements that are neither + nor -

    @model_validator(mode="after")
    def _made_somewhere(self) -> RewardConfig:
        if self.make and self.model is None:
            raise ValueError("make: true makes a reward model; set reward.model to the folder that it shall be in")
        return self
