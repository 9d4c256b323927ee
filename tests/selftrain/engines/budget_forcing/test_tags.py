"""Where thinking tags are from, and budgets that a tokenizer or a chat template does not allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from data_process.prompts import PROMPT_SETS
from selftrain.engines.base import EngineError, SamplingParams
from selftrain.engines.budget import S1_M, TINY, Budget
from selftrain.engines.budget_forcing.tags import (
    ThinkingTags,
    asked_tags,
    check_kept,
    generation_prompt,
    opens,
    refuse_letters,
    thinking_tags,
)

ASSISTANT = "<|im_start|>assistant\n"
TAGS = ("<think>", "</think>")


class Characters:
    """A tokenizer of ASCII characters and a few whole marks."""

    def __init__(self, *marks: str) -> None:
        self.pieces = [*map(chr, range(128)), "<|im_start|>", "<|im_end|>", *marks]
        self.all_special_tokens, self.all_special_ids = ["<|im_start|>", "<|im_end|>"], [128, 129]
        self.eos_token_id = 129

    def __len__(self) -> int:
        return len(self.pieces)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        ids = []
        while text:
            piece = max((p for p in self.pieces if text.startswith(p)), key=len, default=None)
            if piece is None:
                text = text[1:]
                continue
            ids.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return {"input_ids": ids}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(self.pieces[token] for token in ids)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.pieces[token] for token in ids]

    def get_vocab(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(self.pieces)}

    def get_added_vocab(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(self.pieces) if token >= 128}


class Processor:
    """A chat template that writes `opening` where an answer begins; `about` stands in its text besides."""

    def __init__(self, opening: str = ASSISTANT, about: str = "", marks: Sequence[str] = ()) -> None:
        self.opening, self.chat_template = opening, f"{{ messages }}{about}{opening}"
        self.tokenizer = Characters(*marks)

    def apply_chat_template(self, turns: Any, *, tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        return "<|im_start|>user\nx<|im_end|>\n" + self.opening * add_generation_prompt


PLAIN = Processor()
THINKS = Processor(f"{ASSISTANT}<think>\n", "split('</think>')", TAGS)  # as Qwen3-VL-Thinking does
CLOSED = Processor(f"{ASSISTANT}<think>\n\n</think>\n\n", "", TAGS)  # a thought that the template leaves empty


@pytest.mark.parametrize(
    ("processor", "tags"),
    [
        (PLAIN, None),
        (Processor(marks=TAGS), ThinkingTags(*TAGS)),  # in the vocabulary
        (Processor(about="<reasoning></reasoning>"), ThinkingTags("<reasoning>", "</reasoning>")),
        (Processor(about="<think>"), None),  # no end
        (THINKS, ThinkingTags(*TAGS, opened=True)),
        (CLOSED, ThinkingTags(*TAGS)),
    ],
)
def test_tags_of_a_checkpoint(processor, tags):
    assert thinking_tags(processor) == tags


@pytest.mark.parametrize(
    ("name", "tags"), [("think", ThinkingTags(*TAGS)), ("r3v-qwen2vl", None), ("short", None), ("wemath", None)]
)
def test_tags_that_prompts_ask_for(name, tags):
    assert asked_tags(PROMPT_SETS[name].cot) == tags


def test_what_the_template_puts_before_a_completion():
    assert generation_prompt(THINKS) == f"{ASSISTANT}<think>\n"
    bare = Processor()
    bare.chat_template = None
    assert generation_prompt(bare) == ""
    assert [opens(text, *TAGS) for text in ("", "<think>\n", "<think>\n</think>\n", "</think><think>")] == [
        False, True, False, True,
    ]  # fmt: skip


START = replace(S1_M, start="<think>", answer_tokens=4)
BARE = replace(START, start="", opener="")


@pytest.mark.parametrize(
    ("processor", "budget", "error", "match"),
    [
        (THINKS, START, ValueError, r"opens the thinking itself \(its prompt ends with .*open it twice; leave `start`"),
        (THINKS, replace(START, start=""), ValueError, 'nothing would be forced; give the budget `opener: ""`'),
        (THINKS, BARE, None, ""),
        (THINKS, replace(BARE, start="First,"), None, ""),
        (CLOSED, START, None, ""),
        (PLAIN, START, None, ""),
        (PLAIN, TINY, None, ""),
        (PLAIN, None, None, ""),
        (PLAIN, replace(BARE, end="<|im_start|>answer"), None, ""),
        (PLAIN, replace(BARE, end="<|answer|>"), EngineError, r"`end` '<\|answer\|>' holds .* which is no token"),
        (PLAIN, replace(BARE, ignore=("<|wait|>",)), EngineError, r"`ignore` '<\|wait\|>' holds"),
        (PLAIN, replace(BARE, start="<|think|>"), EngineError, r"`start` '<\|think\|>' holds"),
        (PLAIN, replace(BARE, start="é"), EngineError, "cannot produce `start` 'é'"),
        (PLAIN, replace(BARE, answer_tokens=300), ValueError, "max_tokens 300 has no room"),
    ],
)
def test_budgets_are_checked_before_anything_is_sampled(processor, budget, error, match):
    params = SamplingParams(temperature=0, max_tokens=300, budget=budget)
    if error is None:
        check_kept([params], processor)
    else:
        with pytest.raises(error, match=match):
            check_kept([params], processor)


@pytest.mark.parametrize(
    ("answers", "choices", "refused"),
    [
        (("A)", "B)"), [("1", "2"), ()], True),
        (("A", " B"), [()], True),
        (("A)", "B)"), [("1", "2")], False),
        (("yes", "no"), [()], False),
        ((), [()], False),
    ],
)
def test_letters_for_problems_without_choices(answers, choices, refused):
    budget = Budget(end="</think>", answers=answers)
    refuse_letters(None, choices)
    if not refused:
        refuse_letters(budget, choices)
        return
    with pytest.raises(ValueError, match=rf"are letters .* 1 of {len(choices)} problems have no choices"):
        refuse_letters(budget, choices)
