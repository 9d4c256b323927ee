"""Reads any table by a column mapping: `--map question=problem --map answer=solution --map image=img`.

A field of a problem takes the column of its own name unless `--map FIELD=COLUMN` says otherwise; a dot looks inside an
object (`meta.answer`). Choices may be a list, an object {"A": ...}, an object {"label": [...], "text": [...]}, one text
"A. ... B. ..." or several columns (`--map choices=A,B,C,D`). Columns that no field takes go to `meta`, except images.
Without an `id` column, problems are numbered in the order of the file. A problem without an image is text only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from data_process.judging.maths.quantity import read_quantity
from data_process.schema import ANSWER_TYPES, LETTERS, DataError, wrong
from data_process.sources.base import (
    Item,
    PrepareRequest,
    Row,
    Source,
    SourceImage,
    choices_of,
    embedded_image,
    find_image,
    letter_of,
    plain_value,
    repeated_choices,
    without_image_mark,
)

FIELDS = ("id", "question", "answer", "choices", "image", "answer_type", "precision", "unit", "tolerance", "origin")
_LABEL = re.compile(r"(?:^|(?<=\s))\(?([A-J])[).:、．]\s*", re.MULTILINE)
_MATHS = re.compile(r"\\[a-zA-Z]|[√π∞∠^]|\d\s*[*+/=-]\s*[\dA-Za-z(]|[0-9]\s?[a-z]\b")
_WRAPPED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """`["question=problem"]` -> {"question": "problem"}. Raises DataError for an unknown field or a missing column."""
    import difflib

    mapping = {}
    for pair in pairs:
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not column:
            raise DataError(f"--map {pair!r}: write it as FIELD=COLUMN, for instance --map question=problem")
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FIELDS)}"
            raise DataError(f"--map {pair!r}: unknown field {name!r}; {hint}")
        if name in mapping:
            raise DataError(f"--map {pair!r}: {name!r} is mapped twice")
        mapping[name] = column
    return mapping


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem by the mapping in `request.options["map"]`."""
    mapping: Mapping[str, str] = request.options.get("map") or {}
    values = {name: _look_up(row, mapping.get(name, name), name in mapping, where) for name in FIELDS}
    identifier = plain_value(values["id"])
    if identifier is None:
        if values["id"] is not None:
            wrong(where, f"'id' must be text or a number, found {values['id']!r}")
        identifier = f"{split}-row{where.rpartition(' ')[2]}"
    question = plain_value(values["question"])
    if question is None or not question.strip():
        wrong(
            where,
            f"no question: column {mapping.get('question', 'question')!r} holds {values['question']!r}; columns: "
            f"{', '.join(map(str, row))[:200]} (--map question=COLUMN)",
        )
    choices = read_choices(values["choices"], where) if values["choices"] not in (None, "", []) else ()
    answer = read_answer(values["answer"], request.options.get("answer_pattern"), where)
    kind = request.options.get("answer_type") or values["answer_type"]
    fields: Row = {"id": identifier, "question": without_image_mark(question, where), "choices": list(choices)}
    notes: tuple[str, ...] = ()
    if kind is not None and kind not in ANSWER_TYPES:
        wrong(where, f"unknown answer_type {kind!r}; known: {', '.join(ANSWER_TYPES)}")
    if choices and kind in (None, "choice"):
        fields.update(answer=_gold(answer, choices, request, where), answer_type="choice")
        notes = repeated_choices(choices, fields["answer"])
    elif kind == "choice":
        wrong(where, "a choice problem needs choices (--map choices=COLUMN)")
    else:
        if kind is None:
            kind = infer_type(answer)
            notes = (f"answer_type {kind} inferred from the answer",)
        fields.update(answer=answer, answer_type=kind, choices=[])
        if choices:
            fields["meta"] = {"choices": list(choices)}
    for name in ("precision", "unit", "tolerance", "origin"):
        if values[name] is not None:
            fields[name] = values[name]
    taken = {part.partition(".")[0] for name in FIELDS for part in mapping.get(name, name).split(",")}
    others = {key: value for key, value in row.items() if key not in taken and _is_text_data(value)}
    fields["meta"] = {**others, **fields.get("meta", {})}
    image = _image(values["image"], identifier, request, where)
    return Item({key: value for key, value in fields.items() if value not in ([], {})}, image, notes)


