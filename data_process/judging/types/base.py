"""What every answer type provides, and how the answer that was found becomes a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data_process.judging.locate.cues import Found
from data_process.schema import DataError, Problem, Verdict


class UnreadableGold(DataError):
    """The judge of the problem's type cannot read the gold answer; as `text` it can be judged by its wording."""


@dataclass(frozen=True)
class AnswerJudge:
    """How answers of one type are judged."""

    # (text, problem, truncated) -> Verdict. Never raises because of the text; DataError for an unusable gold answer.
    judge: Callable[[str, Problem, bool], Verdict]
    check_gold: Callable[[Problem], object]  # raises DataError where `judge` cannot use the problem's gold answer
    instruction: str  # how the optional LLM extractor is told to write such an answer; may hold {letters}


def verdict_on(found: Found, is_correct: Callable[[str], bool]) -> Verdict:
    """Abstain where no answer was found, otherwise what `is_correct` says of the answer."""
    if found.answer is None:
        return Verdict("abstain", None, found.rule)
    status = is_correct(found.answer)
    return Verdict("correct" if status else "wrong", found.answer, found.rule, found.span, found.note)
