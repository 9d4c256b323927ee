"""`rejudge`: every stored answer of a run is read again, what changed is listed, and the counts add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_process.io import read_jsonl, write_jsonl
from data_process.judging import judge
from data_process.schema import Candidate, Judged, Problem, to_json
from selftrain.cli.main import main
from selftrain.files import RunError
from selftrain.scoring.rejudge import rejudge, rescore

PROBLEM = Problem("q1", "How many degrees?", "B", choices=("30", "40", "45"))
TEXTS = ("Answer: (B)", "Answer: (A)", "no idea", "Answer: (C)")


def record(text, **stored):
    verdict = to_json(judge(text, PROBLEM)) | stored
    return {"text": text, "finish": "stop", "tokens": 3, "prompt_tokens": 5, "verdict": verdict}


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with one training file and one evaluation, as the loop leaves them."""
    data, folder = tmp_path / "data", tmp_path / "run"
    row = {"id": "q1", "question": PROBLEM.question, "answer": "B", "choices": list(PROBLEM.choices)}
    for split in ("train", "dev"):
        write_jsonl(data / f"{split}.jsonl", [row])
    (folder / "iter1").mkdir(parents=True)
    config = {"name": "t", "data": {"source": "jsonl", "folder": str(data)}}
    (folder / "config.json").write_text(json.dumps(config))
    judged = [
        to_json(Judged(Candidate("q1", 0, index, text, 3, 5, "stop"), judge(text, PROBLEM)))
        for index, text in enumerate(TEXTS)
    ]
    write_jsonl(folder / "iter1/judge/judged.jsonl", judged)
    evaluation = {
        "id": "q1", "iteration": 1, "gold": "B", "greedy": record(TEXTS[0]), "samples": [record(t) for t in TEXTS[1:]],
        "majority": {"answers": ["A"], "credit": 0.0}, "select": record(TEXTS[1]), "refine": record(TEXTS[2]),
    }  # fmt: skip
    write_jsonl(folder / "iter1/dev/rows.jsonl", [evaluation])
    return folder


def edit(path: Path, change) -> None:
    rows = read_jsonl(path)
    change(rows)
    write_jsonl(path, rows)


def test_nothing_changed(run, tmp_path):
    result = rejudge(run, tmp_path / "flips.jsonl").to_json()
    assert result["answers"] == result["unchanged"] == 4 + 1 + 3 + 1 + 1
    assert result["flipped"] == result["other_answer"] == 0
    assert result["stored"] == result["now"] == {"correct": 2, "wrong": 5, "abstain": 3}
    assert result["examples"] == read_jsonl(result["flips"]) == []


def test_the_scores_of_a_benchmark(run, tmp_path, capsys):
    """`selftrain score RUN` prints the tables of the greedy answers where the problems come from a benchmark."""
    assert rescore(run).evaluations[0].benchmark == {}
    meta = {"level": 3, "subject": "logic"}

    def published(rows):
        rows[0] |= {"origin": ["MathVision", None], "meta": meta}

    edit(tmp_path / "data/dev.jsonl", published)
    (one,) = rescore(run).evaluations
    assert one.benchmark["score_form"] == "MathVision"
    assert one.benchmark["categories"]["level"] == {"3": {"accuracy": 1.0, "correct": 1, "total": 1}}
    assert main(["score", str(run)]) == 0
    assert "  level:\n    100.00%  1/1  3\n" in capsys.readouterr().out


