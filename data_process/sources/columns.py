"""Reads any table by a column mapping: `--map question=problem --map answer=solution --map image=img`.

A field of a problem takes the column of its own name unless `--map FIELD=COLUMN` says otherwise; a dot looks inside an
object (`meta.answer`). Choices may be a list, an object {"A": ...}, an object {"label": [...], "text": [...]}, one text
"A. ... B. ..." or several columns (`--map choices=A,B,C,D`); columns of the usual names, such as `options`, need no
`--map`. Where the answer is a letter and no column has choices, they are read from the question. A cell may hold a list
of images, and the columns `image_1`, `image_2`, ... are one such list. A table of conversations (LLaVA, Geo170K) needs
no `--map` either. Columns that no field takes go to `meta`, except images.
Without an `id` column, problems are numbered in the order of the file. A problem without an image is text only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from data_process.images.marks import PLACEHOLDER, without_leading_marks
from data_process.judging.maths.quantity import read_quantity
from data_process.schema import ANSWER_TYPES, LETTERS, AnswerType, DataError, shown, wrong
from data_process.sources.base import (
    Item,
    PrepareRequest,
    Row,
    Source,
    images_of,
    is_missing,
    letter_of,
    plain_value,
    repeated_choices,
    row_id,
)
from data_process.sources.choices import choices_in_question, find_choices, question_type, read_choices
from data_process.sources.golds import (
    AS_TEXT,
    common_type,
    from_turns,
    gold_letter_alone,
    images_of_turns,
    labelled_gold,
    lower_letter,
    other_golds,
    read_golds,
    readable,
    refuse_letter,
    whole_number,
)

FIELDS = (
    "id", "question", "answer", "choices", "image", "answer_type", "precision", "unit", "tolerance", "origin",
    "context",
)  # fmt: skip
NAMED_ONLY = ("context",)  # a column of this name often holds a category, which no prompt should show
# The columns that a field takes where none has its name and no --map says otherwise; the likeliest stand first.
USUAL = {
    "id": ("pid", "index", "qid", "uid", "question_id", "problem_id", "sample_id"),
    "question": (
        "query", "problem", "question_text", "problem_text", "question_stem", "stem", "prompt", "instruction", "input",
    ),
    "answer": (
        "label", "gold", "ground_truth", "groundtruth", "gt_answer", "correct_answer", "correct_option",
        "correct_choice", "answer_key", "answerkey", "gold_answer", "final_answer", "reference_answer", "target",
        "answers", "solution", "output", "response", "completion",
    ),
    "image": (
        "decoded_image", "images", "image_path", "image_1", "image1", "img_path", "img", "image_file", "image_name",
        "image_bytes", "image_base64", "picture", "figure", "photo",
    ),
}  # fmt: skip
TURNS = ("conversations", "messages")
_MATHS = re.compile(r"\\[a-zA-Z]|[√π∞∠^]|\d\s*[*+/=-]\s*[\dA-Za-z(]|[0-9]\s?[a-z]\b")


@dataclass(frozen=True)
class TableForm:
    """How the rows of a table become problems, where the usual names and forms do not say it."""

    columns: Mapping[str, str] = field(default_factory=dict)  # field -> column, as --map gives them; "" for no column
    answer_type: AnswerType | None = None  # of every free answer; None: inferred from each
    answer_is: Literal["letter", "text", "index0", "index1"] | None = None  # how a gold choice is written
    answer_pattern: str | None = None  # the group of its last match is the answer
    answer_list: Literal["any", "ordered"] | None = None  # what several answers in a cell are
    infer: Callable[[str], AnswerType] | None = None  # the type of a free answer from its text; None: `infer_type`
    tolerance: str | None = None  # of every number answer without one of its own, as `parse_tolerance` reads it


def parse_tolerance(text: str) -> dict[str, float]:
    """The field of a tolerance: "5%" and "0.05" are relative to the gold value, "+-0.5" and "±0.5" are absolute.

    DataError for anything else, and for a relative tolerance of 100% or more.
    """
    found = re.fullmatch(r"(\+-|\+/-|±)?\s*([0-9]*\.?[0-9]+)\s*(%)?", text.strip())
    value = float(found[2]) / (100 if found[3] else 1) if found else -1.0
    if found is None or (found[1] and found[3]) or (not found[1] and value >= 1):
        raise DataError(
            f"tolerance {shown(text)} must be 5% or 0.05, relative to the answer, or +-0.5, in the answer's unit"
        )
    return {"absolute_tolerance" if found[1] else "tolerance": value}


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
    """One problem by the options of the command."""
    given = {name: value for name, value in request.options.items() if value and name in SOURCE.options}
    return read_row(TableForm(columns=given.pop("map", {}), **given), request, split, where, row)


def read_row(form: TableForm, request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem, read as `form` says. DataError where a field is missing or cannot be read."""
    mapping = form.columns
    columns = _columns(row, mapping)
    marked: list[Any] | None = None
    if turns := next((name for name in TURNS if name in row), None) if "question" not in columns else None:
        asked, said = from_turns(row[turns], where)
        marked = images_of_turns(row[turns])
        row = {
            "question": asked,
            "answer": said,
            **{k: v for k, v in row.items() if k not in ("question", "answer", turns)},
        }
        if marked and "image" not in columns:
            row["image"], columns["image"] = marked, "image"
        columns = {**columns, "question": "question", "answer": columns.get("answer", "answer")}
    values = {
        name: _look_up(row, columns[name], name in mapping, where) if name in columns else None for name in FIELDS
    }
    identifier = plain_value(values["id"])
    if identifier is not None and re.fullmatch(r"[0-9]{1,18}\.0", identifier):
        identifier = identifier[:-2]  # as a table with gaps writes whole numbers
    if identifier is None:
        if not is_missing(values["id"]):
            wrong(where, f"'id' must be text or a number, found {shown(values['id'])}")
        identifier = row_id(split, where)
    question = plain_value(values["question"])
    if question is None or not question.strip():
        wrong(
            where,
            f"no question: column {mapping.get('question', 'question')!r} holds {shown(values['question'])}; columns: "
            f"{', '.join(map(str, row))[:200]} (--map question=COLUMN)",
        )
    choices: tuple[str, ...] = ()
    # A column that --map gives to another field holds no choices.
    free = {name: value for name, value in row.items() if name not in mapping.values()}
    found = find_choices(free, values["answer"], where) if "choices" not in mapping else None
    if found or not (is_missing(values["choices"]) or values["choices"] == []):
        choices = read_choices(found[1] if found else values["choices"], where)
    listed = "ordered" if values["answer_type"] == "list" else form.answer_list
    golds = read_golds(values["answer"], form.answer_pattern, listed, where)
    more = other_golds(row, where) if not found or "alternatives" not in found[0] else []
    golds = tuple(dict.fromkeys((*golds, *more)))
    kind = form.answer_type or values["answer_type"]
    if kind is not None and kind not in ANSWER_TYPES:
        wrong(where, f"unknown answer_type {shown(kind)}; known: {', '.join(ANSWER_TYPES)}")
    letter = gold_letter_alone(golds[0]) or labelled_gold(golds[0])
    multiple = kind == "choice" or question_type(row) == "multi_choice"
    if not choices and kind in (None, "choice") and (letter or multiple or lower_letter(golds[0])):
        question, choices = choices_in_question(question) or (question, ())
        if letter and not choices and kind is None and question_type(row) != "free_form":
            column = columns.get("answer", "answer")
            refuse_letter(
                letter, where, column, "name their column with --map choices=COLUMN, or say --answer-type text"
            )
    images = images_of(values["image"], identifier, request, where)
    if marked is not None and not images:
        wrong(where, f"the text marks {PLACEHOLDER}, but the row has no image; name its column: --map image=COLUMN")
    if images and is_missing(values["context"]):  # with a context, the images may stand behind it
        question = without_leading_marks(question, choices)
    fields: Row = {"id": identifier, "question": question, "choices": list(choices)}
    notes: tuple[str, ...] = ()
    if choices and kind in (None, "choice"):
        gold, *others = dict.fromkeys(_gold(gold, choices, form.answer_is, where) for gold in golds)
        if others and form.answer_list != "any" and not more:
            wrong(where, f"{len(golds)} gold choices; where any of them is right, say --answer-list any")
        fields.update(answer=gold, answer_type="choice", alternatives=others)
        notes = repeated_choices(choices, gold)
    elif kind == "choice":
        wrong(where, "a choice problem needs choices (--map choices=COLUMN)")
    else:
        if kind is None:
            kinds = [(form.infer or infer_type)(gold) for gold in golds]
            kind = common_type(kinds, golds)
            notes = (AS_TEXT if kind == "text" not in kinds else f"answer_type {kind} inferred from the answer",)
        if len(golds) > 1:
            notes += ("several accepted answers, any of which is right",)
        fields.update(answer=golds[0], answer_type=kind, choices=[], alternatives=list(golds[1:]))
        if choices:
            fields["meta"] = {"choices": list(choices)}
    if not is_missing(values["precision"]):
        fields["precision"] = whole_number(values["precision"])
    for name in ("unit", "origin", "context"):
        if not is_missing(values[name]):
            fields[name] = values[name]
    fields.update(_tolerance(values["tolerance"], form.tolerance, fields["answer_type"], where))
    taken = {part.partition(".")[0] for name in FIELDS for part in columns.get(name, name).split(",")} - {
        name for name in NAMED_ONLY if name not in columns
    }
    taken.update(found[0] if found else (), ("alternatives",) if more else ())
    others_of = {key: value for key, value in row.items() if key not in taken and _is_text_data(value)}
    fields["meta"] = {**others_of, **fields.get("meta", {})}
    for name in ("question", "answer"):
        if not turns and columns.get(name, name).lower() != name and name not in mapping:
            notes += (f"the {name} is the column {columns[name]!r}",)
    mapped = {name: columns[name] for name in FIELDS if not is_missing(values[name])}
    if choices:
        mapped["choices"] = ", ".join(found[0]) if found else columns.get("choices", mapped["question"])
    if turns:
        mapped |= dict.fromkeys(("question", "answer"), turns)
    unused = tuple(
        str(key) for key in row if key not in taken and not (is_missing(row[key]) or (turns and key in FIELDS))
    )
    fields = {key: value for key, value in fields.items() if value not in ([], {})}
    return Item(fields, images, notes, mapped, unused)


