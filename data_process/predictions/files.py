"""Files of problems and files of answers as users have them, read with every field checked and joined by id.

Problems: `id` or `pid`, `question` or `query`, `answer` or `gold`, and where they apply `choices`, `question_type`,
`answer_type`, `precision`, `unit`, `tolerance`. Answers: `id` or `pid`, `response` or `output`, and where it applies
`extraction`, `finish` ("length": cut by the token limit) and `metadata`. Both JSON Lines, plain or `.gz`. Ids may be
text or whole numbers and are joined as text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.io import choices_of, numbered_rows, problem_from_row
from data_process.judging import check_gold
from data_process.judging.maths.quantity import read_quantity
from data_process.judging.published.registry import Response
from data_process.schema import ANSWER_TYPES, LETTERS, AnswerType, DataError, Problem

SHOWN_IDS = 5
_MATHS = re.compile(r"[0-9\\√π^=<>≤≥]|(?<![A-Za-z])(?:pi|sqrt|x|y|z)(?![A-Za-z])")


@dataclass(frozen=True)
class Question:
    """A problem and the row it was read from, which a result file in the official format repeats."""

    problem: Problem
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """One row of an answer file. `response.extraction` counts only if `has_extraction`: null is a value there."""

    id: str
    response: Response
    has_extraction: bool
    where: str
    metadata: Mapping[str, Any] | None = None  # MathVista's, where the row repeats it as official result files do


def _one_of(row: Mapping[str, Any], names: tuple[str, str], where: str) -> Any:
    """The value under one of two names; DataError when there is none, or two that differ."""
    held = [name for name in names if name in row]
    if not held:
        raise DataError(
            f"{where}: no {names[0]!r} and no {names[1]!r}; the row has {', '.join(map(str, row)) or 'nothing'}"
        )
    if len(held) == 2 and str(row[names[0]]) != str(row[names[1]]):
        raise DataError(
            f"{where}: {names[0]!r} and {names[1]!r} differ ({row[names[0]]!r:.60}, {row[names[1]]!r:.60}); keep one"
        )
    return row[held[0]]


def _id(row: Mapping[str, Any], where: str) -> str:
    value = _one_of(row, ("id", "pid"), where)
    if isinstance(value, float) and value.is_integer():  # what a table with a missing id makes of whole numbers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{where}: an id must be text or a whole number, found {value!r:.60}")
    return str(value)


def _gold(row: Mapping[str, Any], where: str) -> str:
    value = _one_of(row, ("answer", "gold"), where)
    if isinstance(value, bool) or not isinstance(value, str | int | float | list):
        more = "; the public files of a test split have no gold answers" if value is None else ""
        raise DataError(f"{where}: the gold answer must be text, a number or a list, found {value!r:.60}{more}")
    return value if isinstance(value, str) else str(value)


def gold_letter(gold: str, choices: tuple[str, ...], *, by_text: bool) -> str | None:
    """The letter of a gold answer written as a letter or as the text of a choice; None if it is neither.

    `by_text`: the text is tried first, as MathVista writes it (among the choices B, A the answer "A" is the second).
    Of several choices with the gold text the first is named; the judges credit the others too.
    """
    letters = LETTERS[: len(choices)]
    written = letters[choices.index(gold)] if gold in choices else None
    letter = gold if len(gold) == 1 and gold in letters else None
    return (written or letter) if by_text else (letter or written)


def free_answer_type(gold: str) -> AnswerType:
    """The answer type of a problem without choices that states none: number, list, expression or text.

    The first that can read the gold answer; words without any sign of mathematics are text.
    """
    if read_quantity(gold, strict=True) is not None:
        return "number"
    if gold.strip().startswith("[") and _readable(gold, "list"):
        return "list"
    return "expression" if _MATHS.search(gold) and _readable(gold, "expression") else "text"


def _readable(gold: str, answer_type: AnswerType) -> bool:
    try:
        check_gold(Problem("", "", gold, answer_type=answer_type))
    except DataError:
        return False
    return True


def _whole_number(value: Any) -> Any:
    """1.0 as 1: tables turn a column with gaps into decimals. Everything else is left for the check of the field."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _question(row: Mapping[str, Any], where: str, geoqa: bool) -> Question:
    identifier = _id(row, where)
    where = f"{where}, problem {identifier!r}"
    kind = row.get("question_type")
    if kind not in (None, "multi_choice", "free_form"):
        raise DataError(f"{where}: 'question_type' must be multi_choice or free_form, found {kind!r}")
    gold = _gold(row, where)
    choices = choices_of(row.get("choices"), where) if kind != "free_form" else ()
    if kind == "multi_choice" and not choices:
        raise DataError(f"{where}: a multi_choice problem needs 'choices'")
    answer_type = row.get("answer_type")
    if answer_type is not None and answer_type not in ANSWER_TYPES:
        raise DataError(f"{where}: unknown answer_type {answer_type!r}; known: {', '.join(ANSWER_TYPES)}")
    if choices:
        letter = gold_letter(gold, choices, by_text=kind is not None)
        if letter is None:
            raise DataError(
                f"{where}: the gold answer {gold!r:.60} is neither one of the letters {LETTERS[: len(choices)]} nor "
                f"the text of a choice ({', '.join(map(repr, choices))})"
            )
        answer_type, gold = "choice", letter
    elif answer_type is None:
        # A GeoQA response may end in 5√3 where the gold answer is 8: wrong, where a number's judge would read nothing.
        answer_type = "expression" if geoqa else free_answer_type(gold)
    # `question` where there are both: MathVista's `query` repeats it with the hint and the choices.
    question = row["question"] if "question" in row else _one_of(row, ("question", "query"), where)
    fields = {
        "id": identifier,
        "question": question,
        "answer": gold,
        "choices": list(choices),
        "answer_type": answer_type,
        "precision": _whole_number(row.get("precision")),
        "unit": row.get("unit"),
        "tolerance": row.get("tolerance"),
    }
    return Question(problem_from_row(fields, where, Path()), row)


