"""How long a model thinks before it answers, as data; and the record of what a budget did to one sample.

A budget is written in strings, so that it means the same to every engine, whatever its tokenizer.
`budget_forcing/state_machine.py` turns it into token ids and applies it, `budget_forcing/batched.py` to a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ClosedBy = Literal["model", "budget", "loop", "end_of_turn"]


@dataclass(frozen=True)
class Budget:
    """When thinking is prolonged and when it is closed. All counts are tokens of the model's own tokenizer.

    The model ends its thinking itself with one of `until` or with its end of turn. While ignores are left, that end is
    taken out again and the next ignore string is written in its place; after that it stays.
    """

    end: str  # what ends the thinking in the text: "</think>", "<|im_start|>answer", a plain cue; any number of tokens
    until: tuple[str, ...] = ()  # what counts as the end when the model writes it; (): `end` alone
    start: str = ""  # written before the model's first token, and no part of the budget
    opener: str = ""  # a sample that stops by itself without having written this has not thought: it is let through
    ignore: tuple[str, ...] = ()  # written in turn where the model ends its thinking
    num_ignore: int = 0  # ends of thinking that are replaced, as far as the budget goes
    min_tokens: int = 0  # of thinking; earlier ends are replaced too, beyond `num_ignore` if need be
    max_tokens: int | None = None  # of thinking at most; None: as many as SamplingParams.max_tokens leaves
    answer_cue: str = ""  # follows `end`: "\nAnswer: ("
    # When it does: "always"; "forced" unless the model wrote the end itself; "limit" only after a budget or a loop.
    cue: Literal["always", "forced", "limit"] = "forced"
    # What may follow a cue that was forced: the model's own probabilities choose among these. (): anything. A model
    # that is truncated often does not know how to continue: "Answer: (</)".
    answers: tuple[str, ...] = ()
    new_line: bool = False  # a limit's `end` begins on a new line
    # What an end of turn within the thinking comes to when no ignore is left: the sample's end, or the thinking's.
    end_of_turn: Literal["stop", "close"] = "stop"
    # Kept free for the answer after the cue, out of SamplingParams.max_tokens: thinking that comes so far is closed.
    # 0: a sample that reaches max_tokens is truncated, as without a budget.
    answer_tokens: int = 0
    loop_repeats: int = 0  # thinking that repeats a span this many times is closed; 0: never
    loop_span: int = 64  # longest span looked for

    def __post_init__(self) -> None:
        if not self.end or not all(self.until):
            raise ValueError("a budget needs `end`, the text that ends the thinking, and no empty string in `until`")
        for name in ("num_ignore", "min_tokens", "answer_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, not {getattr(self, name)}")
        if (self.num_ignore or self.min_tokens) and not self.ignore:
            raise ValueError("num_ignore and min_tokens need `ignore`: a text that takes the place of the end")
        if not all(self.answers):
            raise ValueError("an answer in `answers` is empty")
        if not all(self.ignore):
            raise ValueError("an ignore string is empty: the model would write the same end again")
        if self.max_tokens is not None and self.max_tokens < max(self.min_tokens, 0):
            raise ValueError(f"max_tokens {self.max_tokens} of thinking < min_tokens {self.min_tokens}")
        if self.loop_repeats < 0 or self.loop_repeats == 1 or self.loop_span < 1:
            raise ValueError(
                f"loop_repeats {self.loop_repeats} must be 0 or >= 2, loop_span {self.loop_span} must be >= 1"
            )
        if self.acts and self.answer_tokens < 1:
            raise ValueError(
                "this budget changes texts, so it must keep room for the answer: set answer_tokens to what an answer "
                "takes after the cue (a letter and the end of the turn: 4)"
            )

    @property
    def ends(self) -> tuple[str, ...]:
        """What ends the thinking when the model writes it."""
        return self.until or (self.end,)

    @property
    def acts(self) -> bool:
        """Whether a text can come out differently under this budget, `start` apart."""
        return bool(
            self.num_ignore
            or self.min_tokens
            or self.max_tokens is not None
            or self.loop_repeats
            or self.cue == "always"
            or self.end_of_turn == "close"
            or self.ends != (self.end,)
        )


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


# ---- published procedures --------------------------------------------------------------------------------------------

# simplescaling/s1@77272c6, eval/lm-evaluation-harness/lm_eval/models/vllm_causallms.py: any <|im_start|> ends the
# thinking and becomes `Wait` (no space); only a length stop is given the cue, on a new line if need be; 100 tokens are
# left for the answer. Two differences: there each of the n + 1 rounds had the whole budget and was cut afterwards; and
# a model could not stop again directly after `Wait`, which here counts as one more end of thinking.
S1 = Budget(
    start="<|im_start|>think",
    end="<|im_start|>answer",
    until=("<|im_start|>",),
    ignore=("Wait",),
    answer_cue="\nFinal Answer:",
    cue="limit",
    new_line=True,
    end_of_turn="close",
    answer_tokens=100,
)

# PKU-Alignment/s1-m@eda0221, evaluation-test_time_scaling_law/MathVista/budget_forcing.py: a reply without <think> is
# left alone, every other one is given the cue. There every round ran on beyond </think> into an answer that was cut
# off again and charged to the 30,000 tokens, and nothing was kept for the last answer; here neither.
S1_M = Budget(
    end="</think>",
    opener="<think>",
    ignore=(
        "Wait,",
        "Maybe I made a mistake.",
        "Let me check if all the intermediate results are correct.",
        "I need to check if I missed any step in my previous thinking.",
        "Did I make a mistake in any step of the previous reasoning?",
        "Let me check again,",
        "I need to think more and check again.",
    ),
    max_tokens=30_000,
    answer_cue="\nFinal answer: ",
    cue="always",
    end_of_turn="close",
    answer_tokens=512,
)

# For the tiny model that comes with the project: what its base was trained to write, token for token.
TINY = Budget(
    end="</think>",
    ignore=(" Wait,",),
    answer_cue="\nAnswer: (",
    answers=("A)", "B)", "C)", "D)"),
    answer_tokens=4,  # the letter, the bracket, the end of turn, and one to spare
    loop_repeats=4,
)

PRESETS: dict[str, Budget] = {"s1": S1, "s1-m": S1_M, "tiny": TINY}


def preset(name: str) -> Budget:
    """A published budget by name, for `dataclasses.replace`; KeyError with the known names otherwise."""
    if name not in PRESETS:
        raise KeyError(f"no budget {name!r}; known: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