def _columns(row: Row, mapping: Mapping[str, str]) -> dict[str, str]:
    """The column of each field: the one that --map names, or else the first usual one that is not empty."""
    columns = {}
    names = {str(column).lower(): column for column in reversed(row)}  # "Question" and "ID" are usual names as well
    for name in FIELDS:
        known = () if name in NAMED_ONLY else (name, *USUAL.get(name, ()))
        usual = [*((name,) if name in row and known else ()), *(names[one] for one in known if one in names)]
        found = next((column for column in usual if not is_missing(row.get(column))), "")
        if held := mapping.get(name, found):
            columns[name] = held
    if numbered := re.fullmatch(
        r"(image_?)1", columns.get("image", "")
    ):  # MMMU: image_1 to image_7, most of them empty
        of_list = [re.fullmatch(rf"{numbered[1]}([0-9]+)", str(column)) for column in row]
        columns["image"] = ",".join(
            match[0] for match in sorted(filter(None, of_list), key=lambda match: int(match[1]))
        )
    return columns


def _tolerance(own: Any, given: str | None, answer_type: str, where: str) -> Row:
    """The tolerance of a row: its own, which a table without types holds as text, or else the one given for all."""
    own = None if is_missing(own) else own
    if own is not None and not isinstance(own, str):
        return {"tolerance": own}
    text = own or (given if answer_type == "number" else None)
    if text is None:
        return {}
    try:
        return parse_tolerance(text)
    except DataError as error:
        wrong(where, str(error))


