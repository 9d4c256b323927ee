"""Gold answers as published tables hold them: lists of accepted answers, and the end of a worked solution."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from data_process.images.marks import PLACEHOLDER, without_leading_marks
from data_process.judging import check_gold
from data_process.schema import AnswerType, DataError, Problem, shown, wrong
from data_process.sources.base import is_missing, plain_value
from data_process.sources.choices import literal

MAX_ALTERNATIVES = 100
MAX_SHORT = 80  # characters of an assistant's turn that is the answer itself
AS_TEXT = "the gold answer cannot be read as mathematics, so it is judged as text"  # a note on the row
_LETTER = re.compile(r"[(（\[]?([A-J])[)）\]]?[.:]?")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_STATED = re.compile(
    r"^[\s*#>]*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:：]\s*(.+?)[\s*]*$"
    r"|\b(?:the|final|correct)\s+answer\s+is\s*:?\s*(.+?)\.?\s*$|^####\s*(.+?)\s*$|答案(?:是|为)?[:：]?\s*(.+?)[。\s]*$",
    re.IGNORECASE | re.MULTILINE,
)


def gold_letter_alone(gold: str) -> str | None:
    """The letter of a gold answer that is nothing but a letter of a choice: "B", "(B)", "B."."""
    found = _LETTER.fullmatch(gold.strip())
    return found[1] if found else None


def lower_letter(gold: str) -> str | None:
    """The letter, as a capital, of a gold answer that is a lower-case one: "b", "(b)". It may be a variable too."""
    found = re.fullmatch(r"[(（\[]?([a-j])[)）\].:]?", gold.strip())
    return found and found[1].upper()


def labelled_gold(gold: str) -> str | None:
    """The letter of a gold answer that gives the text of the choice too: "B. 2", "(C) blue"."""
    found = re.fullmatch(r"(?:[(（]([A-J])[)）]|([A-J])[.:：、)）])\s*\S.*", gold.strip(), re.DOTALL)
    return found and (found[1] or found[2])


def refuse_letter(letter: str, where: str, column: str, remedy: str) -> NoReturn:
    """DataError for a gold letter without choices: as text it would be credited for nothing but the letter."""
    wrong(where, f"column {column!r} holds the letter {letter!r}, but no choices were found; {remedy}")


def other_golds(row: Mapping[str, Any], where: str) -> list[str]:
    """The texts in a row's column "alternatives", as prepared folders have it: other accepted answers."""
    listed = row.get("alternatives")
    if not isinstance(listed, list | tuple):
        return []
    texts = [plain_value(text) for text in listed]
    if any(text is None or not text.strip() for text in texts):
        wrong(where, f"'alternatives' must be a list of accepted answers, found {shown(row['alternatives'])}")
    return [text for text in texts if text is not None]


def readable(gold: str, answer_type: AnswerType) -> bool:
    """Whether the judge of this type can read the gold answer."""
    try:
        check_gold(Problem("", "", gold, answer_type=answer_type))
    except DataError:
        return False
    return True


def final_answer(text: str) -> str | None:
    """What a worked solution states as its answer: in <answer> tags, a box, or after "Answer:"; None if it does not."""
    for pattern in (_TAGGED, _BOXED, _STATED):
        if found := list(pattern.finditer(text)):
            return next(group for group in found[-1].groups() if group is not None).strip()
    return None


def accepted(value: Any, form: str | None) -> tuple[Any, ...]:
    """The accepted answers in a cell: usually the one; those of a list of texts, any of which is right.

    `form`: "any" takes every list as alternatives and "ordered" none. Without it a list of several numbers is one
    answer, whose order counts, and a list of texts, also one that is written as text, holds alternatives.
    """
    listed = value if isinstance(value, list) else literal(value) if isinstance(value, str) else None
    if not isinstance(listed, list):
        return (value,)
    items = [item for item in listed if not is_missing(item)]
    if not isinstance(value, list) and not all(isinstance(item, str) for item in items) and form != "any":
        return (value,)  # "[1, 2]" stays as it is written
    if len(items) > 1 and (form == "ordered" or (form is None and not all(isinstance(item, str) for item in items))):
        return (value,)
    return tuple(items[: MAX_ALTERNATIVES + 1])


