"""MathVista (lupantech/MathVista): testmini and test, from the hub, from Parquet, or from local JSON and images.

A problem's prompt is the official query (`build_query.py`, shot 0): hint, question with its unit, choices. `question`
holds the first two, and the prompt set "mathvista" adds the choices, so that `prompts.cot` gives the query character
for character. The query is rebuilt from the fields and compared with the given one, which is in the hub's rows and in
`query.json` beside `testmini.json`; if the two differ, the given one is used and the difference is counted.

Ids are the official pids. `meta.mathvista` keeps the official row, which its score and its result format need.
The answers of the test split are not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_process.json_files import read_json
from data_process.schema import LETTERS, wrong
from data_process.sources.base import (
    Item,
    PrepareRequest,
    Row,
    Source,
    SourceImage,
    SplitRows,
    choices_of,
    embedded_image,
    find_image,
    plain_value,
    repeated_choices,
    text_of,
)
from data_process.sources.tables import table_rows

# The wordings of build_query.py, by (question_type, answer_type, precision).
HINTS = {
    ("multi_choice", "text", None): "Please answer the question and provide the correct option letter, "
    "e.g., A, B, C, D, at the end.",
    ("free_form", "integer", None): "Please answer the question requiring an integer answer and provide the final "
    "value, e.g., 1, 2, 3, at the end.",
    ("free_form", "float", 1): "Please answer the question requiring a floating-point number with one decimal place "
    "and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.",
    ("free_form", "float", 2): "Please answer the question requiring a floating-point number with two decimal places "
    "and provide the final value, e.g., 1.23, 1.34, 1.45, at the end.",
    ("free_form", "list", None): "Please answer the question requiring a Python list as an answer and provide the "
    "final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}
FILES = (
    "Download data/testmini-*.parquet (or, from its GitHub repository, data/testmini.json and data/query.json, and "
    "images.zip, unpacked) into a folder DIR and read them with --raw DIR (--images DIR/images)"
)


def rows(request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[SplitRows]:
    """The rows of each split, with `query` from a `query.json` beside the table, if there is one."""
    queries = _queries(request.raw)
    for split, located in table_rows(SOURCE, request, splits):
        yield (
            split,
            ((where, {**row, "query": row.get("query") or queries.get(str(row.get("pid")))}) for where, row in located),
        )


def _queries(raw: Path | None) -> dict[str, str]:
    folders = [] if raw is None else [raw, raw / "data"] if raw.is_dir() else [raw.parent]
    path = next((f / "query.json" for f in folders if (f / "query.json").is_file()), None)
    if path is None:
        return {}
    found = read_json(path, "fetch it again, or remove it")
    if not isinstance(found, dict):
        wrong(str(path), "expected a query for each pid; fetch it again, or remove it")
    return found


def head_of_query(question: str, question_type: str, answer_type: str, precision: int | None, unit: str | None) -> str:
    """Hint, question and unit: the official query without its choices. KeyError for a combination without a hint.

    Trailing white space of the question stays; the official query drops it if no choices follow.
    """
    hint = HINTS[question_type, answer_type, precision]
    return f"Hint: {hint}\nQuestion: {question}" + (f" (Unit: {unit})" if unit else "")


def choices_text(choices: Iterable[str]) -> str:
    """The choices as the official query and the prompt set "mathvista" write them; "" for none."""
    listed = "".join(f"\n({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"\nChoices:{listed}" if listed else ""


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem. Its fields have no `answer` if the official row has none."""
    pid = row.get("pid")
    if not isinstance(pid, str) or not pid:
        wrong(where, f"'pid' must be text, found {pid!r}")
    where = f"{where}, pid {pid}"
    kind, answer_type = text_of(row, "question_type", where), text_of(row, "answer_type", where)
    choices = choices_of(row["choices"], where) if row.get("choices") else ()
    if (kind == "multi_choice") != bool(choices):
        wrong(where, f"question_type is {kind!r}, but there are {len(choices)} choices")
    precision = _precision(row.get("precision"), where)
    unit = row.get("unit") or None
    if unit is not None and not isinstance(unit, str):
        wrong(where, f"'unit' must be text, found {unit!r}")
    try:
        head = head_of_query(text_of(row, "question", where), kind, answer_type, precision, unit)
    except KeyError:
        wrong(where, f"no official hint for {kind}, {answer_type}, precision {precision}; known: {list(HINTS)}")
    fields = _answer(row, choices, where)
    notes: list[str] = []
    given = row.get("query")
    head, choices = _as_official(head, choices, row["question"], given, where, notes)
    official = {key: value for key, value in row.items() if key not in ("decoded_image", "query")}
    official.update(precision=precision, query=given or (head + choices_text(choices)))
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        wrong(where, f"'metadata' must be an object, found {str(metadata)[:80]!r}")
    meta = {"mathvista": official, "language": metadata.get("language"), "family": metadata.get("source")}
    if isinstance(drawn_from := metadata.get("source"), str) and drawn_from.strip():
        fields["origin"] = [drawn_from, "MathVista"]
    fields = {
        "id": pid, "question": head, **fields, "choices": list(choices), "precision": precision, "unit": unit,
        "answer_type": "choice" if choices else answer_type,
        "meta": {key: value for key, value in meta.items() if value is not None},
    }  # fmt: skip
    if choices and "answer" in fields:
        notes.extend(repeated_choices(choices, fields["answer"]))  # the official rule accepts either of the two
    if given is None:
        notes.append("no official query to compare the rebuilt one with")
    return Item(fields, _images(row, request, pid, where), tuple(notes))


