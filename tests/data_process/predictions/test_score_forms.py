"""The tables and measures that benchmarks publish, from problems that `prepare` made."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process.io import read_jsonl
from data_process.predictions.score_forms import (
    FORMS,
    form_lines,
    form_of,
    form_totals,
    score_tables,
    wemath_measures,
)
from data_process.prepare.command import BENCHMARKS, source_named
from tests.data_process.raw_files import prepared
from tests.data_process.sources import test_test_sets as made


def group(number: int, steps: tuple[bool, ...], whole: bool) -> list[tuple[dict, bool]]:
    n = len(steps)
    names = [*map(str, range(1, n + 1)), "multi"]
    return [
        ({"meta": {"ID": f"{n}steps_{number}", "key": f"{n}steps_{name}"}}, right)
        for name, right in zip(names, (*steps, whole), strict=True)
    ]


def joined(*groups: list[tuple[dict, bool]]) -> list[tuple[dict, bool]]:
    return [outcome for found in groups for outcome in found]


@pytest.mark.parametrize(
    ("steps", "whole", "strict", "loose"),
    [
        ((True, True), True, "complete_mastery", "complete_mastery"),
        ((True, False), True, "rote_memorization", "complete_mastery"),
        ((False, False), True, "rote_memorization", "rote_memorization"),
        ((True, True), False, "inadequate_generalization", "inadequate_generalization"),
        ((True, False), False, "insufficient_knowledge", "insufficient_knowledge"),
        ((False, False), False, "insufficient_knowledge", "insufficient_knowledge"),
        ((True, True, False), True, "rote_memorization", "complete_mastery"),
        ((True, True, True), False, "inadequate_generalization", "inadequate_generalization"),
        ((False, True, True), False, "insufficient_knowledge", "insufficient_knowledge"),
    ],
)
def test_one_decomposition(steps, whole, strict, loose):
    measures = wemath_measures(group(1, steps, whole))
    for form, kind in (("strict", strict), ("loose", loose)):
        shares = {name: share for name, share in measures[form].items() if share and name != "score"}
        assert shares == {kind: 1.0}
        assert measures[form]["score"] == {"complete_mastery": 1.0, "inadequate_generalization": 0.5}.get(kind, 0.0)


def test_wemath_by_hand():
    """Of six decompositions four are solved as wholes: the rate of rote memorization is relative to these."""
    measures = wemath_measures(
        joined(
            group(1, (True, True), True), group(2, (True, False), True), group(3, (False, False), True),
            group(4, (True, True), False), group(5, (False, True), False), group(1, (True, True, True), True),
        )
    )  # fmt: skip
    assert (measures["decompositions"], measures["incomplete"]) == (6, 0)
    assert measures["strict"] == {
        "score": 2.5 / 6, "insufficient_knowledge": 1 / 6, "inadequate_generalization": 1 / 6,
        "complete_mastery": 2 / 6, "rote_memorization": 2 / 4,
    }  # fmt: skip
    assert measures["loose"] == {
        "score": 3.5 / 6, "insufficient_knowledge": 1 / 6, "inadequate_generalization": 1 / 6,
        "complete_mastery": 3 / 6, "rote_memorization": 1 / 4,
    }  # fmt: skip


@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=2, max_size=3), st.booleans()), max_size=12))
def test_the_published_formula(groups):
    """(N - 0.5 IG - RM - IK) / N, as four_dimensional_metrics.py of We-Math writes it; strict is never above loose."""
    outcomes = joined(*(group(i, tuple(steps), whole) for i, (steps, whole) in enumerate(groups)))
    measures = wemath_measures(outcomes)
    n = measures["decompositions"]
    assert n == len(groups)
    if not n:
        assert "strict" not in measures
        return
    whole = sum(right for _, right in groups)
    for form in ("strict", "loose"):
        found = measures[form]
        rote = (found["rote_memorization"] or 0.0) * whole
        ig, ik = found["inadequate_generalization"] * n, found["insufficient_knowledge"] * n
        assert found["score"] == pytest.approx((n - 0.5 * ig - rote - ik) / n)
        assert found["complete_mastery"] * n + rote + ig + ik == pytest.approx(n)
    assert measures["strict"]["score"] <= measures["loose"]["score"]


def test_incomplete_decompositions_are_counted():
    whole = group(1, (True, True), True)
    for missing in range(3):
        measures = wemath_measures([*whole[:missing], *whole[missing + 1 :], *group(2, (True, True), True)])
        assert (measures["decompositions"], measures["incomplete"]) == (1, 1)
    assert wemath_measures(whole[:2]) == {"decompositions": 0, "incomplete": 1}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_of_a_known_source(name):
    assert name in {source_named(source).origin for source in BENCHMARKS}
    assert set(FORMS[name].printed) <= set(FORMS[name].tables)


@pytest.mark.parametrize(
    ("origins", "name"),
    [
        ((["GeoQA", "MathVerse"], ["GEOS", "MathVerse"]), "MathVerse"),
        ((["MMMU", None], ["MMMU"]), "MMMU"),
        (("We-Math",), "We-Math"),
        ((["MMMU", None], ["We-Math", None]), None),
        ((["GeoQA", None],), None),
        ((None,), None),
        ((["MMMU", None], None), None),
        ((), None),
    ],
)
def test_the_form_of_problems(origins, name):
    assert form_of({"origin": origin} for origin in origins) == name


def rows_of(name: str, tmp_path: Path) -> list[dict]:
    """Prepared rows of a benchmark, from the files of the tests of its source."""
    if name == "wemath":
        raw, split = made.wemath_folder(tmp_path, made.WEMATH), "testmini"
    else:
        known = {
            "mathverse": made.MATHVERSE, "mathvision": made.MATHVISION,
            "mmmu": [row for rows in made.MMMU.values() for row in rows],
        }  # fmt: skip
        split = made.SPLIT[name]
        raw = made.one_table(name, tmp_path / "raw", known[name])
    prepared(name, raw, tmp_path / name, f"{split}=test")
    return read_jsonl(tmp_path / name / "test.jsonl")


@pytest.mark.parametrize(
    ("name", "table", "totals"),
    [
        ("mathverse", "problem_version", dict.fromkeys(sorted(made.VERSIONS), 4)),
        ("mathverse", "subject", {"Plane Geometry": 15, "Solid Geometry": 5}),
        ("mathverse", "subfield", {"Plane Geometry, Angle": 15, "Solid Geometry, Angle": 5}),
        ("mathvision", "level", {"1": 8, "3": 1}),
        ("mathvision", "subject", {"algebra": 2, "counting": 5, "logic": 1, "solid geometry": 1}),
        ("mathvision", "subject_level", {
            "algebra, 1": 2, "counting, 1": 5, "logic, 3": 1, "solid geometry, 1": 1,
        }),
        ("mmmu", "discipline", {"Art and Design": 4}),
        ("mmmu", "subject", {"Art_Theory": 2, "Music": 2}),
        ("wemath", "steps", {"one-step": 5, "three-step": 1, "two-step": 1}),
        ("wemath", "concept", {"Circumference of Circles": 5}),
    ],
)  # fmt: skip
def test_the_tables_of_prepared_problems(tmp_path, name, table, totals):
    rows = rows_of(name, tmp_path)
    form = form_of(rows)
    outcomes = [(row, index % 2 == 0) for index, row in enumerate(rows)]
    result = form_totals(form, outcomes)
    assert result["score_form"] == form == source_named(name).origin
    assert {line: count["total"] for line, count in result["categories"][table].items()} == totals
    assert list(result["categories"][table]) == list(totals)
    assert result["categories"]["average"]["total"] == len(rows)
    for counts in result["categories"][table].values():
        assert counts["accuracy"] == counts["correct"] / counts["total"]
    assert json.loads(json.dumps(result)) == result
    if table in FORMS[form].printed:
        assert f"{table}:" in form_lines(result)


def test_no_tables_without_their_fields():
    rows = [{"origin": "MMMU", "meta": {"subject": "Art", "discipline": "Art and Design"}}, {"origin": "MMMU"}]
    assert score_tables(FORMS["MMMU"], [(row, True) for row in rows]) is None
    assert form_totals("MMMU", [(row, True) for row in rows]) == {}
    assert form_totals("MMMU", []) == {}
    assert form_lines({}) == []


def test_fields_are_found_in_every_form_of_a_row():
    official = dict.fromkeys(("question_type", "answer_type"), "x")
    metadata = {table: "x" for table in FORMS["MathVista"].tables if table not in official} | {"skills": ["a", "b"]}
    forms = [
        {**official, "metadata": metadata},
        {"meta": {"mathvista": {**official, "metadata": metadata}}, "answer_type": "choice"},
    ]
    first, second = ([(row, True)] for row in forms)
    assert score_tables(FORMS["MathVista"], first) == score_tables(FORMS["MathVista"], second)


def test_lines_for_people():
    outcomes = [
        ({**row, "meta": {**row["meta"], "steps": "one-step", "concepts": []}}, right)
        for row, right in itertools.chain(group(1, (True, False), True), group(2, (False, False), False))
    ]
    lines = form_lines(form_totals("We-Math", outcomes))
    assert lines == [
        "steps:",
        "   33.33%  2/6  one-step",
        "decompositions: 2",
        "incomplete: 0",
        "strict: score 0.00%, insufficient_knowledge 50.00%, inadequate_generalization 0.00%, complete_mastery 0.00%, "
        "rote_memorization 100.00%",
        "loose: score 50.00%, insufficient_knowledge 50.00%, inadequate_generalization 0.00%, complete_mastery 50.00%, "
        "rote_memorization 0.00%",
    ]
