"""Agreement with the published verdicts on real outputs; docs/data/judging_disagreements.csv lists the differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.judging import MATHVISTA, geoqa_rows, is_answer, mathvista_rows
from data_process.schema import Problem
from tests.data_process.judging.test_disagreements import ROWS

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="../shared/data is not here: the real outputs are not shipped"
)

# Rows whose published extraction is an answer, and the most that this judge may leave unread or differ on.
FLOORS = {
    "bard": (909, 24, 8),
    "claude": (876, 12, 2),
    "gpt4": (257, 8, 1),
    "llava": (986, 70, 22),
    "qwen2vl": (989, 14, 6),
}


@needs_data
@pytest.mark.parametrize("name", MATHVISTA)
def test_mathvista(name):
    rows = [r for r in mathvista_rows(DATA, name) if r.readable]
    answered, unread, differ = FLOORS[name]
    assert len(rows) == answered
    assert sum(r.ours.status == "abstain" for r in rows) <= unread
    assert sum(r.disagrees for r in rows) <= differ


@needs_data
def test_geoqa_free_answers():
    rows = geoqa_rows(DATA)
    assert len(rows) == 754
    assert sum(r.published for r in rows) == 231
    assert sum(r.ours.correct for r in rows) == 230
    assert sum(r.ours.status == "abstain" for r in rows) <= 35
    credited = [r for r in rows if r.ours.correct and not r.published]
    assert len(credited) == 14


@needs_data
def test_every_disagreement_is_listed():
    """The file holds exactly the rows that differ, as they are judged today."""
    found = [
        {
            "outputs": name,
            "item": row.id,
            "answer_type": row.problem.answer_type,
            "gold": row.problem.answer,
            "rule": row.ours.rule,
            "judge_answer": row.ours.extracted or "",
            "judge_status": row.ours.status,
            "published_answer": row.extraction,
            "published_correct": str(row.published).lower(),
        }
        for name in (*MATHVISTA, "geoqa")
        for row in (geoqa_rows(DATA) if name == "geoqa" else mathvista_rows(DATA, name))
        if row.readable and row.ours.correct != row.published and (name == "geoqa" or row.disagrees)
    ]
    assert found == [{key: row[key] for key in found[0]} for row in ROWS]


CHOICES = Problem("p", "?", "A", ("cat", "dog", "12"))
NUMBER = Problem("p", "?", "7", answer_type="integer")


@pytest.mark.parametrize(
    ("extraction", "problem", "answer"),
    [
        ("A", CHOICES, True),
        ("(B)", CHOICES, True),
        ("c", CHOICES, True),
        ("D", CHOICES, False),
        ("Dog", CHOICES, True),
        ("12", CHOICES, True),
        ("3.5", CHOICES, True),
        ("none of them", CHOICES, False),
        ("", CHOICES, False),
        ("7", NUMBER, True),
        ("[1, 2]", NUMBER, True),
        ("[1, 2", NUMBER, False),
        ("N/A", NUMBER, False),
        ("A", NUMBER, False),
    ],
)
def test_what_counts_as_an_answer(extraction, problem, answer):
    assert is_answer(extraction, problem) is answer
