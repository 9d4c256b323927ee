"""Votes in place of answers: which label, when none, and a loop that learns from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_process.io import load_problems, read_jsonl, write_jsonl
from data_process.schema import Candidate, DataError, Problem, to_json
from selftrain.config import LabelsConfig, load_config
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.sampling.pseudo_labels import PseudoLabel, counts, needs_label, relabelled, say, vote
from selftrain.shipped import ROOT

CHOICE = Problem(id="p", question="?", answer="", choices=("45", "47"))
NUMBER = Problem(id="p", question="?", answer="", answer_type="number")


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate("p", 0, k, text, n_tokens=3, n_prompt_tokens=5, finish="stop") for k, text in enumerate(texts)]


A, B, NONE = "Answer: (A)", "Answer: (B)", "I cannot tell."


@pytest.mark.parametrize(
    ("problem", "texts", "answer", "share", "reason"),
    [
        (CHOICE, [A, A, B], "A", 2 / 3, None),
        (CHOICE, [A, A, B, NONE], "A", 0.5, None),
        (CHOICE, [A, NONE, NONE], None, 1 / 3, "below_min_share"),  # unreadable ones count in the whole
        (CHOICE, [A, B], None, 0.5, "tie"),
        (CHOICE, [NONE, NONE], None, 0, "no_answer"),
        (NUMBER, ["Answer: 0.5", "Answer: 1/2", "Answer: 3"], "0.5", 2 / 3, None),  # equal in different forms
        (replace(CHOICE, answer="B"), [B, B, A], "B", 2 / 3, None),
    ],
)
def test_the_vote_of_a_problem(problem, texts, answer, share, reason):
    label = vote(problem, candidates(*texts), LabelsConfig(source="vote", hide_gold=True))
    assert (label.answer, label.reason, label.n) == (answer, reason, len(texts))
    assert label.share == pytest.approx(share)
    assert label.right == (True if problem.answer else None)


def test_the_gold_answer_has_no_part_in_a_label():
    settings = LabelsConfig(source="vote", hide_gold=True)
    for gold in "AB":
        label = vote(replace(CHOICE, answer=gold), candidates(A, A, B), settings)
        assert (label.answer, label.right) == ("A", gold == "A")


def test_candidates_that_contradict_themselves_can_count_less():
    texts = ["47 is (A). Answer: (A)", "47 is (A). Answer: (A)", "47 is (B). Answer: (B)"]
    equal = vote(CHOICE, candidates(*texts), LabelsConfig(source="vote"))
    consistent = vote(CHOICE, candidates(*texts), LabelsConfig(source="vote", weight="consistent"))
    assert (equal.answer, consistent.answer) == ("A", "B")


def test_which_problems_are_relabelled():
    known, unknown = Problem(id="k", question="?", answer="A", choices=("1", "2")), replace(CHOICE, id="u")
    labels = {name: PseudoLabel(id=name, answer="B", share=1, n=3) for name in "ku"}
    for hide, answers in ((False, {"k": "A", "u": "B"}), (True, {"k": "B", "u": "B"})):
        settings = LabelsConfig(source="vote", hide_gold=hide)
        assert needs_label(known, settings) == hide
        assert {i: p.answer for i, p in relabelled([known, unknown], labels, settings).items()} == answers
    assert set(relabelled([known, unknown], {}, LabelsConfig(source="vote"))) == {"k"}


def test_counts_and_their_sentence():
    rows = [("A", None, True), ("B", None, False), ("A", None, None), (None, "tie", None)]
    found = counts(
        PseudoLabel(id=str(k), answer=a, share=0.5, n=2, reason=r, right=x) for k, (a, r, x) in enumerate(rows)
    )
    assert found == {"labelled": 3, "right": 1, "unlabelled:tie": 1, "wrong": 1}
    assert say(found) == "3 of 4 problems labelled by the vote; 50.0% of 2 labels agree with the hidden gold"


@pytest.mark.parametrize(
    ("row", "allowed", "message"),
    [
        ({"answer": None, "choices": ["1", "2"]}, True, None),
        ({"answer": None}, True, None),
        ({"answer": None}, False, "labels.source=vote"),
        ({"answer": None, "answer_type": "text"}, True, "a text problem without an answer"),
        ({"answer": "", "choices": ["1", "2"]}, True, "is empty"),
    ],
)
def test_problems_without_an_answer_in_files(tmp_path, row, allowed, message):
    write_jsonl(tmp_path / "train.jsonl", [{"id": "p", "question": "?", **row}])
    if message:
        with pytest.raises(DataError, match=message):
            load_problems(tmp_path / "train.jsonl", tmp_path, unlabelled=allowed)
        return
    (problem,) = load_problems(tmp_path / "train.jsonl", tmp_path, unlabelled=allowed)
    assert not problem.labelled
    write_jsonl(tmp_path / "again.jsonl", [to_json(problem)])
    assert load_problems(tmp_path / "again.jsonl", tmp_path, unlabelled=True) == [problem]


@pytest.mark.slow
@pytest.mark.parametrize("hide", [True, False])
def test_a_loop_on_votes(tmp_path, hide):
    """With hidden gold, the report of labels is true; without gold, the same loop runs on `answer: null`."""
    from data_process.sources import minigeo

    minigeo.write(tmp_path / "data", {"train": 30, "dev": 12, "test": 12}, seed=0)
    gold = {row["id"]: row["answer"] for row in read_jsonl(tmp_path / "data/train.jsonl")}
    if not hide:
        rows = [{**row, "answer": None} for row in read_jsonl(tmp_path / "data/train.jsonl")]
        write_jsonl(tmp_path / "data/train.jsonl", rows)
    settings = [
        "data.source=jsonl",
        f"data.folder={tmp_path / 'data'}",
        "labels.source=vote",
        "sampling.n=5",
        "iters=2",
    ]
    settings += [
        f"labels.hide_gold={str(hide).lower()}",
        f"output={tmp_path / 'run'}",
        f"bank={tmp_path / 'bank.sqlite'}",
    ]
    run_loop(load_config(ROOT / "configs/rehearsal.yaml", settings), Progress(quiet=True))
    labels = list(read_jsonl(tmp_path / "run/iter1/judge/labels.jsonl"))
    named = {row["id"]: row["answer"] for row in labels if row["answer"] is not None}
    assert len(labels) == 30
    assert 0 < len(named) <= 30
    found = read_json(tmp_path / "run/iter1/judge/counts.json")["labels"]
    assert found["labelled"] == len(named)
    if hide:
        assert found.get("right", 0) == sum(gold[i] == answer for i, answer in named.items())
    for row in read_jsonl(tmp_path / "run/iter1/judge/judged.jsonl"):
        verdict, wanted = row["verdict"], named.get(row["candidate"]["problem_id"])
        assert (verdict["status"] == "correct") == (wanted is not None and verdict["extracted"] == wanted)
        assert (verdict["rule"] == "unlabelled") == (wanted is None)
    newest = {r["id"]: r["answer"] for k in (1, 2) for r in read_jsonl(tmp_path / f"run/iter{k}/judge/labels.jsonl")}
    rows = list(read_jsonl(tmp_path / "run/iter2/build/examples.jsonl"))
    assert {row["problem_id"] for row in rows} <= {i for i, answer in newest.items() if answer}
    for row in rows:
        assert row["kind"] != "cot" or f"({newest[row['problem_id']]})" in row["target"]
