"""Lists: `[2014, 2016]`, `2014 and 2016`, `(1, 2)`. The order counts, because the question sets it."""

from __future__ import annotations

import re
from functools import lru_cache

from data_process.judging.locate.cues import Place, Reading, find_answer
from data_process.judging.maths.canonical import canonical_expression
from data_process.judging.maths.number_words import to_digits
from data_process.judging.maths.quantity import MAX_PAYLOAD, canonical, clean, plain, read_quantity
from data_process.judging.types.base import AnswerJudge, UnreadableGold, verdict_on
from data_process.schema import Problem, Verdict

MAX_ITEMS = 40
_BRACKETED = re.compile(r"\\?[\[({]([^\[\](){}]{1,280})\\?[\])}]")
_SQUARE = re.compile(r"\[([^\[\]]{1,280})\]")
_LEAD = re.compile(r"^[^\[({0-9]{0,200}?(?:\b(?:is|are|be|list|as|were|was)\b|[:=])\s*", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][A-Za-z -]{0,30}")


def _item(text: str) -> str | None:
    text = text.strip().strip("'\"“”")
    quantity = read_quantity(text, strict=True) or read_quantity(to_digits(text), strict=True)
    if quantity is not None:
        return canonical(quantity.value)
    return canonical_expression(text) if re.search(r"[0-9π√]", text) else plain(text) or None


@lru_cache(maxsize=1 << 12)
def read_items(text: str) -> tuple[str, ...] | None:
    """The items of a list that stands alone, each as canonical text; None where it is not a list.

    Without brackets a list has at least two items, all of them numbers. A comma always separates: `[1,234]` has two
    items. Only where every separator is `, ` or `;` may a comma inside a number separate thousands.
    """
    text = clean(text)
    m = _BRACKETED.fullmatch(text.rstrip(" ."))
    inner = m[1] if m else text.rstrip(" .")
    inner = re.sub(r",?\s+(?:and|&)\s+", ", ", inner)
    parts = re.split(r"\s*;\s*|,\s+" if re.search(r"[;]|,\s", inner) else r",", inner.strip())
    if (not m and len(parts) < 2) or len(parts) > MAX_ITEMS:
        return None
    if re.search(r",\s", inner) and any(
        "," in part and not re.search(r"[0-9],[0-9]{3}(?![0-9])", part) for part in parts
    ):
        parts = re.split(r"\s*,\s*", inner.strip())
    items = tuple(item for item in map(_item, parts) if item is not None)
    if len(items) < len(parts):
        return None
    # Words are items only in brackets: "yes, because it is" is a sentence.
    return items if m or all(re.match(r"-?[0-9]", item) for item in items) else None


def read_list(payload: str, place: Place) -> Reading:
    """The list that `payload` states, as canonical text `[a, b]`."""
    payload = payload[:MAX_PAYLOAD]
    items = read_items(payload)
    if items is None and place in ("inline", "statement"):
        text = clean(payload)
        groups = [m[1] for m in _SQUARE.finditer(text)] or [m[1] for m in _BRACKETED.finditer(text) if "," in m[1]]
        if len(groups) == 1:  # "The chain code is [0, 2, 1], read clockwise"
            items = read_items(f"[{groups[0]}]")
        elif not groups:
            rest = _LEAD.sub("", text)
            items = read_items(re.split(r"[.;!?](?=\s|$)", rest)[0]) if rest else None
    if items is None:
        return Reading(None, "unreadable_answer" if payload.strip() else "no_answer")
    return Reading(f"[{', '.join(items)}]", "list")


def read_gold(problem: Problem) -> str:
    """The gold list as canonical text; DataError where it cannot be read."""
    items = read_items(problem.answer)
    if items is None:
        raise UnreadableGold(f"problem {problem.id}: gold {problem.answer!r} is not a list; write it as [1, 2, 3]")
    return f"[{', '.join(items)}]"


def judge_list(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Correct where the items are equal and in the same order; DataError where the gold answer is not a list."""
    gold = read_gold(problem)
    return verdict_on(find_answer(text, read_list, truncated), lambda answer: answer == gold)


LIST = AnswerJudge(judge_list, read_gold, "Write it as a list of numbers such as [1, 2, 3].")
