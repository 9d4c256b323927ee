"""Reads files of problems and files of answers as users have them, checks every field and joins them by id.

Problems: `id` or `pid`, `question` or `query`, `answer` or `gold`, and where they apply `choices`, `question_type`,
`answer_type`, `precision`, `unit`, `tolerance`. Answers: `id` or `pid`, `response` or `output`, and where it applies
`extraction`, `finish` ("length": truncated at the token limit) and `metadata`. Both are JSON Lines, plain or `.gz`. Ids
may be text or whole numbers and are compared as text.
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
from data_process.schema import ANSWER_TYPES, LETTERS, AnswerType, DataError, Problem, wrong

SHOWN_IDS = 5
_MATHS = re.compile(r"[0-9\\√π^=<>≤≥]|(?<![A-Za-z])(?:pi|sqrt|x|y|z)(?![A-Za-z])")


@dataclass(frozen=True)
class ProblemRow:
    """A problem and the row it was read from, which result files in the official format repeat."""

    problem: Problem
    row: Mapping[str, Any]


@dataclass(frozen=True)
class AnswerRow:
    """One row of an answer file. `response.extraction` counts only if `has_extraction`, since it may be null there."""

    id: str
    response: Response
    has_extraction: bool
    where: str
    metadata: Mapping[str, Any] | None = None  # MathVista's, if the row repeats it as official result files do


def _one_of(row: Mapping[str, Any], names: tuple[str, str], where: str) -> Any:
    """The value under one of two names. DataError if there is none, or two that differ."""
    held = [name for name in names if name in row]
    if not held:
        wrong(where, f"no {names[0]!r} and no {names[1]!r}; the row has {', '.join(map(str, row)) or 'nothing'}")
    if len(held) == 2 and str(row[names[0]]) != str(row[names[1]]):
        wrong(where, f"{names[0]!r} and {names[1]!r} differ ({row[names[0]]!r:.60}, {row[names[1]]!r:.60}); keep one")
    return row[held[0]]


def _id(row: Mapping[str, Any], where: str) -> str:
    value = _one_of(row, ("id", "pid"), where)
    if isinstance(value, float) and value.is_integer():  # as tables with missing ids write whole numbers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        wrong(where, f"an id must be text or a whole number, found {value!r:.60}")
    return str(value)


def _gold(row: Mapping[str, Any], where: str) -> str:
    value = _one_of(row, ("answer", "gold"), where)
    if isinstance(value, bool) or not isinstance(value, str | int | float | list):
        more = "; the public files of a test split have no gold answers" if value is None else ""
        wrong(where, f"the gold answer must be text, a number or a list, found {value!r:.60}{more}")
    return value if isinstance(value, str) else str(value)


def gold_letter(gold: str, choices: tuple[str, ...], *, by_text: bool) -> str | None:
    """The letter of a gold answer that is a letter or the text of a choice; None if it is neither.

    `by_text`: compare the text first, as MathVista writes it (among the choices B, A the answer "A" is the second).
    If several choices have the gold text, the first one's letter is returned; the judges credit the others too.
    """
    letters = LETTERS[: len(choices)]
    written = letters[choices.index(gold)] if gold in choices else None
    letter = gold if len(gold) == 1 and gold in letters else None
    return (written or letter) if by_text else (letter or written)


def free_answer_type(gold: str) -> AnswerType:
    """The answer type of a problem that states neither a type nor choices: number, list, expression or text.

    It is the first that can read the gold answer; words without any sign of mathematics are text.
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
    """1.0 as 1, since tables turn a column with gaps into decimals. Other values are left to the check of the field."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _question(row: Mapping[str, Any], where: str, geoqa: bool) -> ProblemRow:
    identifier = _id(row, where)
    where = f"{where}, problem {identifier!r}"
    kind = row.get("question_type")
    if kind not in (None, "multi_choice", "free_form"):
        wrong(where, f"'question_type' must be multi_choice or free_form, found {kind!r}")
    gold = _gold(row, where)
    choices = choices_of(row.get("choices"), where) if kind != "free_form" else ()
    if kind == "multi_choice" and not choices:
        wrong(where, "a multi_choice problem needs 'choices'")
    answer_type = row.get("answer_type")
    if answer_type is not None and answer_type not in ANSWER_TYPES:
        wrong(where, f"unknown answer_type {answer_type!r}; known: {', '.join(ANSWER_TYPES)}")
    if choices:
        letter = gold_letter(gold, choices, by_text=kind is not None)
        if letter is None:
            raise DataError(
                f"{where}: the gold answer {gold!r:.60} is neither one of the letters {LETTERS[: len(choices)]} nor "
                f"the text of a choice ({', '.join(map(repr, choices))})"
            )
        answer_type, gold = "choice", letter
    elif answer_type is None:
        # A GeoQA response may end in 5√3 where the gold answer is 8. That is wrong; a number's judge would abstain.
        answer_type = "expression" if geoqa else free_answer_type(gold)
    # `question` takes precedence: MathVista's `query` repeats it with the hint and the choices.
    question = row["question"] if "question" in row else _one_of(row, ("question", "query"), where)
    fields = {
        "id": identifier, "question": question, "answer": gold, "choices": list(choices), "answer_type": answer_type,
        "precision": _whole_number(row.get("precision")), "unit": row.get("unit"), "tolerance": row.get("tolerance"),
    }  # fmt: skip
    return ProblemRow(problem_from_row(fields, where, Path()), row)


def read_problem_rows(path: Path, *, geoqa: bool = False) -> dict[str, ProblemRow]:
    """The problems of a file by id, in the order of the file.

    `geoqa`: a problem without choices and without a type is an expression, whatever its gold answer looks like.

    Raises DataError, naming file and line, for a row that is not a problem, a gold answer outside the choices, an id
    used twice (with both lines), and a file without problems.
    """
    questions: dict[str, ProblemRow] = {}
    lines: dict[str, str] = {}
    for where, row in numbered_rows(path):
        found = _question(row, where, geoqa)
        identifier = found.problem.id
        if identifier in lines:
            wrong(where, f"problem id {identifier!r} was already used ({lines[identifier]}); ids must be unique")
        lines[identifier], questions[identifier] = where, found
    if not questions:
        raise DataError(f"{path}: holds no problems; check the path")
    return questions


def _answer(row: Mapping[str, Any], where: str) -> AnswerRow:
    identifier = _id(row, where)
    text = _one_of(row, ("response", "output"), where)
    if not isinstance(text, str):
        raise DataError(
            f"{where}, answer {identifier!r}: the response must be text, found {type(text).__name__} {text!r:.60}; "
            'write "" where there was no response'
        )
    # Only "length" says that the text was truncated; all other words of engines and servers mean that it ended.
    truncated = row.get("finish", row.get("finish_reason")) == "length"
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise DataError(
            f"{where}, answer {identifier!r}: 'metadata' must be an object, found {type(metadata).__name__}"
        )
    return AnswerRow(identifier, Response(text, row.get("extraction"), truncated), "extraction" in row, where, metadata)


def read_answer_rows(path: Path, known: Collection[str], problems: Path) -> dict[str, AnswerRow]:
    """The answers of a file by problem id. `known`: the ids of the file `problems`, which messages name.

    Raises DataError for a row without id or response, an id answered twice (with both lines), and ids that no problem
    has, of which it names up to 5. The caller counts problems without an answer.
    """
    answers: dict[str, AnswerRow] = {}
    unknown: list[AnswerRow] = []
    for where, row in numbered_rows(path):
        answer = _answer(row, where)
        if answer.id in answers:
            wrong(
                where, f"problem {answer.id!r} was already answered ({answers[answer.id].where}); keep one of the two"
            )
        answers[answer.id] = answer
        if answer.id not in known:
            unknown.append(answer)
    if unknown:
        shown = ", ".join(f"{a.id!r} ({a.where.removeprefix(f'{path}, ')})" for a in unknown[:SHOWN_IDS])
        more = f" and {len(unknown) - SHOWN_IDS} more" if len(unknown) > SHOWN_IDS else ""
        raise DataError(
            f"{path}: {len(unknown)} answers have ids that are not in {problems}: {shown}{more}; "
            "score against the problems that were asked, or remove these rows"
        )
    return answers
