"""Choices as published tables hold them: under which columns, in which forms, and inside the text of the question."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_process.schema import LETTERS, shown, wrong
from data_process.sources.base import choices_of, is_missing, plain_value

# Columns that hold all choices, and the forms of columns that hold one each.
COLUMNS = (
    "choices", "options", "option", "candidates", "answer_choices", "answer_options", "choice_list", "option_list",
    "options_list", "mc_choices", "multiple_choice_options", "candidate_answers", "possible_answers",
)  # fmt: skip
# Columns that hold all choices in some tables, and something else in others: accepted answers, or the gold answer.
_DOUBTFUL = ("choice", "answers", "alternatives")
_MULTIPLE_CHOICE = ("multi_choice", "multiple_choice", "mcq")
_FREE_FORM = ("free_form", "open", "open_ended", "short_answer")
_ONE_EACH = (
    "{}", "option_{}", "option {}", "option{}", "choice_{}", "choice {}", "choice{}", "op{}", "opt{}", "opt_{}",
)  # fmt: skip

MAX_TEXT = 20_000  # characters of a cell that is read as a Python list
_LABEL = re.compile(r"(?:^|(?<=[\s;；,，。])|(?=【[A-J]】))[(（\[【]?([A-J])[)）\]】.:：、．]\s*", re.MULTILINE)
# Lower-case labels need a separator before them, or brackets: "a. m." and "vitamin b: 3" have none.
_LOWER = re.compile(r"(?:^|(?<=[;；\n]))[ \t]*([a-j])[)）\].:：、．]\s*|(?:^|(?<=\s))[(（\[]([a-j])[)）\]]\s*")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_NUMPY = re.compile(rf"\[\s*{_QUOTED}(?:\s+{_QUOTED})+\s*\]")
_HEADER = re.compile(
    r"(?:^|(?<=[\s.?!。？)）]))(?:answer )?(?:choices|options|选项)(?: are)?\s*[:：]\s*"
    r"(?=[(（\[【]?[Aa][)）\]】.:：、．])",
    re.IGNORECASE,
)


def find_choices(
    row: Mapping[str, Any], gold: Any = None, where: str = "the row"
) -> tuple[tuple[str, ...], Any] | None:
    """(the columns, their value) of a row's choices under one of the usual names; None where it has none.

    With a column for each choice (A, B, C or option_a, option_b or choice1, choice2) the value is the list of their
    values. `gold` tells the choices in a column such as "answers" from accepted answers. DataError if it does not.
    """
    names = {str(name).lower(): name for name in row}
    for column in COLUMNS:
        name = names.get(column)
        if name is not None and not is_missing(row[name]) and row[name] not in ([], {}, "[]"):
            return (str(name),), row[name]
    for form in _ONE_EACH:
        # A column that is only called "a" may hold anything; one called "A", as a rule, the first choice.
        marks = [LETTERS] if form == "{}" else [LETTERS.lower(), "0123456789", "123456789"]
        for each in (_in_order(form, letters, row if form == "{}" else names) for letters in marks):
            values = [row[name] for name in each]
            if sum(not is_missing(value) for value in values) > 1:
                return tuple(map(str, each)), values
    for column in _DOUBTFUL:
        name = names.get(column)
        if name is not None and _are_choices(row[name], str(name), row, gold, where):
            return (str(name),), row[name]
    return None


def _in_order(form: str, marks: str, names: Mapping[str, Any]) -> list[Any]:
    """The columns of a form with the marks in order, up to the first that is not there."""
    found = []
    for mark in marks:
        name = form.format(mark)
        if name not in names:
            break
        found.append(mark if form == "{}" else names[name])
    return found


def _are_choices(value: Any, column: str, row: Mapping[str, Any], gold: Any, where: str) -> bool:
    """Whether a column of `_DOUBTFUL` holds choices: the gold answer is a letter or a number that is none of them."""
    if isinstance(value, str):
        value = literal(value) or lettered(value) or value
    if isinstance(value, Mapping):
        return len(value) > 1
    if not isinstance(value, list) or len(value) < 2:
        return False
    texts = {plain_value(text) for text in value}
    if column.lower() == "choice":
        return len(texts) > 1
    said = plain_value(gold)
    if said is None or row.get("answer_type") not in (None, "choice"):
        return False  # these are the accepted answers
    if said in texts and len(texts) > 1:
        wrong(where, f"column {column!r} may hold the choices or the accepted answers, among them the gold answer; "
              f"say which: --map choices={column} or --map answer={column}")  # fmt: skip
    letter = re.fullmatch(r"\s*[(（\[]?([A-Ja-j])[)）\].]?\s*", said)
    return letter is not None or (said.isdecimal() and int(said) <= len(texts))


def question_type(row: Mapping[str, Any]) -> str | None:
    """The column "question_type" as "multi_choice" or "free_form", where it has one of the usual words for these."""
    said = row.get("question_type")
    word = str(said).lower().replace("-", "_").replace(" ", "_")
    known = "multi_choice" if word in _MULTIPLE_CHOICE else "free_form" if word in _FREE_FORM else word
    return None if is_missing(said) else known


def read_choices(value: Any, where: str) -> tuple[str, ...]:
    """Choices from any of the forms of published tables, without labels such as "A.". Raises DataError."""
    if isinstance(value, str):
        value = _from_text(value.strip(), where)
    if isinstance(value, Mapping):
        if isinstance(value.get("text"), list):  # {"label": ["A", ...], "text": [...]}
            labels = value.get("label", list(LETTERS[: len(value["text"])]))
            fits = isinstance(labels, list) and len(labels) == len(value["text"])
            value = dict(zip(map(str, labels), value["text"], strict=True)) if fits else {}
        # Parquet adds nulls for absent keys.
        keys = [str(key).strip().upper() for key in value if not is_missing(value[key])]
        if not keys or (keys != list(LETTERS[: len(keys)]) and keys != [str(n + 1) for n in range(len(keys))]):
            wrong(where, f"choices are labelled {shown(keys)}, not A, B, C ... in order")
        return choices_of([text for text in value.values() if not is_missing(text)], where)
    if isinstance(value, list | tuple):
        value = without_gaps(value, where)
    choices = choices_of(value, where)
    for texts in (choices, [_capital(choice) for choice in choices]):
        labelled = [_LABEL.match(choice) for choice in texts]
        if [m and m[1] for m in labelled] == list(LETTERS[: len(choices)]):
            return choices_of([choice[m.end() :] for choice, m in zip(texts, labelled, strict=True) if m], where)
    return choices


def without_gaps(values: Sequence[Any], where: str) -> list[Any]:
    """The values up to the last that is not missing. DataError for a gap before it, which would shift the letters."""
    kept = list(values)
    while kept and is_missing(kept[-1]):
        kept.pop()
    if gaps := [LETTERS[i : i + 1] for i, value in enumerate(kept) if is_missing(value)]:
        wrong(where, f"choice {gaps[0]} is missing, and {LETTERS[len(kept) - 1 : len(kept)]} is not; fill the gap")
    return kept


def _from_text(text: str, where: str) -> Any:
    """A list or an object from its JSON or Python text, or the choices of a text "A. ... B. ..."."""
    if re.match(r"""\(\s*['"]""", text) and text.endswith(")"):  # a tuple of Python
        text = f"[{text[1:-1]}]"
    if text.startswith(("[", "{")) and not _LABEL.match(text):
        value = literal(text)
        if value is None:
            wrong(where, f"choices look like JSON but are not: {shown(text)}; write them as a list of texts")
        return value
    found = lettered(text) or _between(text)
    if found is None:
        wrong(where, f"choices {shown(text)} are not of the form 'A. ... B. ...', with the letters in order")
    return found


def _between(text: str) -> list[str] | None:
    """The texts between bars, line ends or semicolons, none of which is blank or begins with a label."""
    for separator in (r"\s\|{1,2}\s", r"\|{1,2}", r"\n", r"[;；]"):
        parts = [part.strip() for part in re.split(separator, text.strip(" |;；"))]
        if len(parts) > 1:
            bad = any(not part or part[0] == "|" or _LABEL.match(part) or _LOWER.match(part) for part in parts)
            return None if bad else parts
    return None


def _capital(text: str) -> str:
    """The text with its lower-case labels as "A. "; all other letters stay."""
    return _LOWER.sub(lambda m: f" {(m[1] or m[2]).upper()}. ", text).lstrip()


def literal(text: str) -> Any:
    """The list or object that a cell holds as JSON, as Python text or as NumPy prints it; None for anything else."""
    text = text.strip()
    if not text.startswith(("[", "{")) or len(text) > MAX_TEXT:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if _NUMPY.fullmatch(text):  # no commas: Python would join the texts
            text = f"[{', '.join(re.findall(_QUOTED, text))}]"
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, list | dict) else None


def lettered(text: str) -> list[str] | None:
    """The texts of "A. ... B. ..." or "a. ...; b. ...", split at the labels; None for other text."""
    return _at_labels(text) or _at_labels(_capital(text))


def _at_labels(text: str) -> list[str] | None:
    """The texts between the labels, or else between semicolons or on lines that start with a label."""
    marks = list(_LABEL.finditer(text))
    if marks and not text[: marks[0].start()].strip():
        if len(marks) > 1 and [m[1] for m in marks] == list(LETTERS[: len(marks)]):
            ends = [*(m.start() for m in marks[1:]), len(text)]
            return [_trim(text[m.end() : end]) for m, end in zip(marks, ends, strict=True)]
        for separator in (r"[;；]", r"\n"):  # a choice may have letters in its text: "A. from C. to D.; B. ..."
            found: list[str] = []
            for part in re.split(separator, text):
                label = _LABEL.match(part.strip())
                if label and len(found) < len(LETTERS) and label[1] == LETTERS[len(found)]:
                    found.append(part.strip()[label.end() :])
                elif found:
                    found[-1] += f"; {part.strip()}" if part.strip() else ""
            if len(found) > 1:
                return [_trim(choice) for choice in found]
    return None


def _trim(choice: str) -> str:
    return choice.strip(" \n\t;,；，")


def choices_in_question(question: str) -> tuple[str, tuple[str, ...]] | None:
    """(the question without its choices, the choices) where they stand in it; None where they do not.

    They stand behind "Choices:", on lines that start with their letters, or behind the question, where there must be
    three of them unless it ends in a mark such as "?" or "( )". Lower-case letters count where no others do.
    Where all are blank, since they are drawn in the image, the letters are the choices. What follows the last one's
    line stays in the question.
    """
    headers = list(_HEADER.finditer(question))
    for labels in (_LABEL, _LOWER):
        starts = [(headers[-1].start(), headers[-1].end(), 2)] if headers else []
        for m in reversed([m for m in labels.finditer(question) if _letter(m) == "A"]):
            before = question[: m.start()].rstrip(" \t")
            ends = before.endswith(("\n", "?", "？", ")", "）", ":", "：", ".", "。"))
            starts.append((m.start(), m.start(), 2 if ends else 3))
        for begin, first, least in starts:
            found = _tail(question[first:], labels)
            if found is not None and len(found[0]) >= least and question[:begin].strip():
                texts, rest = found
                return f"{question[:begin].rstrip()}\n{rest}".strip(), tuple(texts)
    return None


def _letter(label: re.Match[str]) -> str:
    return next(group for group in label.groups() if group).upper()


def _tail(text: str, labels: re.Pattern[str]) -> tuple[list[str], str] | None:
    """The choices at the start of a text, and what follows the line of the last one."""
    marks = list(labels.finditer(text))
    count = next((k for k, m in enumerate(marks) if k >= len(LETTERS) or _letter(m) != LETTERS[k]), len(marks))
    if count < 2 or marks[0].start() or count < len(marks):
        return None  # letters that are out of order: a text, not a list
    last = marks[-1].end() if "\n" not in marks[-1][0] else marks[-1].start() + marks[-1][0].index("\n")
    end = text.find("\n", last)
    end = len(text) if end < 0 else end
    ends = [*(m.start() for m in marks[1:]), end]
    texts = [_trim(text[m.end() : stop]) for m, stop in zip(marks, ends, strict=True)]
    if not any(texts):
        texts = list(LETTERS[:count])
    return (texts, text[end:].strip()) if all(texts) else None
