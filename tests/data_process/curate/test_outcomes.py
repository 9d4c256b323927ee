"""Pass rates from files in all forms, domains from replies, clusters of texts."""

from __future__ import annotations

import pytest

from data_process.curate.clusters import cluster
from data_process.curate.domains import domain_prompt, read_domain
from data_process.curate.outcomes import judge_texts, read_outcomes
from data_process.io import write_jsonl
from data_process.schema import DataError, Problem

JUDGED = {"candidate": {"problem_id": "p", "n_tokens": 30}, "verdict": {"status": "correct"}}
WRONG = {"candidate": {"problem_id": "p", "n_tokens": 90}, "verdict": {"status": "wrong"}}


@pytest.mark.parametrize(
    ("rows", "rate", "length"),
    [
        ([JUDGED, WRONG, {**JUDGED, "candidate": {"problem_id": "p", "n_tokens": 50}}], 2 / 3, 40),
        ([{"id": "p", "correct": True}, {"id": "p", "correct": False}], 0.5, None),
        ([{"id": "p", "correct": True, "tokens": 12}], 1.0, 12),
        ([{"id": "p", "correct": 3, "n": 4}], 0.75, None),
        ([{"pid": "p", "pass_rate": 0.25}], 0.25, None),
        ([{"id": "p", "correct": 0, "n": 1}, {"id": "p", "correct": 1, "n": 1}], 0.5, None),
        ([{"id": "p", "response": "Answer: 7"}, {"id": "p", "response": "Answer: 8"}], 0.5, None),
        ([{"id": "p", "response": "Answer: 7", "finish": "length"}, {"id": "p", "response": ""}], 0, None),
    ],
)
def test_forms(tmp_path, rows, rate, length):
    write_jsonl(tmp_path / "a.jsonl.gz", rows)
    outcomes = read_outcomes(tmp_path / "a.jsonl.gz")
    judge_texts(outcomes, [Problem("p", "3 + 4?", "7", answer_type="number")])
    assert outcomes["p"].rate == pytest.approx(rate)
    assert outcomes["p"].length == length


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "p"}, r"a.jsonl, line 2: a row needs 'correct' .*it has \{'id': 'p'\}"),
        ({"id": "p", "correct": 3, "n": 2}, "line 2: a row needs 'correct'"),
        ({"id": "p", "correct": 1}, "line 2: a row needs 'correct'"),
        ({"id": "p", "pass_rate": 1.5}, "line 2: a row needs 'correct'"),
        ({"pass_rate": 0.5}, "line 2: a row needs the 'id' of its problem, found None"),
    ],
)
def test_missing_columns(tmp_path, row, message):
    write_jsonl(tmp_path / "a.jsonl", [{"id": "q", "pass_rate": 0}, row])
    with pytest.raises(DataError, match=message):
        read_outcomes(tmp_path / "a.jsonl")


def test_no_samples(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no samples"):
        read_outcomes(tmp_path / "a.jsonl")


LABELS = ("Algebra", "Geometry", "Number theory")


@pytest.mark.parametrize(
    ("reply", "domain"),
    [
        ("2", "Geometry"),
        ("It has 3 sides.\nSo: 2. Geometry", "Geometry"),
        ("3.\n", "Number theory"),
        ("geometry", "Geometry"),
        ("1 or 2", None),
        ("4", None),
        ("0", None),
        ("Algebra and geometry", None),
        ("", None),
    ],
)
def test_read_domain(reply, domain):
    assert read_domain(reply, LABELS) == domain


def test_domain_prompt():
    prompt = domain_prompt("<image>Find {x}.", LABELS)
    assert "<image>Find {x}." in prompt
    assert "2. Geometry" in prompt
    assert "from 1 to 3" in prompt


TEXTS = [
    *(f"Find the angle of triangle {k} with sides a and b" for k in range(40)),
    *(f"How many apples does Tom buy for {k} dollars in the shop" for k in range(40)),
    *(f"Solve the equation of degree {k} for its real roots" for k in range(40)),
]


def test_clusters():
    labels = cluster(TEXTS, 3, seed=0)
    assert labels == cluster(TEXTS, 3, seed=0)
    groups = [set(labels[start : start + 40]) for start in (0, 40, 80)]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert len(set.union(*groups)) == 3
    assert any(word in groups[1].pop() for word in ("apples", "tom", "buy", "dollars", "shop", "many", "does", "how"))


def test_clusters_of_own_vectors():
    import numpy as np

    def embed(texts):
        return np.array([[1.0, 0.0] if "Tom" in text else [0.0, 1.0] for text in texts])

    labels = cluster(TEXTS, 2, seed=0, embed=embed)
    assert len(set(labels[40:80])) == len(set(labels[:40] + labels[80:])) == 1


@pytest.mark.parametrize(
    ("texts", "k", "message"),
    [
        (["one text", "two texts"], 3, "2 texts cannot form 3 clusters"),
        (["the same words"] * 9, 3, "only 1 different forms; lower domain.clusters"),
        (["12 + 3"] * 9, 3, "the questions have no words to cluster by"),
    ],
)
def test_what_cannot_be_clustered(texts, k, message):
    with pytest.raises(DataError, match=message):
        cluster(texts, k, seed=0)
