"""How long a model thinks before it answers, as data: budgets, published presets, and budgets in a configuration.

A budget is written in strings, so that it means the same to every engine, whatever its tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StrictBool, StrictStr, model_serializer, model_validator

from selftrain.engine_settings import Section

Count = Annotated[int, Field(ge=0, strict=True)]


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


class BudgetSettings(Section):
    """A budget in a configuration: the name of a preset, or a mapping of fields of `Budget`.

    With `preset` the fields given replace those of the preset. Without it `end` is needed. A name alone is written as
    such, and a mapping holds what was given and nothing else, so that a new field changes no identity of a run.
    """

    preset: StrictStr | None = None
    end: StrictStr = ""
    until: tuple[StrictStr, ...] = ()
    start: StrictStr = ""
    opener: StrictStr = ""
    ignore: tuple[StrictStr, ...] = ()
    num_ignore: Count = 0
    min_tokens: Count = 0
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    answer_cue: StrictStr = ""
    cue: Literal["always", "forced", "limit"] = "forced"
    answers: tuple[StrictStr, ...] = ()
    new_line: StrictBool = False
    end_of_turn: Literal["stop", "close"] = "stop"
    answer_tokens: Count = 0
    loop_repeats: Count = 0
    loop_span: Annotated[int, Field(ge=1, strict=True)] = 64

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_preset(cls, values: Any) -> Any:
        if not isinstance(values, str | Mapping | BudgetSettings):
            raise ValueError("a budget is the name of a preset, or a mapping of fields")
        return {"preset": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _can_be_kept(self) -> BudgetSettings:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"no budget {self.preset!r}; known: {', '.join(sorted(PRESETS))}")
        if self.preset is None and "end" not in self.model_fields_set:
            raise ValueError(
                f"a budget names a preset ({', '.join(sorted(PRESETS))}) or says what ends the thinking: "
                'give `preset` or `end`, e.g. {preset: s1-m, start: "<think>"}'
            )
        self.budget()
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        given = {name: value for name, value in handler(self).items() if name in self.model_fields_set}
        return given["preset"] if given.keys() == {"preset"} else given

    def __str__(self) -> str:
        given = self.model_dump(mode="json")
        return given if isinstance(given, str) else "{" + ", ".join(f"{k}: {v!r}" for k, v in given.items()) + "}"

    @property
    def given(self) -> frozenset[str]:
        """Names of the fields that the configuration sets itself."""
        return frozenset(self.model_fields_set - {"preset"})

    def budget(self, **placed: int | None) -> Budget:
        """The budget, with fields that the caller places. ValueError for one that cannot be."""
        fields = {**{name: getattr(self, name) for name in self.given}, **placed}
        return replace(preset(self.preset), **fields) if self.preset else Budget(**fields)

    def refuse(self, placed: Mapping[str, str]) -> BudgetSettings:
        """ValueError for a field that its place sets from elsewhere; `placed` says where each of these comes from."""
        for name in sorted(self.given & placed.keys()):
            raise ValueError(f"{name} comes from {placed[name]}; leave it out of the budget")
        return self