def _precision(value: object, where: str) -> int | None:
    """The precision as a whole number; Parquet stores it as a float."""
    if value is None or value != value:  # NaN is how pandas writes "none"
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        wrong(where, f"'precision' must be a number of decimals, found {value!r}")
    return int(value)


def _answer(row: Row, choices: tuple[str, ...], where: str) -> Row:
    """The gold answer; for choices its letter, the first one if two choices have equal texts."""
    answer = plain_value(row.get("answer"))
    if answer is None or not answer:
        return {}
    if not choices:
        return {"answer": answer}
    if answer not in choices:
        wrong(where, f"gold {answer!r} is outside the choices {list(choices)}")
    return {"answer": LETTERS[choices.index(answer)]}


def _as_official(
    head: str, choices: tuple[str, ...], question: str, given: object, where: str, notes: list[str]
) -> tuple[str, tuple[str, ...]]:
    """Head and choices that together give the official query, which has no trailing white space."""
    if choices:
        choices = (*choices[:-1], choices[-1].rstrip())
    else:
        head = head.rstrip()
    if given is None or given == head + choices_text(choices):
        return head, choices
    tail = choices_text(choices)
    if not isinstance(given, str) or question.strip() not in given:
        wrong(where, f"the given query does not hold the question {question.strip()[:60]!r}: {str(given)[:200]!r}")
    if not given.endswith(tail):
        wrong(where, f"the given query does not end in the choices {list(choices)}: {str(given)[-120:]!r}")
    notes.append("the given query differs from the rebuilt one; the given one is used")
    return given.removesuffix(tail), choices


def _images(row: Row, request: PrepareRequest, pid: str, where: str) -> tuple[SourceImage, ...]:
    if row.get("decoded_image") is not None:
        return (embedded_image(row["decoded_image"], pid, request, where),)
    return (find_image(row["image"], request, where),) if row.get("image") is not None else ()


SOURCE = Source(
    name="mathvista",
    origin="MathVista",
    licence="CC BY-SA 4.0 (the images keep the licences of their 31 source data sets)",
    citation="Lu et al., MathVista: Evaluating Mathematical Reasoning of Foundation Models in Visual Contexts, "
    "ICLR 2024 (arXiv 2310.02255)",
    splits={"testmini": "test"},
    rows=rows,
    item=item,
    hub="AI4Math/MathVista",
    hub_files={"testmini": "data/testmini-*", "test": "data/test-*"},
    files=FILES,
    unlabelled=("test",),
    prompts="mathvista",
    judge="mathvista",
)
