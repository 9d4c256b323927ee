"""Settings of what dev decides: which iteration is a run's result, what is rolled back, and when a run stops."""

from __future__ import annotations

from typing import Literal

from pydantic import StrictBool, model_validator

from selftrain.engine_settings import Fraction, Positive, Section


class AcceptanceConfig(Section):
    """Which iteration is a run's result, and when a run stops; see selftrain/runs/acceptance.py."""

    # best: the highest greedy accuracy on dev, the earliest of equals. interval: a later iteration must be better by a
    # paired 95% interval; one that is worse by it is called so.
    rule: Literal["best", "interval"] = "best"
    # The iteration after a worse one samples and trains from the accepted weights, and not from the worse ones.
    rollback: StrictBool = False
    patience: Positive | None = None  # stop after so many iterations without a gain; None: never
    max_pass_drop: Fraction | None = None  # stop when pass@N on dev is further below the base; None: never

    @model_validator(mode="after")
    def _worse_can_be_told(self) -> AcceptanceConfig:
        if self.rollback and self.rule != "interval":
            raise ValueError("rollback undoes iterations that are worse by a paired interval; set rule: interval")
        return self
