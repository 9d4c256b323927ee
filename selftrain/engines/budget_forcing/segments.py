"""Budget forcing for an engine that decodes by itself, such as vLLM: one sample as a chain of segments.

A segment is decoded without interference, up to a text or a length at which the budget may have to act. Then the
sample's `Forcer` says what is taken back and what is written, and the next segment continues from there: its prompt is
the old one plus all tokens kept so far, as ids. With prefix caching the engine computes only what is new, the image is
not encoded again, and a forced text costs one forward pass instead of one decode step per token. Ends of thinking of
several tokens can be taken back, which no logits processor can do: their first tokens are in the context already.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_process.schema import Finish
from data_process.seeds import seed_for
from selftrain.engines.base import EngineError, mean_logprob
from selftrain.engines.budget import ForcingRecord
from selftrain.engines.budget_forcing.state_machine import LOOP_TOKENS, Forcer, TokenBudget, loop_size

if TYPE_CHECKING:
    import numpy as np

LOOK_EVERY = 64  # tokens after which a running segment is looked at for loops


@dataclass(frozen=True)
class Segment:
    """The next stretch of a sample that the engine decodes by itself."""

    written: tuple[int, ...]  # what follows the prompt so far
    max_tokens: int
    seed: int
    stop: tuple[str, ...] = ()  # texts after which it ends, besides the end of turn
    allowed: tuple[int, ...] = ()  # its tokens come from these; (): any
    watch_loops: bool = False  # whether to ask `Sample.looping` on the way


class Sample:
    """One completion in the making. Without a budget it is one segment."""

    def __init__(
        self,
        seed: int,
        max_tokens: int,
        eos: Collection[int],
        budget: TokenBudget | None = None,
        triggers: np.ndarray | None = None,
    ) -> None:
        """`triggers` bool [vocabulary], of the budget; see `TokenBudget.triggers`."""
        self.ended = False
        self._seed, self._max_tokens, self._eos = seed, max_tokens, frozenset(eos)
        self._forcer = None if budget is None else Forcer(budget)
        self._triggers = triggers
        self._ids: list[int] = []
        self._logprobs: list[float | None] = []  # of each id; None: forced, or not reported
        self._free_from = 0  # everything from here on was drawn
        self._segments = 0
        if self._forcer is not None:
            self._write(0, self._forcer.begin().forced)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(self._ids)

    @property
    def finish(self) -> Finish:
        return "stop" if self._ids[-1] in self._eos else "length"

    @property
    def mean_logprob(self) -> float | None:
        """Over the tokens that the model chose; None if none of them is known."""
        return mean_logprob(self._logprobs)

    def record(self) -> ForcingRecord | None:
        return None if self._forcer is None else self._forcer.record()

    def segment(self) -> Segment:
        """What to decode next. The first segment has the sample's own seed, so up to the first thing that a budget
        does, the sample is the one that there would be without it.
        """
        if self.ended:
            raise ValueError("this sample has ended")
        written = tuple(self._ids)
        seed = seed_for("segment", self._seed, self._segments) if self._segments else self._seed
        forcer = self._forcer
        if forcer is None:
            return Segment(written, self._max_tokens - len(written), seed)
        policy = forcer.budget.policy
        return Segment(
            written,
            forcer.deadline - len(written),
            seed,
            stop=policy.ends if forcer.acts_on_ends else (),
            allowed=tuple(forcer.allowed),
            watch_loops=forcer.thinking and policy.loop_repeats > 0,
        )

    def looping(self, tokens: Sequence[int]) -> bool:
        """Whether the tokens that the running segment has so far hold a loop that closes the thinking."""
        assert self._forcer is not None
        policy = self._forcer.budget.policy
        # One look finds what came since the last one; a loop may have begun well before.
        window = list(tokens[-(max(policy.loop_repeats * policy.loop_span, LOOP_TOKENS) + LOOK_EVERY) :])
        return bool(len(loops(window, policy.loop_repeats, policy.loop_span)))

    def take(self, tokens: Sequence[int], logprobs: Sequence[float] | None) -> int:
        """Take in what a segment gave; returns how many of its tokens. Those behind the place at which the budget acts
        are dropped.

        Raises EngineError if nothing came, or a log-probability is no number.
        """
        if not tokens:
            raise EngineError("the engine gave no token")
        if logprobs is not None and any(math.isnan(value) for value in logprobs):
            raise EngineError("the model's logits are not numbers; its weights are damaged or overflow in this dtype")
        self._segments += 1
        reported: list[float | None] = [None] * len(tokens) if logprobs is None else list(logprobs)
        if self._forcer is None:
            self._ids += tokens
            self._logprobs += reported
            self.ended = self._ids[-1] in self._eos or len(self._ids) >= self._max_tokens
            return len(tokens)
        done = 0
        for place in self._places(tokens):
            part = slice(done, place + 1)
            move = self._forcer.advance(tokens[part])
            self._ids += tokens[part]
            self._logprobs += reported[part]
            done = place + 1
            self.ended = self._forcer.ended
            if move.back or move.forced:
                self._write(move.back, move.forced)
                break
            if self.ended:
                break
        return done

    def _places(self, tokens: Sequence[int]) -> list[int]:
        """Where the machine must look: what may end something, closes a loop, or is the last."""
        import numpy as np

        assert self._forcer is not None
        assert self._triggers is not None
        policy = self._forcer.budget.policy
        places = set(self._triggers[np.asarray(tokens)].nonzero()[0].tolist())
        places.add(len(tokens) - 1)
        deadline = self._forcer.deadline - len(self._ids)
        places |= set(range(deadline - 1, len(tokens)))  # after it every token is looked at: there are few
        if self._forcer.allowed:
            places |= set(range(len(tokens)))
        if policy.loop_repeats:
            tail = self._ids[self._free_from :][-max(policy.loop_repeats * policy.loop_span, LOOP_TOKENS) :]
            found = loops([*tail, *tokens], policy.loop_repeats, policy.loop_span)
            places |= {at - len(tail) for at in found if at >= len(tail)}
        return sorted(places)

    def _write(self, back: int, forced: Sequence[int]) -> None:
        if back:
            del self._ids[-back:], self._logprobs[-back:]
        self._ids += forced
        self._logprobs += [None] * len(forced)
        if back or forced:
            self._free_from = len(self._ids)


def loops(tokens: Sequence[int], repeats: int, longest: int) -> list[int]:
    """Places at which a span of at most `longest` tokens has just been repeated `repeats` times; see loop_size."""
    import numpy as np

    ids = np.asarray(tokens)
    found: set[int] = set()
    for span in range(1, min(longest, len(ids) - 1) + 1):
        size = loop_size(span, repeats)
        if size > len(ids):
            break
        same = np.concatenate([[0], np.cumsum(ids[span:] == ids[:-span])])
        run = size - span  # so many tokens equal to those one span before
        found.update((np.flatnonzero(same[run:] - same[:-run] == run) + size - 1).tolist())
    return sorted(found)
