"""What a text may not hold if it is to be trained on: another model's thinking tags, and talk of a given answer."""

from __future__ import annotations

import re

OPEN, CLOSE = "<think>", "</think>"  # the thinking tags that models of this project are taught
Tags = tuple[str, str]  # what opens and what closes the thinking

# Published ones: OpenThoughts and Sky-T1, s1, Seed-OSS, Magistral, Kimi-VL, and the plain words that others use.
_FOREIGN = re.compile(
    r"<\|?/?(?:begin|end)_of_(?:thought|solution)\|?>|<\|im_start\|>\s*(?:think|answer)\b|</?seed:think>|\[/?THINK\]"
    r"|◁/?think▷|</?(?:thinking|thoughts?|reasoning|reason|reflection|scratchpad|analysis)>",
    re.IGNORECASE,
)
# Says that the answer was given. "The answer is (B)" does not, nor does "Given that AB = 3".
_TOLD = re.compile(
    r"\bhint(?:s|ed)?\b"
    r"|\b(?:given|provided|supplied|stated|known|expected|reference|gold|ground[- ]truth|official|claimed)\s+"
    r"(?:final\s+|correct\s+|right\s+)?answer\b"
    r"|\b(?:correct|right|final|true)\s+(?:answer|option|choice|letter)\s+(?:is|was)\s+(?:already\s+)?"
    r"(?:given|provided|stated|known|told|said)\b"
    r"|\banswer\b[^.\n]{0,20}\b(?:is|was|were|as|has\s+been)\s+(?:already\s+)?(?:given|provided|stated|told|known)\b"
    r"|\b(?:told|informed|given|know|knowing)\s+(?:us\s+|me\s+|already\s+)?(?:that\s+)?the\s+(?:final\s+)?"
    r"(?:correct\s+|right\s+)?answer\b"
    r"|\b(?:must|should|has\s+to|needs?\s+to)\s+(?:match|agree\s+with|lead\s+to|arrive\s+at|equal|be)\s+the\s+"
    r"(?:correct\s+|given\s+|right\s+)answer\b"
    r"|\b(?:to|which|that)\s+(?:match|matches|agrees\s+with|gets?\s+to|justif(?:y|ies))\s+the\s+"
    r"(?:correct\s+|given\s+|right\s+)?answer\b"
    r"|\b(?:since|because|as)\s+the\s+(?:correct|right)\s+(?:answer|option|choice)\s+is\b",
    re.IGNORECASE,
)


def retagged(text: str, tags: Tags) -> str:
    """The text with another model's tags replaced by OPEN and CLOSE."""
    return text if tags == (OPEN, CLOSE) else text.replace(tags[0], OPEN).replace(tags[1], CLOSE)


def thinking_fault(text: str) -> str | None:
    """Why the thinking of a whole response cannot be taught: "foreign_tags", "malformed_thinking"; None if it can.

    A response thinks once, between OPEN at its beginning and CLOSE, and then answers; or it has no tags at all.
    """
    if _FOREIGN.search(text):
        return "foreign_tags"
    if OPEN not in text and CLOSE not in text:
        return None
    thought, closed, answer = text.strip().removeprefix(OPEN).partition(CLOSE)
    once = text.count(OPEN) == 1 and text.count(CLOSE) == 1 and text.lstrip().startswith(OPEN)
    return None if once and closed and thought.strip() and answer.strip() else "malformed_thinking"


def mentions_being_told(text: str) -> bool:
    """Whether a solution says that its answer was given to it, so that it derives nothing."""
    return _TOLD.search(text) is not None
