"""Budget forcing of a whole batch: rows at different stages in one decode.

A step of the decode is one token of every row. Most are of no consequence, and those are found for all rows at once:
only a row whose token may end something, or whose time has come, is looked at on its own (`state_machine.Forcer`).
numpy, since all of this happens on the host; about as cheap as looking which rows have finished.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selftrain.engines.budget_forcing.state_machine import Forcer, TokenBudget, loop_size

_GROWTH = 64  # steps by which the tables grow when tokens were taken back


@dataclass(frozen=True)
class Taken:
    """Tokens that a row takes back: those of the steps [first, last); the token of step `last` is replaced anyway."""

    row: int  # in the batch as it is now
    first: int
    last: int


class Steering:
    """Rows of one batch, in the order in which they were started. A row that has left is not looked at any more."""

    def __init__(self, budget: TokenBudget, triggers: np.ndarray, rows: int) -> None:
        """`triggers` bool [vocabulary]: tokens that can end something; see `TokenBudget.triggers`."""
        self._rows = [Forcer(budget) for _ in range(rows)]
        self._triggers = triggers
        shape = (rows, budget.max_tokens)
        self._tokens = np.zeros(shape, dtype=np.int64)  # of each step, those taken back included
        self._kept = np.zeros(shape, dtype=bool)
        self._script = np.full(shape, -1, dtype=np.int64)  # what a step must write; -1: what is drawn
        self._scripted_until = 0
        # Steps: what comes before `free` is known to the machine; at `due` it must look; from `since` all was drawn.
        self._free = np.zeros(rows, dtype=np.int64)
        self._since = np.zeros(rows, dtype=np.int64)
        self._due = np.zeros(rows, dtype=np.int64)
        self._done = np.zeros(rows, dtype=bool)
        self._choosing: set[int] = set()
        policy = budget.policy
        self._spans = np.arange(1, policy.loop_span + 1) if policy.loop_repeats else None
        if self._spans is not None:
            sizes = [loop_size(span, policy.loop_repeats) for span in range(1, policy.loop_span + 1)]
            self._needed = np.array(sizes) - self._spans
            self._run = np.zeros((rows, len(self._spans)), dtype=np.int64)  # how long the text has had each period
        for row, forcer in enumerate(self._rows):
            self._write(row, 0, forcer.begin().forced)

    def __getitem__(self, row: int) -> Forcer:
        return self._rows[row]

    def choices(self, step: int, order: np.ndarray) -> list[tuple[int, list[int]]]:
        """Rows whose token of this step must be one of a few: (row in the batch, tokens)."""
        rows = [row for row in self._choosing if self._free[row] == step]
        return [(int((order == row).nonzero()[0][0]), self._rows[row].allowed) for row in rows]

    def steer(self, step: int, order: np.ndarray, tokens: np.ndarray) -> tuple[list[Taken], np.ndarray]:
        """Take in the drawn `tokens` of the rows `order` and put in their place what must be written instead.

        `tokens` int64 [rows in the batch], changed in place. Returns what is taken back, and which rows have ended.
        """
        if step == self._tokens.shape[1]:
            self._grow()
        if step < self._scripted_until:
            script = self._script[order, step]
            np.copyto(tokens, script, where=script >= 0)
        self._tokens[order, step] = tokens
        self._kept[order, step] = ~self._done[order]
        hints = self._triggers[tokens] | (step >= self._due[order])
        if self._spans is not None:
            hints |= self._loops(step, order, tokens)
        hints &= (step >= self._free[order]) & ~self._done[order]
        taken = []
        for place in hints.nonzero()[0].tolist():
            row = int(order[place])
            forcer = self._rows[row]
            move = forcer.advance(self._tokens[row, self._free[row] : step + 1].tolist())
            self._done[row] = forcer.ended
            if move.back:
                first = step + 1 - move.back
                self._kept[row, first:step] = False
                self._tokens[row, step] = tokens[place] = move.forced[0]
                if first < step:
                    taken.append(Taken(place, first, step))
            self._write(row, step if move.back else step + 1, move.forced)
        return taken, self._done[order]

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Which steps' tokens are part of the completion, and which of these were drawn: each bool [rows, steps]."""
        return self._kept, self._kept & (self._script < 0)

    def _write(self, row: int, step: int, forced: tuple[int, ...]) -> None:
        """`forced` from `step` on; then the row is free until its deadline."""
        end = step + len(forced)
        while end > self._tokens.shape[1]:
            self._grow()
        self._script[row, step:end] = forced
        self._scripted_until = max(self._scripted_until, end)
        self._free[row] = end
        if forced:
            self._since[row] = end
        forcer = self._rows[row]
        if forcer.allowed:
            self._choosing.add(row)
        else:
            self._choosing.discard(row)
        self._due[row] = end - 1 + forcer.deadline - len(forcer.ids)

    def _loops(self, step: int, order: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Which rows have repeated a span often enough, in tokens drawn since the last forced one."""
        assert self._spans is not None
        spans = self._spans[: min(step, len(self._spans))]
        if not len(spans):
            return np.zeros(len(order), dtype=bool)
        same = self._tokens[order, step - len(spans) : step][:, ::-1] == tokens[:, None]
        same &= (step - self._since[order])[:, None] >= spans
        run = np.where(same, self._run[order, : len(spans)] + 1, 0)
        self._run[order, : len(spans)] = run
        return np.asarray(np.any(run >= self._needed[: len(spans)], axis=1))

    def _grow(self) -> None:
        more = (len(self._rows), _GROWTH)
        self._tokens = np.hstack([self._tokens, np.zeros(more, dtype=np.int64)])
        self._kept = np.hstack([self._kept, np.zeros(more, dtype=bool)])
        self._script = np.hstack([self._script, np.full(more, -1, dtype=np.int64)])
