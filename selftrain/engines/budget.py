"""The record of what a budget did to one sample; budgets themselves are data of `engine_settings.budget`.

A budget is written in strings, so that it means the same to every engine, whatever its tokenizer.
`budget_forcing/state_machine.py` turns it into token ids and applies it, `budget_forcing/batched.py` to a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selftrain.engine_settings.budget import PRESETS, S1, S1_M, TINY, Budget, preset

__all__ = ["PRESETS", "S1", "S1_M", "TINY", "Budget", "ClosedBy", "ForcingRecord", "forcing_from_json", "preset"]

ClosedBy = Literal["model", "budget", "loop", "end_of_turn"]


@dataclass(frozen=True)
class ForcingRecord:
    """What a budget did to one sample. Places are indices into `Completion.token_ids`; what was taken out has none.

    `start`, thinking, closing text and answer follow each other; forced tokens may lie in each of them.
    """

    thinking_tokens: int  # between `start` and the closing text, ignore strings included; never above the budget
    answer_tokens: int  # after the closing text, end of turn included
    ignores: int  # ignore strings put in
    ignored_at: tuple[int, ...]  # where each begins
    closed_by: ClosedBy | None  # None: truncated by max_tokens while thinking
    closed_at: int | None  # where the closing text (or the end of turn) begins
    forced: tuple[tuple[int, int], ...]  # [first, last) of every run of tokens that the model did not choose
    discarded: int  # tokens that were sampled and taken out again: computed, but no part of the completion

    @property
    def n_forced(self) -> int:
        """Tokens that the model did not choose."""
        return sum(last - first for first, last in self.forced)

    @property
    def ends_of_thinking(self) -> int:
        """How often the model ended its thinking itself."""
        return self.ignores + (self.closed_by in ("model", "end_of_turn"))

    @property
    def status(self) -> Literal["forced", "unforced", "no_delimiter"]:
        """For counting: whether the length of the thinking was forced; or, "no_delimiter", the model never wrote an end
        of thinking and nothing was done about it.
        """
        if self.ignores or self.closed_by in ("budget", "loop"):
            return "forced"
        if self.closed_by == "model":
            return "unforced"
        at = self.closed_at
        return "forced" if at is not None and any(first == at for first, _ in self.forced) else "no_delimiter"


def forcing_from_json(row: Mapping[str, Any]) -> ForcingRecord:
    """The record from what `dataclasses.asdict` makes of it."""
    spans = tuple((int(first), int(last)) for first, last in row["forced"])
    return ForcingRecord(**{**row, "ignored_at": tuple(row["ignored_at"]), "forced": spans})
