"""MathVista's score tables and result files in the official forms (lupantech/MathVista@e999481).

A result file is one JSON object: pid -> the problem's own fields with `response`, `extraction`, `prediction` and
`true_false`. The official script reads it and computes the same predictions and verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_process.io import write_aside
from data_process.judging.published.mathvista import official_verdict
from data_process.judging.published.registry import Response
from data_process.schema import DataError, Problem

# The nine tables, in the official order; the first two are fields of a problem, the others of its metadata.
TABLES = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade", "skills")
RESULT_FIELDS = ("question_type", "answer_type", "choices", "precision", "metadata")

Count = dict[str, Any]  # {"accuracy": fraction, "correct": n, "total": n}
Tables = dict[str, Any]  # {"average": Count, table: {value: Count}}


def categories(row: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The values of one problem row in every table; None if the row lacks the value of a table."""
    metadata = row.get("metadata")
    flat = {**row, **metadata} if isinstance(metadata, dict) else dict(row)
    if any(flat.get(table) is None for table in TABLES):
        return None
    return {table: list(flat[table]) if table == "skills" else [str(flat[table])] for table in TABLES}


def _count(correct: int, total: int) -> Count:
    return {"accuracy": correct / total if total else None, "correct": correct, "total": total}


def score_tables(outcomes: Iterable[tuple[Mapping[str, Any], bool]]) -> Tables | None:
    """Accuracy overall and per value of every table, best first, from (problem row, correct) pairs.

    A problem with several skills counts once under each. None if a row lacks the metadata. Accuracies are fractions.
    """
    rights: dict[str, dict[str, list[bool]]] = {table: {} for table in TABLES}
    everything = []
    for row, right in outcomes:
        values = categories(row)
        if values is None:
            return None
        everything.append(right)
        for table, held in values.items():
            for value in dict.fromkeys(held):
                rights[table].setdefault(value, []).append(right)
    tables: Tables = {"average": _count(sum(everything), len(everything))}
    for table, by_value in rights.items():
        counts = {value: _count(sum(found), len(found)) for value, found in by_value.items()}
        tables[table] = dict(sorted(counts.items(), key=lambda item: item[1]["accuracy"], reverse=True))
    return tables


def published_form(tables: Tables) -> Tables:
    """The tables as the published score files write them: percent as text, without final zeros in the average."""

    def percent(count: Count) -> Count:
        return {**count, "accuracy": f"{100 * count['correct'] / count['total']:.2f}"}

    average = tables["average"]
    shown: Tables = {"average": {**average, "accuracy": str(round(average["correct"] / average["total"] * 100, 2))}}
    for table in TABLES:
        shown[table] = {value: percent(count) for value, count in tables[table].items()}
    return shown


def result_entry(problem: Problem, row: Mapping[str, Any], response: Response) -> dict[str, Any]:
    """One problem's entry of an official result file, for `response.extraction`.

    Raises DataError for a row that lacks what the official script reads.
    """
    missing = [field for field in RESULT_FIELDS if field not in row]
    if missing:
        raise DataError(
            f"problem {problem.id}: the official result format needs {', '.join(missing)}; score against "
            "MathVista's own problem file"
        )
    verdict = official_verdict(problem, response.extraction)
    given = {key: value for key, value in row.items() if key not in ("id", "gold")}
    return {
        **given, "pid": problem.id, "answer": problem.gold_text, "precision": problem.precision,
        "response": response.text, "extraction": response.extraction, "prediction": verdict.extracted,
        "true_false": verdict.correct,
    }  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value as the official scripts do (indented, UTF-8), whole or not at all."""
    try:
        text = json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair in a response: only an escape can carry it
        text = json.dumps(value, indent=4, allow_nan=False).encode("ascii")
    with write_aside(path) as file:
        file.write(text + b"\n")