def test_what_changed_is_listed(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def training(rows):
        rows[1]["verdict"] |= {"status": "correct", "extracted": "B", "rule": "old"}
        rows[3]["verdict"]["extracted"] = "A"

    def evaluation(rows):
        rows[0]["refine"]["verdict"] |= {"status": "wrong", "extracted": "D", "rule": "old"}
        rows[0]["samples"][2]["text"] = "Answer: (B)"

    edit(run / "iter1/judge/judged.jsonl", training)
    edit(run / "iter1/dev/rows.jsonl", evaluation)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["rejudge", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert result["answers"] == result["unchanged"] + result["flipped"] + result["other_answer"] == 10
    assert (result["flipped"], result["other_answer"]) == (3, 1)
    assert result["by_status"] == {"correct -> wrong": 1, "wrong -> abstain": 1, "wrong -> correct": 1}
    assert sum(result["by_rule"].values()) == 3
    assert "old -> answer_cue/letter" in result["by_rule"]
    assert sum(result["stored"].values()) == sum(result["now"].values()) == 10
    listed = read_jsonl(result["flips"])
    assert Path(result["flips"]).parent == tmp_path / "outputs/rejudge"
    assert [(row["file"], row["answer"]) for row in listed] == [
        ("iter1/judge/judged.jsonl", "sample 1"),
        ("iter1/dev/rows.jsonl", "sample 2"),
        ("iter1/dev/rows.jsonl", "refine"),
        ("iter1/judge/judged.jsonl", "sample 3"),
    ]
    assert result["examples"] == listed
    assert main(["rejudge", str(run)]) == 0
    out = capsys.readouterr().out
    assert "10 stored answers under judge version" in out
    assert "3 with another verdict, 1 with the same verdict on another answer" in out
    assert "q1 (iter1/judge/judged.jsonl, sample 1, gold B): correct B [old] -> wrong A [answer_cue/letter]" in out


def test_examples_are_few_and_the_list_is_whole(run, tmp_path):
    def grow(rows):
        for index in range(60):
            rows.append({**rows[0], "candidate": {**rows[0]["candidate"], "sample": 4 + index}})
            rows[-1]["verdict"] = {**rows[0]["verdict"], "status": "wrong"}

    edit(run / "iter1/judge/judged.jsonl", grow)
    result = rejudge(run, tmp_path / "flips.jsonl").to_json()
    assert result["flipped"] == 60 == len(read_jsonl(tmp_path / "flips.jsonl"))
    assert len(result["examples"]) == 20


def test_a_truncated_answer_is_read_as_one(run, tmp_path):
    edit(
        run / "iter1/dev/rows.jsonl", lambda rows: rows[0]["greedy"].update(finish="length", text="So the answer is B")
    )
    result = rejudge(run, tmp_path / "flips.jsonl").to_json()
    assert result["by_status"] == {"correct -> abstain": 1}


def test_runs_that_cannot_be_judged_again(run, tmp_path):
    write_jsonl(tmp_path / "data/train.jsonl", [{"id": "other", "question": "?", "answer": "2"}])
    with pytest.raises(RunError, match=r"judged.jsonl: problem 'q1' is not in .*train.jsonl; the data have changed"):
        rejudge(run, tmp_path / "flips.jsonl")
    for file in (*run.glob("iter1/*/*.jsonl"),):
        file.unlink()
    with pytest.raises(RunError, match="holds no judged answers"):
        rejudge(run, tmp_path / "flips.jsonl")
    (run / "config.json").unlink()
    with pytest.raises(RunError, match="is missing"):
        rejudge(run, tmp_path / "flips.jsonl")


@pytest.mark.parametrize("field", ["status", "finish"])
@pytest.mark.parametrize("file", ["judge/judged.jsonl", "dev/rows.jsonl"])
def test_an_unknown_word_in_a_stored_answer(run, tmp_path, capsys, file, field):
    def change(rows):
        holder = rows[0]["greedy"] if "dev" in file else rows[0]
        holder = holder["verdict"] if field == "status" else holder.get("candidate", holder)
        holder[field] = "banana"

    edit(run / "iter1" / file, change)
    assert main(["rejudge", str(run), "--flips", str(tmp_path / "flips.jsonl")]) == 2
    said = capsys.readouterr().err
    assert f"iter1/{file}, line 1: " in said
    assert f"{field}" in said
    assert "restore the file, or delete" in said


INPUTS = ("run/iter1/dev/rows.jsonl", "run/iter1/judge/judged.jsonl", "run/config.json", "data/dev.jsonl")


@pytest.mark.parametrize("output", [*INPUTS, "run/flips.jsonl", "run", "."])
def test_the_list_of_changes_spares_the_run_and_its_data(run, tmp_path, monkeypatch, capsys, output):
    monkeypatch.chdir(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in INPUTS}
    assert main(["rejudge", str(run), "--flips", output]) == 2
    assert f"error: --flips {output}" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in INPUTS} == before