def read_golds(value: Any, pattern: str | None, form: str | None, where: str) -> tuple[str, ...]:
    """The gold answer of a cell, and after it the alternatives, as text. DataError if there is none."""
    cells = accepted(value, form)
    if len(cells) > MAX_ALTERNATIVES:
        wrong(where, f"more than {MAX_ALTERNATIVES} accepted answers; keep those that are meant")
    if not cells:
        wrong(where, f"no gold answer: found {shown(value)} (--map answer=COLUMN)")
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict) or (isinstance(item, list) and not all(isinstance(n, int | float) for n in item)):
            wrong(where, f"the gold answer must be text or a list of texts, found {shown(value)}")
    return tuple(dict.fromkeys(read_answer(cell, pattern, where) for cell in cells))


def read_answer(value: Any, pattern: str | None, where: str) -> str:
    """One gold answer as text; of a worked solution what it states last. `pattern` selects the group of its last match.

    DataError where there is none.
    """
    answer = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else plain_value(value)
    if answer is None or not answer.strip():
        wrong(where, f"no gold answer: found {shown(value)} (--map answer=COLUMN)")
    if tagged := _TAGGED.findall(answer):
        answer = tagged[-1]
    if pattern:
        found = re.findall(pattern, answer)
        if not found or not isinstance(found[-1], str):
            wrong(where, f"--answer-pattern {pattern!r} does not match the answer {shown(answer[-80:])}")
        answer = found[-1]
    else:
        answer = final_answer(answer) or answer
    if not answer.strip():
        wrong(where, f"no gold answer: found {shown(value)} (--map answer=COLUMN)")
    return answer.strip()


def from_turns(turns: Any, where: str) -> tuple[str, str]:
    """(question, answer) of a conversation: one turn of the user and one of the assistant, after a system turn or none.

    Turns are {"from", "value"} (LLaVA, Geo170K, MathV360K) or {"role", "content"}. DataError for anything else.
    """
    listed = turns if isinstance(turns, list) else []
    turns_of = [turn for turn in listed if isinstance(turn, dict) and turn.get("from", turn.get("role")) != "system"]
    values = [_said(turn.get("value", turn.get("content"))) for turn in turns_of]
    texts = [text for text in values if isinstance(text, str)]
    if len(texts) != 2 or len(values) != 2 or len(listed) > 3:
        wrong(where, f"expected one user turn and one assistant turn, found {len(listed)} turns: {shown(turns)}")
    asked, said = texts
    asked = re.sub(r"^((?:<image>\s*)*)(?:Question|问题)\s*[:：]\s*", r"\1", asked)
    answer = final_answer(said) or (said.strip() if len(said.strip()) <= MAX_SHORT and "\n" not in said.strip() else "")
    if not answer:
        wrong(where, f"the assistant's turn states no final answer: {shown(said[-80:])}; use --answer-pattern REGEX")
    return without_leading_marks(asked), answer


def images_of_turns(turns: Any) -> list[Any] | None:
    """The images that the user's turn of a conversation holds or marks; None where it has neither.

    Parts of a turn hold them, {"type": "image_url", "image_url": {"url": ...}} or {"type": "image", "image": ...}, and
    texts mark them as `<image>`. For a mark alone the list holds nothing.
    """
    found: list[Any] = []
    marked = False
    for turn in turns if isinstance(turns, list) else []:
        content = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, dict) and str(part.get("type")).startswith("image"):
                marked = True
                found.extend(held for name in ("image_url", "image", "url", "path") if (held := part.get(name)))
            text = part.get("text") if isinstance(part, dict) else part
            marked = marked or (isinstance(text, str) and PLACEHOLDER in text)
    return found if marked else None


def _said(content: Any) -> Any:
    """The text of a turn; its parts of text where it is a list of parts."""
    if not isinstance(content, list):
        return content
    return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and part.get("text") is not None)


def whole_number(value: Any) -> Any:
    """1.0 and "1.0" as 1, since tables turn a column with gaps into decimals. Other values are left to later checks."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}(?:\.0+)?", value.strip()):
        return int(float(value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def common_type(kinds: Sequence[AnswerType], golds: Sequence[str]) -> AnswerType:
    """One answer type for several accepted answers: text unless one type can read them all."""
    kind = kinds[0] if len(set(kinds)) == 1 else "expression" if set(kinds) == {"number", "expression"} else "text"
    return kind if all(readable(gold, kind) for gold in golds) else "text"
