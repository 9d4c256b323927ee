"""Reads files of problems and files of answers as users have them, checks every field and joins them by id.

Problems: `id` or `pid`, `question` or `query`, `answer`, `gold` or `label`, and where they apply `choices` (or another
usual name, such as `options`), `alternatives` (other accepted answers), `question_type`, `answer_type`, `precision`,
`unit`, `tolerance`. Choices may also stand in the question. Answers: `id` or `pid`, `response` or `output`, and where
it applies `extraction`, `finish` ("length": truncated at the token limit) and `metadata`. Both are JSON Lines, or a
table that `sources.tables` reads; MathVista's own files are JSON objects of rows by pid. Ids may be text or whole
numbers and are compared as text. Answers may also be an engine's output or a log of another evaluation program
(`harness_logs`), with one response to each problem or several.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_process.io import numbered_rows, problem_from_row
from data_process.judging.maths.quantity import read_quantity
from data_process.judging.published.registry import Response
from data_process.predictions.harness_logs import MORE, inspect_rows, is_inspect_log, log_rows
from data_process.row_fields import choices_of
from data_process.schema import ANSWER_TYPES, LETTERS, AnswerType, DataError, Problem, shown, wrong
from data_process.sources.base import LocatedRow, is_missing, refuse_unreadable, unreadable
from data_process.sources.choices import (
    choices_in_question,
    find_choices,
    lettered,
    literal,
    question_type,
    read_choices,
)
from data_process.sources.golds import (
    accepted,
    common_type,
    gold_letter_alone,
    labelled_gold,
    lower_letter,
    other_golds,
    readable,
    refuse_letter,
    whole_number,
)
from data_process.sources.tables import SUFFIXES, read_table

SHOWN_IDS = 5
BAD_SHARE = 0.05  # of the rows of a file that may be unusable; more of them are a fault of the file
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
    more: tuple[Response, ...] = ()  # the responses after the first, where a file has several to each problem


def _one_of(row: Mapping[str, Any], names: tuple[str, str], where: str) -> Any:
    """The value under one of two names. DataError if there is none, or two that differ."""
    held = [name for name in names if name in row]
    if not held:
        wrong(where, f"no {names[0]!r} and no {names[1]!r}; the row has {', '.join(map(str, row))[:200] or 'nothing'}")
    if len(held) == 2 and str(row[names[0]]) != str(row[names[1]]):
        values = f"{shown(row[names[0]], 60)}, {shown(row[names[1]], 60)}"
        wrong(where, f"{names[0]!r} and {names[1]!r} differ ({values}); keep one")
    return row[held[0]]


def _id(row: Mapping[str, Any], where: str) -> str:
    # "index": VLMEvalKit's tables have it instead
    value = row["index"] if "index" in row and not {"id", "pid"} & row.keys() else _one_of(row, ("id", "pid"), where)
    if isinstance(value, float) and value.is_integer():  # as tables with missing ids write whole numbers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        wrong(where, f"an id must be text or a whole number, found {shown(value, 60)}")
    return str(value)


def _gold_cell(row: Mapping[str, Any], where: str) -> Any:
    named = "label" if "label" in row and "answer" not in row and "gold" not in row else "gold"
    return _one_of(row, ("answer", named), where)


def _golds(value: Any, row: Mapping[str, Any], where: str) -> list[str]:
    """The gold answer, and after it the alternatives where the row lists several accepted texts."""
    golds = accepted(value, "ordered" if row.get("answer_type") == "list" else None)
    for gold in golds or (None,):
        if isinstance(gold, bool) or not isinstance(gold, str | int | float | list):
            more = "; the public files of a test split have no gold answers" if gold is None else ""
            wrong(where, f"the gold answer must be text, a number or a list, found {shown(gold, 60)}{more}")
    return list(dict.fromkeys(gold if isinstance(gold, str) else str(gold) for gold in golds))


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
    if gold.strip().startswith("[") and readable(gold, "list"):
        return "list"
    return "expression" if _MATHS.search(gold) and readable(gold, "expression") else "text"


def _choices(found: tuple[tuple[str, ...], Any] | None, where: str) -> tuple[str, ...]:
    """The choices that a row holds. Under "choices" a list must hold texts alone."""
    if found is None:
        return ()
    columns, value = found
    if columns == ("choices",) and not isinstance(value, Mapping):
        read = (literal(value) or lettered(value)) if isinstance(value, str) else value
        texts = [item for item in read if not is_missing(item)] if isinstance(read, list) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            return choices_of(value, where)  # raises, and says what is wrong
    return read_choices(value, where)


def _question(row: Mapping[str, Any], where: str, geoqa: bool) -> ProblemRow:
    refuse_unreadable(row, where)
    identifier = _id(row, where)
    where = f"{where}, problem {shown(identifier)}"
    kind = question_type(row)
    if kind not in (None, "multi_choice", "free_form"):
        wrong(where, f"'question_type' must be multi_choice or free_form, found {shown(row['question_type'])}")
    cell = _gold_cell(row, where)
    gold, *listed = _golds(cell, row, where)
    found = find_choices(row, cell, where) if kind != "free_form" else None
    choices = _choices(found, where)
    more = other_golds(row, where) if not found or "alternatives" not in found[0] else []
    others = [*listed, *more]
    answer_type = row.get("answer_type")
    if answer_type is not None and answer_type not in ANSWER_TYPES:
        wrong(where, f"unknown answer_type {shown(answer_type)}; known: {', '.join(ANSWER_TYPES)}")
    # `question` takes precedence: MathVista's `query` repeats it with the hint and the choices.
    question = row["question"] if "question" in row else _one_of(row, ("question", "query"), where)
    letter = gold_letter_alone(gold) or labelled_gold(gold)
    lettered_gold = letter or lower_letter(gold)
    if not choices and kind != "free_form" and (kind or (lettered_gold and answer_type in (None, "choice"))):
        if isinstance(question, str):
            question, choices = choices_in_question(question) or (question, ())
        if not choices and kind:
            wrong(where, "a multi_choice problem needs 'choices'")
        if not choices and letter:
            column = next(name for name in ("answer", "gold", "label") if name in row)
            remedy = "add them as a list in a column 'choices', or say answer_type 'text' if the letter is no choice"
            refuse_letter(letter, where, column, remedy)
    if choices:
        answer_type, by_text = "choice", row.get("question_type") == "multi_choice"  # as MathVista writes it
        gold, *others = dict.fromkeys(_letter(text, choices, where, by_text) for text in (gold, *others))
        if others and not more:
            wrong(where, f"{1 + len(others)} gold choices; a problem has one right choice")
    elif answer_type is None:
        # A GeoQA response may end in 5√3 where the gold answer is 8. That is wrong; a number's judge would abstain.
        kinds: list[AnswerType] = ["expression" if geoqa else free_answer_type(text) for text in (gold, *others)]
        answer_type = common_type(kinds, (gold, *others))
    fields = {
        "id": identifier, "question": question, "answer": gold, "choices": list(choices), "answer_type": answer_type,
        "precision": whole_number(row.get("precision")), "unit": row.get("unit"), "tolerance": row.get("tolerance"),
        "absolute_tolerance": row.get("absolute_tolerance"), "alternatives": others,
    }  # fmt: skip
    return ProblemRow(problem_from_row(fields, where, Path()), row)


def _letter(gold: str, choices: tuple[str, ...], where: str, by_text: bool) -> str:
    letters = LETTERS[: len(choices)]
    letter = gold_letter(gold, choices, by_text=by_text) or gold_letter_alone(gold) or labelled_gold(gold)
    letter = letter or lower_letter(gold)
    if letter is None or letter not in letters:
        listed = ", ".join(shown(choice, 20) for choice in choices)
        what = f"the gold answer {shown(gold, 60)} is neither one of the letters {letters}"
        wrong(where, f"{what} nor the text of a choice ({listed})")
    return letter


@dataclass
class LeftOut:
    """Rows that cannot be used and are left out: a message for each, and their ids where these can be read."""

    messages: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def add(self, error: DataError, row: Mapping[str, Any], where: str) -> None:
        self.messages.append(str(error))
        with contextlib.suppress(DataError):
            self.ids.add(_id(row, where))

    def check(self, path: Path, before: int, used: int) -> None:
        """DataError if more than `BAD_SHARE` of the rows read since there were `before` messages cannot be used."""
        bad = len(self.messages) - before
        if bad > BAD_SHARE * (bad + used):
            more = f". {bad} of {bad + used} rows of {path.name} cannot be used, more than the limit of {BAD_SHARE:.0%}"
            raise DataError(self.messages[before] + more)


def _rows(path: Path) -> Iterator[LocatedRow]:
    if is_inspect_log(path):
        return inspect_rows(path)
    if path.name.endswith(SUFFIXES) and not path.name.removesuffix(".gz").endswith(".jsonl"):
        return read_table(path)
    return numbered_rows(path, nan_is_null=True, bad=lambda error: unreadable(error, path))


def read_problem_rows(path: Path, left_out: LeftOut | None = None, *, geoqa: bool = False) -> dict[str, ProblemRow]:
    """The problems of a file by id, in the order of the file. Rows that are no problem go to `left_out`;
    without it the first is an error.

    `geoqa`: a problem without choices and without a type is an expression, whatever its gold answer looks like.

    Raises DataError, naming file and line, for an id used twice (with both lines), a file without problems, and where
    more than `BAD_SHARE` of the rows are no problems: no gold answer, or one outside the choices.
    """
    questions: dict[str, ProblemRow] = {}
    lines: dict[str, str] = {}
    for where, row in _rows(path):
        try:
            found = _question(row, where, geoqa)
        except DataError as error:
            if left_out is None:
                raise
            left_out.add(error, row, where)
            continue
        identifier = found.problem.id
        if identifier in lines:
            wrong(where, f"problem id {shown(identifier)} was already used ({lines[identifier]}); ids must be unique")
        lines[identifier], questions[identifier] = where, found
    if left_out is not None:
        left_out.check(path, 0, len(questions))
    if not questions:
        raise DataError(f"{path}: holds no problems; check the path")
    return questions


def _answer(row: Mapping[str, Any], where: str) -> AnswerRow:
    refuse_unreadable(row, where)
    identifier = _id(row, where)
    text = _one_of(row, ("response", "output"), where)
    if not isinstance(text, str):
        raise DataError(
            f"{where}, answer {shown(identifier)}: the response must be text, found {type(text).__name__} "
            f'{shown(text, 60)}; write "" where there was no response'
        )
    # Only "length" says that the text was truncated; all other words of engines and servers mean that it ended.
    truncated = row.get("finish", row.get("finish_reason")) == "length"
    metadata = row.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise DataError(
            f"{where}, answer {shown(identifier)}: 'metadata' must be an object, found {type(metadata).__name__}"
        )
    more = tuple(Response(one, None, cut) for one, cut in row.get(MORE, ()))
    first = Response(text, row.get("extraction"), truncated)
    return AnswerRow(identifier, first, "extraction" in row, where, metadata, more)


def read_answer_rows(
    path: Path,
    known: Mapping[str, ProblemRow],
    problems: Path,
    left_out: LeftOut | None = None,
    sample: int | None = None,
) -> dict[str, AnswerRow]:
    """The answers of a file by problem id. `known`: the problems by id, of the file `problems`, which messages name.

    `sample`: which of several responses to each problem is meant, where a file has them; None: all of them.

    Rows without id or response go to `left_out`; answers to problems that are there already are not read. Raises
    DataError for more than `BAD_SHARE` of such rows, an id answered twice (with both lines), and ids that no problem
    has, of which it names up to 5. The caller counts problems without an answer.
    """
    before = len(left_out.messages) if left_out else 0
    without_problem = frozenset(left_out.ids) if left_out else frozenset()
    answers: dict[str, AnswerRow] = {}
    unknown: list[AnswerRow] = []
    asked = {identifier: question.problem for identifier, question in known.items()}
    for where, row in log_rows(path, _rows(path), asked, sample):
        try:
            answer = _answer(row, where)
        except DataError as error:
            if left_out is None:
                raise
            left_out.add(error, row, where)
            continue
        if answer.id in without_problem:
            continue
        if answer.id in answers:
            wrong(
                where,
                f"problem {shown(answer.id)} was already answered ({answers[answer.id].where}); keep one of the two",
            )
        answers[answer.id] = answer
        if answer.id not in known:
            unknown.append(answer)
    if left_out is not None:
        left_out.check(path, before, len(answers))
    if unknown:
        first = ", ".join(f"{shown(a.id, 40)} ({a.where.removeprefix(f'{path}, ')})" for a in unknown[:SHOWN_IDS])
        more = f" and {len(unknown) - SHOWN_IDS} more" if len(unknown) > SHOWN_IDS else ""
        raise DataError(
            f"{path}: {len(unknown)} answers have ids that are not in {problems}: {first}{more}; "
            "score against the problems that were asked, or remove these rows"
        )
    return answers
