"""MathVista's score files and result files in the official forms (lupantech/MathVista@e999481).

A result file is one JSON object: pid -> the problem's own fields with `response`, `extraction`, `prediction` and
`true_false`. The official script reads it and computes the same predictions and verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_process.io import write_aside
from data_process.judging.published.mathvista import official_verdict
from data_process.judging.published.registry import Response
from data_process.predictions.score_forms import FORMS, Count, Tables
from data_process.schema import DataError, Problem

TABLES = tuple(FORMS["MathVista"].tables)  # nine, in the official order
RESULT_FIELDS = ("question_type", "answer_type", "choices", "precision", "metadata")


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
