"""The sections about DPO: preference pairs, and how they are trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selftrain.config.overrides import Overrides
from selftrain.engine_settings import Section

Restart = Literal["base", "warmup", "previous", "continuous"]


class PairsConfig(Section):
    """Preference pairs of `training.method: dpo`: at most so many of a kind for each problem; 0 leaves the kind out."""

    cot: Annotated[int, Field(ge=0)] = 2  # a right and a wrong solution
    select: Annotated[int, Field(ge=0)] = 1  # the selection of a right candidate and of a wrong one


class DPOConfig(Section):
    """Numbers of `training.method: dpo`."""

    sft_iterations: Annotated[int, Field(ge=0)] = 0  # the first so many iterations are trained by SFT
    # Where DPO starts, which is also its reference model; None: as training.restart says.
    restart: Restart | None = None
    # On top of training.overrides, for DPO alone. LLaMA-Factory's pref_beta is 0.1 and pref_loss sigmoid.
    overrides: Overrides = Field(default_factory=dict)


def check_pairs(pairs: PairsConfig, dpo: bool) -> None:
    """ValueError for pairs that nothing would use, and for a DPO without any."""
    if not dpo and pairs != PairsConfig():
        raise ValueError("build.pairs is for training.method dpo; leave it out, or set that")
    if dpo and not pairs.cot and not pairs.select:
        raise ValueError("training.method dpo needs pairs: set build.pairs.cot or build.pairs.select above 0")
