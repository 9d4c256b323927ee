"""The tags that a model thinks between, and whether its tokenizer and its chat template can keep a budget."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from selftrain.engines.base import EngineError, SamplingParams
from selftrain.engines.budget import Budget
from selftrain.engines.budget_forcing.state_machine import resolve
from selftrain.engines.budget_forcing.tokenizer import TokenizerVocabulary

NAMES = ("think", "thinking", "thought", "reasoning")  # of tags that models are published with
_SPECIAL = re.compile(r"<\|[^|<>]*\|>")  # how special tokens are spelt: <|im_start|>
_LETTER = re.compile(r"\W*[A-J]\W*")


@dataclass(frozen=True)
class ThinkingTags:
    """What stands around a thought in a model's texts."""

    start: str
    end: str
    opened: bool = False  # whether the chat template writes `start` at the end of every prompt


def thinking_tags(processor: Any) -> ThinkingTags | None:
    """The tags that a checkpoint knows: single tokens of its vocabulary, or written in its chat template.

    None where neither names any: such a model thinks between tags only if a prompt asks for it.
    """
    template, known = _template(processor), processor.tokenizer.get_vocab()
    opening = generation_prompt(processor)
    for name in NAMES:
        start, end = f"<{name}>", f"</{name}>"
        if (start in known and end in known) or (start in template and end in template):
            return ThinkingTags(start, end, opened=opens(opening, start, end))
    return None


def asked_tags(prompt: str) -> ThinkingTags | None:
    """The tags that a prompt asks for; None if it asks for none."""
    pairs = [(f"<{name}>", f"</{name}>") for name in NAMES]
    return next((ThinkingTags(start, end) for start, end in pairs if start in prompt and end in prompt), None)


def generation_prompt(processor: Any) -> str:
    """What the chat template writes between a user's turn and the completion; "" without a chat template."""
    if not _template(processor):
        return ""
    turns = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    asked, bare = (
        str(processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=more)) for more in (True, False)
    )
    return asked.removeprefix(bare)


def opens(text: str, start: str, end: str) -> bool:
    """Whether `text` leaves a thought open: `<think>\\n`. A closed one, `<think></think>`, is none."""
    return text.rfind(start) > text.rfind(end)


def check_kept(decodings: Iterable[SamplingParams], processor: Any) -> None:
    """ValueError or EngineError for a budget that cannot be kept, or would do nothing, with this processor."""
    budgets = {(params.budget, params.max_tokens) for params in decodings if params.budget is not None}
    if not budgets:
        return
    tokenizer, opening = processor.tokenizer, generation_prompt(processor)
    vocabulary = TokenizerVocabulary(tokenizer)
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    for budget, max_tokens in budgets:
        for what, text in _texts(budget):
            for mark in _SPECIAL.findall(text):
                if mark not in special:
                    raise EngineError(
                        f"budget: `{what}` {text!r} holds {mark!r}, which is no token of this model; it would be "
                        "spelt out as text that the model has never seen. Take the tags that its chat template has"
                    )
        _check_opening(budget, opening)
        resolve(budget, vocabulary, [tokenizer.eos_token_id], max_tokens)


def refuse_letters(budget: Budget | None, choices: Sequence[Sequence[str]]) -> None:
    """ValueError for answers that are letters where a problem has no choices. `choices`: of each problem."""
    if budget is None or not budget.answers or not all(map(_LETTER.fullmatch, budget.answers)):
        return
    free = sum(not several for several in choices)
    if free:
        raise ValueError(
            f"this budget's forced answers are letters ({', '.join(budget.answers)}), but {free} of {len(choices)} "
            "problems have no choices; give it `answers: []` and a cue that no bracket opens"
        )


def _check_opening(budget: Budget, opening: str) -> None:
    """ValueError where the chat template opens the thinking itself: `start` would do so again."""
    for name in NAMES:
        start, end = f"<{name}>", f"</{name}>"
        if not opens(opening, start, end):
            continue
        advice = f"the chat template opens the thinking itself (its prompt ends with {opening[-40:]!r})"
        if start in budget.start:
            raise ValueError(f"{advice}, and `start` {budget.start!r} would open it twice; leave `start` out")
        if start in budget.opener:
            raise ValueError(
                f"{advice}, so no text holds the opener {budget.opener!r}, and nothing would be forced; give the "
                'budget `opener: ""`'
            )


def _texts(budget: Budget) -> list[tuple[str, str]]:
    """Every text that a budget writes or looks for, with the name of its field."""
    several = [(name, text) for name in ("until", "ignore", "answers") for text in getattr(budget, name)]
    single = [(name, getattr(budget, name)) for name in ("end", "start", "opener", "answer_cue")]
    return [*single, *several]


def _template(processor: Any) -> str:
    """The chat template; a processor without one takes its tokenizer's. A named set of templates: all of them."""
    found = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None) or ""
    return "\n".join(found.values()) if isinstance(found, dict) else str(found)