def read_questions(path: Path, *, geoqa: bool = False) -> dict[str, Question]:
    """The problems of a file by id, in the order of the file.

    `geoqa`: a problem without choices and without a type is an expression, whatever its gold answer looks like.

    Raises DataError, naming file and line, for a row that is no problem, for a gold answer outside the choices, for an
    id used twice (both lines), and for a file without problems.
    """
    questions: dict[str, Question] = {}
    lines: dict[str, str] = {}
    for where, row in numbered_rows(path):
        found = _question(row, where, geoqa)
        identifier = found.problem.id
        if identifier in lines:
            raise DataError(
                f"{where}: problem id {identifier!r} was already used ({lines[identifier]}); ids must be unique"
            )
        lines[identifier], questions[identifier] = where, found
    if not questions:
        raise DataError(f"{path}: holds no problems")
    return questions


def _answer(row: Mapping[str, Any], where: str) -> Answer:
    identifier = _id(row, where)
    text = _one_of(row, ("response", "output"), where)
    if not isinstance(text, str):
        raise DataError(
            f"{where}, answer {identifier!r}: the response must be text, found {type(text).__name__} {text!r:.60}; "
            'write "" where there was no response'
        )
    # Only "length" says that the text was cut; other words of engines and servers all mean that it ended.
    truncated = row.get("finish", row.get("finish_reason")) == "length"
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise DataError(
            f"{where}, answer {identifier!r}: 'metadata' must be an object, found {type(metadata).__name__}"
        )
    return Answer(identifier, Response(text, row.get("extraction"), truncated), "extraction" in row, where, metadata)


def read_answers(path: Path, known: Collection[str], problems: Path) -> dict[str, Answer]:
    """The answers of a file by problem id. `known`: the ids of the file `problems`, which messages name.

    Raises DataError for a row without id or response, for an id answered twice (both lines), and for ids that are in no
    problem, of which it names up to 5. Problems without an answer are the caller's to count.
    """
    answers: dict[str, Answer] = {}
    unknown: list[Answer] = []
    for where, row in numbered_rows(path):
        answer = _answer(row, where)
        if answer.id in answers:
            raise DataError(
                f"{where}: problem {answer.id!r} was already answered ({answers[answer.id].where}); keep one of the two"
            )
        answers[answer.id] = answer
        if answer.id not in known:
            unknown.append(answer)
    if unknown:
        shown = ", ".join(f"{a.id!r} ({a.where.removeprefix(f'{path}, ')})" for a in unknown[:SHOWN_IDS])
        more = f" and {len(unknown) - SHOWN_IDS} more" if len(unknown) > SHOWN_IDS else ""
        raise DataError(
            f"{path}: {len(unknown)} answers are to problems that {problems} does not hold: {shown}{more}; "
            "score against the problems that were asked, or remove these rows"
        )
    return answers
