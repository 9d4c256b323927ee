"""Budget forcing as a state machine over token ids: for one sample, what the engine must do next.

No model, no tensors: every engine feeds it the tokens it drew, and the machine answers with tokens to take back and
tokens to write instead. What an end of thinking looks like is decided on text, not on ids: a tokenizer spells
`</think>` in several ways and merges its edges with what stands beside it (`.</`, `>\\n`).

An end of several tokens is known as such only with its last one. By then the others are part of the context, so
replacing it means taking them back: `Move.back` counts them, and the engine makes the model forget all but the last,
which it has not been shown yet. An engine that cannot do so can serve budgets whose ends are single tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selftrain.engines.base import EngineError
from selftrain.engines.budget import Budget, ClosedBy, ForcingRecord
from selftrain.engines.budget_forcing.tokenizer import SPACE, Vocabulary

if TYPE_CHECKING:
    import numpy as np

LOOP_TOKENS = 16  # a loop covers at least so many: 0.1111 is none


@dataclass(frozen=True)
class TokenBudget:
    """A budget in the ids of one vocabulary, for samples of at most `max_tokens` tokens. Made by `resolve`."""

    policy: Budget
    vocabulary: Vocabulary
    eos: frozenset[int]
    max_tokens: int
    limit: int | None  # thinking tokens at most; None: no limit but max_tokens
    start: tuple[int, ...]
    ends: tuple[str, ...]  # in pieces
    end: str  # in pieces
    ignore: tuple[tuple[int, ...], ...]
    plain_close: tuple[int, ...]  # the end without the cue
    cued_close: tuple[int, ...]
    lined_close: tuple[int, ...]  # as a limit writes it below text
    answers: tuple[tuple[int, ...], ...]

    def triggers(self, size: int) -> np.ndarray:
        """Which of the first `size` tokens can be the last one of an end of thinking or of the turn, bool [size]."""
        import numpy as np

        parts = tuple(end[i:] for end in self.ends for i in range(1, len(end)))
        pieces = map(self.vocabulary.piece, range(size))
        found = np.array([p.startswith(parts) or any(end in p for end in self.ends) for p in pieces], dtype=bool)
        found[[token for token in self.eos if token < size]] = True
        return found


def resolve(policy: Budget, vocabulary: Vocabulary, eos: Collection[int], max_tokens: int) -> TokenBudget:
    """`policy` for one vocabulary and one limit of generated tokens.

    Raises EngineError for a text that the tokenizer cannot produce, ValueError with the arithmetic for a budget that
    `max_tokens` has no room for, and for ignore strings that hold or begin an end of thinking.
    """
    eos = frozenset(eos)

    def ids_of(what: str, text: str) -> tuple[int, ...]:
        ids = vocabulary.encode(text)
        if not ids or (back := vocabulary.decode(ids)) != text:
            got = f"it gives {back!r}" if ids else "it has no tokens for it"
            raise EngineError(f"budget: this tokenizer cannot produce `{what}` {text!r} ({got}); choose another text")
        if eos & set(ids):
            raise EngineError(f"budget: `{what}` {text!r} holds the token that ends the turn; leave it out")
        return tuple(ids)

    def pieces_of(what: str, text: str) -> str:
        found = "".join(map(vocabulary.piece, ids_of(what, text)))
        return found if text.startswith((" ", SPACE)) else found.removeprefix(SPACE)

    ends = tuple(pieces_of("until" if policy.until else "end", text) for text in policy.ends)
    before = [("ignore", text) for text in policy.ignore] + ([("start", policy.start)] if policy.start else [])
    for what, text in before:
        pieces = pieces_of(what, text)
        for end, name in zip(ends, policy.ends, strict=True):
            # `start` may hold an end, as s1's does: what is written for the model is not searched for one.
            if (what == "ignore" and end in pieces) or _overlap(pieces, end):
                raise ValueError(f"budget: `{what}` {text!r} holds or begins {name!r}, which ends the thinking")
    start = ids_of("start", policy.start) if policy.start else ()
    cued = ids_of("end", policy.end + policy.answer_cue)
    lined = ids_of("end", "\n" + policy.end + policy.answer_cue) if policy.new_line else cued
    answers = tuple(ids_of("answers", text) for text in policy.answers)
    if answers and max(map(len, answers)) >= policy.answer_tokens:
        longest = max(map(len, answers))
        raise ValueError(
            f"answer_tokens {policy.answer_tokens} < {longest + 1}: {longest} of an answer and the end of the turn"
        )
    limit = policy.max_tokens
    if policy.answer_tokens:
        closing = max(len(cued), len(lined))
        room = max_tokens - len(start) - closing - policy.answer_tokens
        least = policy.min_tokens
        if room < least:
            needed = f"start {len(start)} + thinking {least} + closing {closing} ({policy.end + policy.answer_cue!r})"
            raise ValueError(
                f"max_tokens {max_tokens} has no room for this budget: {needed} + answer {policy.answer_tokens} = "
                f"{max_tokens - room + least} tokens; raise max_tokens or shorten the cue"
            )
        limit = room if limit is None else min(limit, room)
    return TokenBudget(
        policy=policy,
        vocabulary=vocabulary,
        eos=eos,
        max_tokens=max_tokens,
        limit=limit,
        start=start,
        ends=ends,
        end=pieces_of("end", policy.end),
        ignore=tuple(ids_of("ignore", text) for text in policy.ignore),
        plain_close=ids_of("end", policy.end),
        cued_close=cued,
        lined_close=lined,
        answers=answers,
    )


def _overlap(text: str, end: str) -> int:
    """Length of the longest proper beginning of `end` that `text` ends with."""
    return next((size for size in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:size])), 0)


@dataclass(frozen=True)
class Move:
    """What to do after the last token: forget the last `back` tokens, then write `forced`, then draw again."""

    back: int = 0
    forced: tuple[int, ...] = ()


STAY = Move()


class Forcer:
    """One sample under a budget. `ids` is what the completion will hold, forced tokens included as soon as decided."""

    def __init__(self, budget: TokenBudget) -> None:
        self.budget = budget
        self.ids: list[int] = []
        self.thinking = True
        self.ended = False
        self._free_from = 0  # what comes before was forced, or is settled
        self._ignored_at: list[int] = []
        self._closed_by: ClosedBy | None = None
        self._closed_at: int | None = None
        self._answer_at = 0
        self._open: list[tuple[int, ...]] = []  # what is left of the answers that can still be given
        self._forced: list[tuple[int, int]] = []
        self._discarded = 0

    @property
    def deadline(self) -> int:
        """The length of `ids` at which `advance` must be called at the latest."""
        longest = self.budget.max_tokens
        if self._open:
            return len(self.ids) + 1
        if not self.thinking or self.budget.limit is None:
            return longest
        return min(len(self.budget.start) + self.budget.limit, longest)

    @property
    def acts_on_ends(self) -> bool:
        """Whether an end of thinking that the model writes next has any consequence."""
        policy = self.budget.policy
        if not self.thinking:
            return False
        ignores = len(self._ignored_at) < policy.num_ignore or self._thought < policy.min_tokens
        return ignores or policy.cue == "always" or self.budget.ends != (self.budget.end,)

    @property
    def allowed(self) -> list[int]:
        """What the next token must be one of; []: anything."""
        return sorted({answer[0] for answer in self._open})

    def begin(self) -> Move:
        """What to write before the first draw."""
        if self.budget.start:
            self._replace(0, self.budget.start)
        if self.budget.limit == 0:
            self._close("budget")
        return Move(0, tuple(self.ids))

    def advance(self, tokens: Sequence[int]) -> Move:
        """Take in freely drawn tokens. All but the last must be without consequence: neither an end of the turn or of
        the thinking nor a loop nor the deadline. One at a time is always right.
        """
        if self.ended:
            raise ValueError("this sample has ended")
        self.ids += tokens
        move = self._think() if self.thinking else self._choose()
        last = self.ids[-1]
        if not move.forced and (last in self.budget.eos or len(self.ids) >= self.budget.max_tokens):
            self.ended = True
        return move

    def record(self) -> ForcingRecord:
        """What has happened so far."""
        end = len(self.ids) if self._closed_at is None else self._closed_at
        return ForcingRecord(
            thinking_tokens=end - len(self.budget.start),
            answer_tokens=0 if self._closed_at is None else len(self.ids) - self._answer_at,
            ignores=len(self._ignored_at),
            ignored_at=tuple(self._ignored_at),
            closed_by=self._closed_by,
            closed_at=self._closed_at,
            forced=tuple(self._forced),
            discarded=self._discarded,
        )

    @property
    def _thought(self) -> int:
        return len(self.ids) - len(self.budget.start)

    def _think(self) -> Move:
        if self.ids[-1] in self.budget.eos:
            return self._end_of_thinking(1, "", None)
        if (found := self._written_end()) is not None:
            return self._end_of_thinking(*found)
        if self.budget.limit is not None and self._thought >= self.budget.limit:
            return self._close("budget")
        if self.budget.policy.loop_repeats and self._loops():
            return self._close("loop")
        return STAY

    def _written_end(self) -> tuple[int, str, str] | None:
        """An end of thinking that the last token completes: its tokens, what its first token says before it, which."""
        pieces = [self.budget.vocabulary.piece(token) for token in self._tail(max(map(len, self.budget.ends)))]
        text = "".join(pieces)
        found = []
        for end in self.budget.ends:
            at = text.find(end, max(0, len(text) - len(pieces[-1]) - len(end) + 1))
            if at >= 0:
                found.append((at, end))
        if not found:
            return None
        at, end = min(found)
        return *_tokens_from(pieces, at), end

    def _tail(self, size: int) -> list[int]:
        """The last `size` tokens at most, none of them forced."""
        return self.ids[max(self._free_from, len(self.ids) - size) :]

    def _loops(self) -> bool:
        policy = self.budget.policy
        tail = self._tail(max(policy.loop_repeats * policy.loop_span, LOOP_TOKENS))
        for span in range(1, policy.loop_span + 1):
            size = loop_size(span, policy.loop_repeats)
            if size > len(tail):
                break
            if tail[-1] == tail[-1 - span] and tail[len(tail) - size + span :] == tail[len(tail) - size : -span]:
                return True
        return False

    def _end_of_thinking(self, size: int, prefix: str, end: str | None) -> Move:
        """The last `size` tokens say that the thinking is over. `end` is None for an end of turn."""
        budget, policy = self.budget, self.budget.policy
        thought = self._thought - size
        written = budget.vocabulary.decode(self.ids[: len(self.ids) - size]) if policy.opener else ""
        left_alone = policy.opener not in written
        wanted = not left_alone and (len(self._ignored_at) < policy.num_ignore or thought < policy.min_tokens)
        if wanted and budget.limit is not None:
            before = budget.vocabulary.spell(prefix)
            text = budget.ignore[len(self._ignored_at) % len(budget.ignore)]
            # at least one token must follow, or the ignore string would be the end of the thinking
            if thought + len(before) + len(text) < budget.limit:
                move = self._replace(size, (*before, *text))
                self._ignored_at.append(len(self.ids) - len(text))
                return move
        if end is None:
            if left_alone or policy.end_of_turn == "stop":
                return self._answer("end_of_turn", len(self.ids) - 1, STAY)
            return self._rewrite("end_of_turn", size, prefix, policy.cue != "limit")
        if left_alone or (end == budget.end and policy.cue != "always"):
            return self._answer("model", len(self.ids) - size, STAY)
        return self._rewrite("model", size, prefix, policy.cue == "always")

    def _close(self, why: ClosedBy) -> Move:
        """By force. The beginning of an end that the model was about to write goes first."""
        tail = [self.budget.vocabulary.piece(token) for token in self._tail(max(map(len, self.budget.ends)))]
        text = "".join(tail)
        begun = max(_overlap(text, end) for end in self.budget.ends)
        size, prefix = _tokens_from(tail, len(text) - begun) if begun else (0, "")
        return self._rewrite(why, size, prefix, cue=True)

    def _rewrite(self, why: ClosedBy, size: int, prefix: str, cue: bool) -> Move:
        """The closing text in the place of the last `size` tokens."""
        budget = self.budget
        before = tuple(budget.vocabulary.spell(prefix))
        if budget.limit is not None and self._thought - size + len(before) > budget.limit:
            before = ()  # half a token of the model's, which would not fit when spelt in whole ones
        if why in ("budget", "loop"):
            last = (*self.ids[: len(self.ids) - size], *before)[-1:]
            on_new_line = not last or budget.vocabulary.decode(last).endswith("\n")
            closing = budget.cued_close if on_new_line else budget.lined_close
        else:
            closing = budget.cued_close if cue else budget.plain_close
        at = len(self.ids) - size + len(before)
        move = self._answer(why, at, self._replace(size, (*before, *closing)))
        self._open = list(budget.answers) if cue else []
        return move

    def _choose(self) -> Move:
        """The last token belongs to an answer that must be one of a few; what then can be only one thing is written."""
        if not self._open:
            return STAY
        self._open = [answer[1:] for answer in self._open if answer[0] == self.ids[-1]]
        written: tuple[int, ...] = ()
        while all(self._open) and len({answer[0] for answer in self._open}) == 1:
            written += self._open[0][:1]
            self._open = [answer[1:] for answer in self._open]
        if not all(self._open):  # one of them is whole
            self._open = []
        return self._replace(0, written) if written else STAY

    def _answer(self, why: ClosedBy, at: int, move: Move) -> Move:
        self.thinking = False
        self._closed_by, self._closed_at = why, at
        self._answer_at = len(self.ids)
        return move

    def _replace(self, size: int, new: tuple[int, ...]) -> Move:
        """`new` in the place of the last `size` tokens. What both begin with stays: it need not be computed again."""
        old = self.ids[len(self.ids) - size :]
        same = 0
        while same < min(len(old), len(new) - 1) and old[same] == new[same]:
            same += 1
        move = Move(size - same, new[same:])
        first = len(self.ids) - move.back
        self.ids[first:] = move.forced
        self._discarded += move.back
        if move.forced:
            self._forced.append((first, len(self.ids)))
        self._free_from = len(self.ids)
        return move


def loop_size(span: int, repeats: int) -> int:
    """How many tokens a span must fill to count as a loop."""
    return max(span * repeats, LOOP_TOKENS)


def _tokens_from(pieces: Sequence[str], at: int) -> tuple[int, str]:
    """How many of the last pieces hold the text from character `at` on, and what the first of them says before."""
    first = 0
    while at >= len(pieces[first]):
        at -= len(pieces[first])
        first += 1
    return len(pieces) - first, pieces[first][:at]