def _look_up(row: Mapping[str, Any], column: str, asked_for: bool, where: str) -> Any:
    """The value of a column, of several ("A,B,C,D": a list without empty values), or inside an object ("a.b")."""
    if "," in column and column not in row:
        values = [_look_up(row, part.strip(), asked_for, where) for part in column.split(",")]
        return values[: max((i for i, value in enumerate(values, 1) if not is_missing(value)), default=0)]
    value: Any = row
    for part in [column] if column in row else column.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):  # conversations.0.value
            value = value[int(part)]
            continue
        if not isinstance(value, Mapping) or part not in value:
            if asked_for:
                wrong(where, f"there is no column {column!r}; columns: {', '.join(map(str, row))[:200]}")
            return None
        value = value[part]
    return value


def _gold(answer: str, choices: tuple[str, ...], said_as: str | None, where: str) -> str:
    """The gold letter, which the table writes as `said_as`: letter, text, index0 (from 0) or index1."""
    if said_as in ("index0", "index1"):
        number = whole_number(answer)
        index = number - int(said_as[-1]) if isinstance(number, int) else -1
        if not 0 <= index < len(choices):
            wrong(
                where, f"gold {shown(answer)} is outside the choices: no index from {said_as[-1]} into {len(choices)}"
            )
        return LETTERS[index]
    if answer not in choices and isinstance(number := whole_number(answer), int):  # the answer 40 of the choices 40.0
        same = [choice for choice in choices if whole_number(choice) == number]
        answer = same[0] if len(same) == 1 else answer
        if not same and said_as is None and 0 <= number <= len(choices):
            what = f"gold {shown(answer)} is outside the choices, unless it is their index"
            wrong(where, f"{what}; say so with --answer-is index0 (from 0) or index1 (from 1)")
    return letter_of(answer, choices, where, said_as)


def infer_type(answer: str) -> AnswerType:
    """How a free answer would be judged: number, list (in brackets), expression (mathematics) or text."""
    if read_quantity(answer, strict=True) is not None:
        return "number"
    if re.fullmatch(r"\s*\[[^\[\]]*\d[^\[\]]*\]\s*", answer):
        return "list"
    if re.fullmatch(r"\s*\([^()]*\d[^()]*,[^()]*\)\s*", answer) and readable(answer, "expression"):
        return "expression"  # (2, 3)
    return "expression" if _MATHS.search(answer) else "text"


def number_or_text(answer: str) -> AnswerType:
    """How an answer is judged where none is an expression: "2007-2009" of a chart is a label, not a difference."""
    found = infer_type(answer)
    return "text" if found == "expression" else found


def _is_text_data(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


SOURCE = Source(
    name="table",
    item=item,
    options=("map", "answer_type", "answer_is", "answer_pattern", "answer_list", "tolerance"),
    assumed_split="train",
    test_share=0.1,
)
