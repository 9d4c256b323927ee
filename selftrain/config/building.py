"""Settings of training rows: which candidates make them, and their mixture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr

from data_process.building.pool import check_policies
from selftrain.config.preferences import PairsConfig
from selftrain.engine_settings import Positive, Section


class PartWeights(Section):
    """Weight of each part of the training mixture: below 1 a seeded share of its rows, above 1 repeated rows."""

    qa: Annotated[float, Field(ge=0)] = 1.0  # question, then the gold answer alone
    cot: Annotated[float, Field(ge=0)] = 1.0  # question, then a correct solution
    refine: Annotated[float, Field(ge=0)] = 1.0  # question and an incorrect attempt, then a correct solution
    select: Annotated[float, Field(ge=0)] = 1.0  # question and several candidates, then the choice among them
    reflect: Annotated[float, Field(ge=0)] = 0.0  # attempts, ignore strings and a right continuation in one trace


class BuildConfig(Section):
    """How judged candidates become training rows."""

    rule: Literal["a-orig", "a-q2"] = "a-orig"
    # Which candidates make rows (data_process/building/pool.py): all, newest or window@K iterations; and of a problem's
    # right ones diverse, cap@K, random@K or reward@K. One policy or a list, applied in order.
    pool: Annotated[
        tuple[StrictStr, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
        AfterValidator(check_policies),
    ] = ("all",)
    parts: PartWeights = PartWeights()
    pairs: PairsConfig = PairsConfig()
    min_chars: Annotated[int, Field(ge=0)] = 50  # a-q2 only: shorter texts are bare answers
    max_cot_per_problem: Positive = 1  # correct solutions of one problem that become rows
    balance_positions: bool = True  # the right candidate of a selection stands at each place equally often
    require_consistent: bool = False  # leave out right answers whose text contradicts itself, "47 is (C)" for (C) 45
    max_rows: Positive | None = None  # a seeded subset of the mixture, to compare recipes at the same cost
    # Of selections in the rationale form. Rows show 2 to `select_largest` candidates, each number equally often. A
    # prompt, at test time too, shows at most `select_shown` different texts, the most frequent ones.
    select_largest: Annotated[int, Field(ge=2)] = 5
    select_shown: Annotated[int, Field(ge=2)] = 5
    select_per_problem: Positive = 2