def _look_up(row: Mapping[str, Any], column: str, asked_for: bool, where: str) -> Any:
    """The value of a column, of several ("A,B,C,D": a list without empty values), or inside an object ("a.b")."""
    if "," in column and column not in row:
        values = [_look_up(row, part.strip(), asked_for, where) for part in column.split(",")]
        return [value for value in values if value not in (None, "")]
    value: Any = row
    for part in [column] if column in row else column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            if asked_for:
                wrong(where, f"there is no column {column!r}; columns: {', '.join(map(str, row))[:200]}")
            return None
        value = value[part]
    return value


def read_choices(value: Any, where: str) -> tuple[str, ...]:
    """Choices from any of the forms of published tables, without labels such as "A.". Raises DataError."""
    if isinstance(value, str) and value.strip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except ValueError:
            wrong(where, f"choices look like JSON but are not: {value[:80]!r}")
    if isinstance(value, Mapping):
        if isinstance(value.get("text"), list):  # {"label": ["A", ...], "text": [...]}
            labels = value.get("label", list(LETTERS[: len(value["text"])]))
            value = dict(zip(labels, value["text"], strict=False)) if len(labels) == len(value["text"]) else {}
        keys = [
            str(key).strip().upper() for key in value if value[key] is not None
        ]  # Parquet adds nulls for absent keys
        if not keys or (keys != list(LETTERS[: len(keys)]) and keys != [str(n + 1) for n in range(len(keys))]):
            wrong(where, f"choices are labelled {keys}, not A, B, C ... in order")
        return choices_of([text for text in value.values() if text is not None], where)
    if isinstance(value, str):
        marks = list(_LABEL.finditer(value))
        if len(marks) < 2 or [m[1] for m in marks] != list(LETTERS[: len(marks)]) or value[: marks[0].start()].strip():
            wrong(where, f"choices {value[:80]!r} are not of the form 'A. ... B. ...', with the letters in order")
        ends = [*(m.start() for m in marks[1:]), len(value)]
        return choices_of([value[m.end() : end].strip(" \n\t;,") for m, end in zip(marks, ends, strict=True)], where)
    choices = choices_of(value, where)
    labelled = [_LABEL.match(choice) for choice in choices]
    if [m and m[1] for m in labelled] == list(LETTERS[: len(choices)]):
        return choices_of([choice[m.end() :] for choice, m in zip(choices, labelled, strict=True) if m], where)
    return choices


def read_answer(value: Any, pattern: str | None, where: str) -> str:
    """The gold answer as text, without `<answer>` around it; `pattern` selects the group of its last match."""
    answer = json.dumps(value) if isinstance(value, list) else plain_value(value)
    if answer is None or not answer.strip():
        wrong(where, f"no gold answer: found {value!r} (--map answer=COLUMN)")
    if wrapped := _WRAPPED.fullmatch(answer):
        answer = wrapped[1]
    if pattern:
        found = re.findall(pattern, answer)
        if not found or not isinstance(found[-1], str):
            wrong(where, f"--answer-pattern {pattern!r} does not match the answer {answer[-80:]!r}")
        answer = found[-1]
    return answer.strip()


def _gold(answer: str, choices: tuple[str, ...], request: PrepareRequest, where: str) -> str:
    """The gold letter. `answer_is` says how the table writes it: letter, text, index0 (from 0) or index1."""
    said_as = request.options.get("answer_is")
    if said_as in ("index0", "index1"):
        index = int(answer) - int(said_as[-1]) if re.fullmatch(r"[0-9]{1,2}", answer) else -1
        if not 0 <= index < len(choices):
            wrong(where, f"gold {answer!r} is outside the choices: no index from {said_as[-1]} into {len(choices)}")
        return LETTERS[index]
    return letter_of(answer, choices, where, said_as)


def infer_type(answer: str) -> str:
    """How a free answer would be judged: number, list (in brackets), expression (mathematics) or text."""
    if read_quantity(answer, strict=True) is not None:
        return "number"
    if re.fullmatch(r"\s*\[[^\[\]]*\d[^\[\]]*\]\s*", answer):
        return "list"
    return "expression" if _MATHS.search(answer) else "text"


def _is_text_data(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _image(value: Any, identifier: str, request: PrepareRequest, where: str) -> SourceImage | None:
    if isinstance(value, list):
        if len(value) > 1:
            wrong(where, f"{len(value)} images; a problem has at most one image (--skip-bad leaves such rows out)")
        value = value[0] if value else None
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return find_image(value, request, where)
    return embedded_image(value, re.sub(r"[^A-Za-z0-9._-]", "_", identifier), request, where)


SOURCE = Source(name="table", item=item, options=("map", "answer_type", "answer_is", "answer_pattern"))
