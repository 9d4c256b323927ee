"""`score` on files: the contract of the command line, counts that add up, and errors that name file and line."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_process.io import read_jsonl
from data_process.judging.extractor import KEY_VARIABLE
from data_process.judging.published import registry
from selftrain import stats
from selftrain.cli.main import main
from selftrain.scoring.answer_file import score_files
from tests.data_process.judging.test_extractor import completion, serve  # noqa: F401  (a fixture)
from tests.data_process.judging.test_mathvista import CHOICE_ROW, ROW
from tests.data_process.raw_files import prepared
from tests.data_process.sources.test_test_sets import WEMATH, wemath_folder
from tests.shared_data import shared

ROOT = Path(__file__).parents[3]
GEOQA = [
    {"id": 1, "question": "Angle?", "choices": ["30.0", "40.0", "45.0", "60.0"], "answer": "B"},
    {"id": "2", "question": "Angle?", "choices": ["30.0", "40.0", "45.0", "60.0"], "gold": "45.0"},
    {"pid": 3, "query": "Angle?", "gold": "65°"},
    {"pid": "4", "query": "Length?", "answer": 12},
    {"id": "no answer", "question": "Length?", "answer": "2"},
]
ANSWERS = [
    {"pid": "1", "response": "so the answer is 40."},
    {"id": 2, "output": "Answer: (A)"},
    {"id": "3", "response": "<answer>65</answer>"},
    {"id": 4, "response": "no idea at all, sorry"},
]


def write(path: Path, rows) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(problems=GEOQA, answers=ANSWERS, suffix=".jsonl"):
        return write(tmp_path / f"problems{suffix}", problems), write(tmp_path / f"answers{suffix}", answers)

    return make


def run(capsys, problems, answers, *more) -> tuple[int, str, str]:
    status = main(["score", "--problems", str(problems), "--outputs", str(answers), *map(str, more)])
    out, err = capsys.readouterr()
    return status, out, err


# ---- the contract


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_contract(files, capsys, suffix):
    status, out, err = run(capsys, *files(suffix=suffix), "--judge", "geoqa", "--json")
    assert status == 0
    assert err == ""
    result = json.loads(out)
    assert {key: result[key] for key in ("n", "correct", "wrong", "abstain", "missing", "judge")} == {
        "n": 5, "correct": 2, "wrong": 1, "abstain": 2, "missing": 1, "judge": "geoqa",
    }  # fmt: skip
    assert result["missing_ids"] == ["no answer"]
    assert result["accuracy"] == 0.4
    assert result["interval"] == list(stats.wilson(2, 5))
    rows = read_jsonl(result["per_item"])
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "no answer"]
    assert [row["verdict"] for row in rows] == ["correct", "wrong", "correct", "abstain", "abstain"]
    assert [row["extracted"] for row in rows] == ["B", "A", "65", None, None]
    assert rows[-1]["rule"] == "missing"
    assert all(row["rule"] for row in rows)
    assert sum(result["rules"].values()) == 5


@pytest.mark.slow
def test_as_a_program(files):
    problems, answers = files()
    done = subprocess.run(
        [sys.executable, "-m", "selftrain", "score", "--problems", problems, "--outputs", answers, "--judge", "geoqa",
         "--json", "--per-item", "items.jsonl"],
        cwd=problems.parent, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["per_item"] == str(problems.parent / "items.jsonl")
    assert len(read_jsonl(problems.parent / "items.jsonl")) == 5


def test_for_people(files, capsys):
    status, out, _ = run(capsys, *files(), "--judge", "geoqa")
    assert status == 0
    assert "accuracy 2/5 = 40.00% [11.8, 76.9]" in out
    assert "correct 2, wrong 1, abstain 2, of which without an answer in the file 1" in out
    assert "unanswered: no answer" in out
    assert "     1  missing" in out
    assert "official" not in out


def test_nothing_is_written_beside_the_files(tmp_path, monkeypatch, capsys):
    folder, here = tmp_path / "data", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    problems, answers = write(folder / "p.jsonl", GEOQA), write(folder / "a.jsonl", ANSWERS)
    first = json.loads(run(capsys, problems, answers, "--json")[1])["per_item"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "p.jsonl"]
    assert Path(first).parent == here / "outputs/score"
    assert json.loads(run(capsys, problems, answers, "--json")[1])["per_item"] == first
    write(answers, ANSWERS[:3])
    assert json.loads(run(capsys, problems, answers, "--json")[1])["per_item"] != first
    status, _, err = run(capsys, problems, answers, "--per-item", here / "outputs" / "score")
    assert status == 2
    assert "--per-item" in err


def test_auto_is_the_default_and_reads_every_type(files, capsys):
    problems = [
        {"id": "c", "question": "?", "choices": ["cat", "dog"], "answer": "dog"},
        {"id": "i", "question": "?", "answer": "7", "answer_type": "integer"},
        {"id": "f", "question": "?", "answer": "1.2", "answer_type": "float", "precision": 1},
        {"id": "n", "question": "?", "answer": 0.5},
        {"id": "l", "question": "?", "answer": [1, 2]},
        {"id": "e", "question": "?", "answer": "2\\sqrt{3}"},
        {"id": "t", "question": "?", "answer": "Tuesday"},
    ]
    replies = ["(B)", "7", "1.23", "1/2", "[1, 2]", "$\\sqrt{12}$", "tuesday"]
    answers = [{"id": p["id"], "response": f"The answer is {r}"} for p, r in zip(problems, replies, strict=True)]
    result = json.loads(run(capsys, *files(problems, answers), "--json")[1])
    rows = {row["id"]: row["verdict"] for row in read_jsonl(result["per_item"])}
    assert result["judge"] == "auto"
    assert rows == dict.fromkeys("cifnlet", "correct")


def test_a_cut_response_abstains(files, capsys):
    answers = [
        {"id": 1, "response": "Answer: B", "finish": "length"},
        {"id": 2, "response": "Answer: C", "finish": "stop"},
    ]
    result = json.loads(run(capsys, *files(GEOQA[:2], answers), "--judge", "geoqa", "--json")[1])
    assert [row["verdict"] for row in read_jsonl(result["per_item"])] == ["abstain", "correct"]


def test_gold_text_and_gold_letter(files, capsys):
    # MathVista writes the text of the choice, other files the letter; among B, A they differ.
    problems = [
        {**CHOICE_ROW, "pid": "text"},
        {"id": "letter", "question": "?", "choices": ["B", "A"], "answer": "A"},
        {**CHOICE_ROW, "pid": "twice", "choices": ["18", "9", "18"], "answer": "18"},
    ]
    answers = [{"id": i, "response": "Answer: (B)"} for i in ("text", "letter")]
    answers.append({"id": "twice", "response": "Answer: (C)"})
    result = json.loads(run(capsys, *files(problems, answers), "--judge", "mathvista", "--json")[1])
    rows = {row["id"]: row for row in read_jsonl(result["per_item"])}
    assert {i: row["verdict"] for i, row in rows.items()} == {"text": "correct", "letter": "wrong", "twice": "correct"}


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["auto", "geoqa", "mathvista", "legacy:chartqa"]))
def test_no_order_of_rows_changes_a_score(tmp_path, seed, name):
    draw = random.Random(seed)
    chosen = draw.sample(ANSWERS, draw.randint(0, 4))
    results = []
    for turn in range(2):
        answers, problems = draw.sample(chosen, len(chosen)), draw.sample(GEOQA, len(GEOQA))
        paths = write(tmp_path / "p.jsonl", problems), write(tmp_path / "a.jsonl", answers)
        result = score_files(*paths, name, per_item=tmp_path / f"items{turn}.jsonl")
        rows = read_jsonl(tmp_path / f"items{turn}.jsonl")
        assert result["correct"] + result["wrong"] + result["abstain"] == result["n"] == len(rows) == 5
        assert result["missing"] == 5 - len(chosen) == sum(row["rule"] == "missing" for row in rows)
        results.append({row["id"]: row for row in rows})
    assert results[0] == results[1]


# ---- MathVista


def test_official_and_strict_side_by_side(files, capsys):
    problems = [
        {**CHOICE_ROW, "pid": "1", "choices": ["No", "Yes"], "answer": "No"},
        {**CHOICE_ROW, "pid": "2", "choices": ["No", "Yes"], "answer": "Yes"},
        {**ROW, "pid": "3"},
        {**ROW, "pid": "4"},
    ]
    answers = [
        {"pid": 1, "response": "I cannot see the picture.", "extraction": "N/A"},  # credited by nearest string
        {"pid": 2, "response": "The answer is Yes.", "extraction": "Yes"},
        {"pid": 3, "response": "It is 12%.", "extraction": "12%"},
    ]
    status, out, _ = run(capsys, *files(problems, answers), "--judge", "mathvista-official", "--json")
    result = json.loads(out)
    assert status == 0
    assert (result["n"], result["correct"], result["wrong"], result["abstain"]) == (4, 2, 0, 2)
    assert {k: result["official"][k] for k in ("correct", "total", "credit_without_answer", "extractions")} == {
        "correct": 2, "total": 3, "credit_without_answer": 1, "extractions": "given",
    }  # fmt: skip
    assert (result["strict"]["correct"], result["strict"]["total"]) == (1, 4)
    rows = read_jsonl(result["per_item"])
    assert [row.get("official") for row in rows] == [True, True, False, None]
    assert [row.get("states_answer") for row in rows] == [False, True, False, None]
    assert result["categories"]["question_type"]["multi_choice"]["correct"] == 2
    text = run(capsys, *files(problems, answers), "--judge", "mathvista-official")[1]
    assert "official 2/3" in text
    assert "strict   1/4" in text
    assert "1 of the 2 officially right answers are credit for an extraction that is no answer at all" in text

    ours = json.loads(run(capsys, *files(problems, answers), "--judge", "mathvista", "--json")[1])
    assert (ours["correct"], ours["official"]["correct"], ours["strict"]["correct"]) == (1, 2, 1)
    bare = [{k: v for k, v in answer.items() if k != "extraction"} for answer in answers]
    alone = json.loads(run(capsys, *files(problems, bare), "--judge", "mathvista", "--json")[1])
    assert alone["official"]["extractions"] == "own"
    assert (alone["official"]["correct"], alone["official"]["credit_without_answer"]) == (2, 1)
    assert (alone["correct"], alone["strict"]["correct"]) == (1, 1)


@pytest.mark.parametrize("model", ["bard", "claude", "gpt4", "llava_llama_2_13b"])
def test_published_totals_and_official_files(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    problems, answers = shared("mathvista/testmini.jsonl.gz"), shared(f"mathvista/output_{model}.jsonl.gz")
    status, out, _ = run(
        capsys, problems, answers, "--judge", "mathvista-official", "--json", "--official-out", "results.json",
        "--official-scores", "scores.json",
    )  # fmt: skip
    assert status == 0
    result, expected = json.loads(out), json.loads(shared(f"mathvista/scores_{model}.json").read_text())
    assert result["correct"] == expected["average"]["correct"]
    published = {row["pid"]: row["true_false"] for row in read_jsonl(answers)}
    assert {row["id"]: row["verdict"] == "correct" for row in read_jsonl(result["per_item"])} == published
    results = json.loads(Path("results.json").read_text(encoding="utf-8"))
    assert {pid: entry["true_false"] for pid, entry in results.items()} == published
    scores = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    same = [table for table in expected if scores[table] == expected[table]]
    assert same == [
        table for table in expected if table not in ("grade", "skills")
    ]  # labels revised since: test_official


def test_metadata_of_the_answers_make_the_tables(files, capsys):
    older = {**ROW["metadata"], "grade": "daily life"}
    answers = [{"pid": "7", "response": "1.2", "extraction": "1.2", "metadata": older}]
    result = json.loads(run(capsys, *files([ROW], answers), "--judge", "mathvista-official", "--json")[1])
    assert list(result["categories"]["grade"]) == ["daily life"]


def test_a_missing_extraction_is_unanswered_in_both_scores(files, capsys):
    problems = [{**CHOICE_ROW, "pid": str(pid), "choices": ["No", "Yes"], "answer": "Yes"} for pid in range(4)]
    answers = [{"pid": pid, "response": "The answer is Yes.", "extraction": "Yes"} for pid in range(4)]
    del answers[2]["extraction"]
    for name in ("mathvista-official", "mathvista", "legacy:mathvista-2023"):
        result = json.loads(run(capsys, *files(problems, answers), "--judge", name, "--json")[1])
        assert (result["official"]["correct"], result["official"]["total"]) == (3, 4)
        assert result["official"]["no_extraction"] == ["2"]
        assert result["strict"]["correct"] == (4 if name == "mathvista" else 3)
    out = run(capsys, *files(problems, answers), "--judge", "mathvista-official", "--official-out", "out.json")[1]
    assert "1 answers without an extraction count as unanswered in both: 2" in out
    entry = json.loads(Path("out.json").read_text())["2"]
    assert ("extraction" not in entry, entry["prediction"], entry["true_false"]) == (True, None, False)
    again = json.loads(run(capsys, "problems.jsonl", "out.json", "--judge", "mathvista-official", "--json")[1])
    assert again["official"]["correct"] == 3


# ---- the forms of published files


FORMS = {
    "options": {"options": ["circle", "square"], "answer": "B"},
    "option text": {"option": "A. circle;B. square", "answer": "B"},
    "Python text": {"options": "['circle', 'square']", "answer": "B"},
    "columns": {"A": "circle", "B": "square", "C": None, "answer": "B"},
    "in the question": {"question": "Which?\nChoices:\nA: circle\nB: square", "answer": "B"},
    "multi-choice": {"choices": ["circle", "square"], "answer": "B", "question_type": "multi-choice"},
    "labels": {"choices": ["A. circle", "B. square"], "answer": "(B)"},
    "accepted": {"answer": ["a square", "tetragon"]},
    "a list of one": {"answer": ["square"]},
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_problems(files, capsys, name):
    problems = [{"id": i, "question": "Which?", **FORMS[name]} for i in range(3)]
    texts = ["Answer: square", "Answer: B" if name != "accepted" and "list" not in name else "Answer: square", "circle"]
    answers = [{"id": i, "response": text} for i, text in enumerate(texts)]
    result = json.loads(run(capsys, *files(problems, answers), "--json")[1])
    assert [row["verdict"] for row in read_jsonl(result["per_item"])] == ["correct", "correct", "wrong"]


@pytest.mark.parametrize("suffix", ["json", "csv", "tsv"])
def test_other_files(tmp_path, capsys, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    lines = [["id", "question", "A", "B", "answer"], ["7", "Which?", "circle", "square", "B"]]
    separator = "," if suffix == "csv" else "\t"
    text = "".join(separator.join(line) + "\n" for line in lines)
    rows = {"7": dict(zip(lines[0][1:], lines[1][1:], strict=True))}  # by pid, as MathVista's own files
    Path(f"p.{suffix}").write_text(json.dumps(rows, indent=1) if suffix == "json" else text)
    answers = write(tmp_path / "a.jsonl", [{"id": 7, "response": "Answer: square"}])
    assert json.loads(run(capsys, f"p.{suffix}", answers, "--json")[1])["correct"] == 1


def test_a_few_bad_rows_are_left_out_and_shown(files, capsys):
    problems = [{"id": i, "question": "?", "answer": "2"} for i in range(60)] + [
        {"id": "bad", "question": "Which?", "answer": "B"}
    ]
    answers = [{"id": i, "response": "Answer: 2"} for i in (*range(59), "bad")] + [{"id": 59, "response": None}]
    _, out, _ = run(capsys, *files(problems, answers))
    assert "accuracy 59/60" in out
    assert "rows that cannot be used and are left out: 2 (of either file at most 5% may be)" in out
    assert "line 61, problem 'bad': column 'answer' holds the letter 'B', but no choices were found" in out
    assert "line 61, answer '59': the response must be text" in out


def test_a_gold_answer_with_its_letter_is_a_choice(files, capsys):
    """ "B. 2" is the second choice, not a text that nothing equals; without choices it is refused."""
    asked = {"id": 1, "question": "Which?\nA. 1\nB. 2", "answer": "B. 2"}
    assert "accuracy 1/1" in run(capsys, *files([asked], [{"id": 1, "response": "Answer: B"}]))[1]
    status, _, err = run(capsys, *files([{**asked, "question": "Which?"}], [{"id": 1, "response": "Answer: B"}]))
    assert status == 2
    assert "holds the letter 'B', but no choices were found" in err


# ---- bad input

FINE = {"id": 1, "response": "Answer: B"}
BAD_ANSWERS = {
    "unknown ids": (
        [FINE, *({"id": f"x{i}", "response": ""} for i in range(7))],
        "7 answers have ids that are not in problems.jsonl: 'x0' (line 2), 'x1' (line 3), 'x2' (line 4), "
        "'x3' (line 5), 'x4' (line 6) and 2 more",
    ),
    "twice": (
        [FINE, {"id": 2, "response": ""}, {"pid": "1", "output": ""}],
        "line 3: problem '1' was already answered (answers.jsonl, line 1)",
    ),
    "no response": ([FINE, {"id": 2, "text": "B"}], "line 2: no 'response' and no 'output'; the row has id, text"),
    "null response": ([{"id": 1, "response": None}], "line 1, answer '1': the response must be text, found NoneType"),
    "number response": ([{"id": 1, "response": 40}], "the response must be text, found int 40"),
    "list response": ([{"id": 1, "response": [4]}], "a response must be text, found 4"),
    "no id": ([{"response": "B"}], "line 1: no 'id' and no 'pid'"),
    "two ids": ([{"id": 1, "pid": 2, "response": "B"}], "line 1: 'id' and 'pid' differ (1, 2); keep one"),
    "two responses": ([{"id": 1, "response": "B", "output": "C"}], "'response' and 'output' differ"),
    "bool id": ([{"id": True, "response": "B"}], "line 1: an id must be text or a whole number, found True"),
    "list id": ([{"id": [1], "response": "B"}], "an id must be text or a whole number, found [1]"),
    "metadata": ([{"id": 1, "response": "B", "metadata": "x"}], "'metadata' must be an object, found str"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answers(files, capsys, case):
    rows, message = BAD_ANSWERS[case]
    files(GEOQA, rows)
    status, out, err = run(capsys, "problems.jsonl", "answers.jsonl", "--json")
    assert (status, out) == (2, "")
    assert "answers.jsonl" in err
    assert message in err
    assert "Traceback" not in err
    assert not Path("outputs").exists()


CHOICES = {"id": 1, "question": "?", "choices": ["30", "40"], "answer": "B"}
FREE = {"id": 1, "question": "?", "answer": "2"}
BAD_PROBLEMS = {
    "gold outside": (
        {**CHOICES, "answer": "C"},
        "problem '1': the gold answer 'C' is neither one of the letters AB nor the text of a choice ('30'",
    ),
    "gold text outside": ({**CHOICES, "answer": "45"}, "the gold answer '45' is neither"),
    "no gold": ({"id": 1, "question": "?"}, "no 'answer' and no 'gold'"),
    "null gold": ({**FREE, "answer": None}, "the public files of a test split have no gold answers"),
    "bool gold": ({**FREE, "answer": True}, "must be text, a number or a list, found True"),
    "two golds": ({**FREE, "answer": "1", "gold": "2"}, "'answer' and 'gold' differ"),
    "no question": ({"id": 1, "answer": "2"}, "no 'question' and no 'query'"),
    "number question": ({"id": 1, "question": 5, "answer": "2"}, "'question' must be text"),
    "choices no list": ({**CHOICES, "choices": "30, 40"}, "'choices' must be a list of texts"),
    "choices numbers": ({**CHOICES, "choices": [30, 40]}, "'choices' must be a list of texts"),
    "one choice": ({**CHOICES, "choices": ["30"]}, "1 choices; there must be 2 to 10"),
    "question type": (
        {**CHOICES, "question_type": "essay"},
        "'question_type' must be multi_choice or free_form, found",
    ),
    "no choices": ({**FREE, "answer": "A", "question_type": "multi_choice"}, "a multi_choice problem needs 'choices'"),
    "answer type": ({**FREE, "answer_type": "cats"}, "unknown answer_type 'cats'"),
    "precision": ({**FREE, "answer": "2.1", "answer_type": "float", "precision": "one"}, "'precision' must be"),
    "half a decimal": ({**FREE, "answer": "2.1", "answer_type": "float", "precision": 1.5}, "'precision' must be"),
    "unit": ({**FREE, "unit": 3}, "'unit' must be text"),
}


@pytest.mark.parametrize("case", BAD_PROBLEMS)
def test_bad_problems(files, capsys, case):
    row, message = BAD_PROBLEMS[case]
    files([{"id": 0, "question": "?", "answer": "2"}, row], [])
    status, out, err = run(capsys, "problems.jsonl", "answers.jsonl", "--json")
    assert (status, out) == (2, "")
    assert "problems.jsonl, line 2" in err
    assert message in err


def test_a_problem_twice(files, capsys):
    files([GEOQA[0], GEOQA[1], {**GEOQA[0], "id": "1"}], [])
    _, _, err = run(capsys, "problems.jsonl", "answers.jsonl")
    assert "problems.jsonl, line 3: problem id '1' was already used (problems.jsonl, line 1)" in err


def test_torn_and_absent_files(files, tmp_path, capsys):
    problems, answers = files(suffix=".jsonl.gz")
    whole = answers.read_bytes()
    answers.write_bytes(whole[: len(whole) // 2])
    status, _, err = run(capsys, problems, answers)
    assert status == 2
    assert "answers.jsonl.gz: damaged gzip file" in err
    answers.write_bytes(b"not gzip at all")
    assert "damaged gzip file" in run(capsys, problems, answers)[2]
    (tmp_path / "cut.jsonl").write_text('{"id": 1, "response": "B"}\n{"id": 2, "resp')
    assert "cut.jsonl, line 2: not complete JSON" in run(capsys, problems, tmp_path / "cut.jsonl")[2]
    assert "no such file" in run(capsys, problems, tmp_path / "absent.jsonl")[2]
    assert "no such file" in run(capsys, tmp_path / "absent.jsonl", answers)[2]
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl: holds no problems" in run(capsys, tmp_path / "empty.jsonl", answers)[2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--judge", "mathvsta"], "unknown judge 'mathvsta'; did you mean 'mathvista'? known: auto, mathvista, geoqa,"),
        (["--judge", "mathvista-official"], "answers.jsonl, line 1, answer '1': no 'extraction'"),
        (["--judge", "geoqa", "--official-out", "x.json"], "judge geoqa has no official MathVista form"),
        (["--judge", "mathvista", "--official-out", "x.json"], "needs question_type, answer_type, precision, metadata"),
        (
            ["--judge", "mathvista", "--official-scores", "x.json"],
            "x.json: score tables need answers, and problems with",
        ),
        (["--judge", "legacy:r1v", "--extractor-url", "http://x", "--extractor-model", "m"], "takes no extractor"),
        (["--extractor-url", "http://x"], "--extractor-url needs --extractor-model"),
        (["--extractor-model", "m"], "need --extractor-url"),
        (["--extractor-url", "x:1", "--extractor-model", "m"], "is not http://"),
        (["--judge", "legacy:geoqa-train"], "problem 3: legacy:geoqa-train judges choices"),
    ],
)
def test_judges_that_cannot_be_used(files, capsys, more, message):
    files()
    status, out, err = run(capsys, "problems.jsonl", "answers.jsonl", "--json", *more)
    assert (status, out) == (2, "")
    assert message in err


def test_a_run_and_files_do_not_mix(files, capsys):
    problems, _ = files()
    assert main(["score", "some/run", "--judge", "auto"]) == 2
    assert "--judge belongs to a file of answers, not to the run some/run" in capsys.readouterr().err
    assert main(["score", "--problems", str(problems)]) == 2
    assert "score needs --problems FILE and --outputs FILE, or a run folder" in capsys.readouterr().err


# ---- legacy judges and their seed


def test_a_seed_names_the_draws(files, capsys):
    problems = [{**CHOICES, "id": i} for i in range(40)]
    answers = [{"id": i, "response": ""} for i in range(40)]
    found = []
    for seed in (0, 0, 1):
        out = run(capsys, *files(problems, answers), "--judge", "legacy:geoqa-eval", "--seed", seed, "--json")[1]
        result = json.loads(out)
        assert result["seed"] == seed
        assert set(result["rules"]) == {"legacy:geoqa-eval/drawn"}
        found.append([row["verdict"] for row in read_jsonl(result["per_item"])])
    assert found[0] == found[1] != found[2]


# ---- the extractor


def test_the_extractor_is_asked_only_where_the_rules_abstain(files, capsys, serve, monkeypatch):  # noqa: F811
    server = serve(completion("12"))
    answers = [*ANSWERS, {"id": "no answer", "response": "  "}]
    answers[1] = {"id": 2, "response": "so (B) or (C), hm, let me", "finish": "length"}
    options = ["--judge", "geoqa", "--extractor-url", server.url, "--extractor-model", "reader", "--json"]
    monkeypatch.setenv(KEY_VARIABLE, "very-secret")
    out = run(capsys, *files(answers=answers), *options)[1]
    result = json.loads(out)
    assert len(server.received) == 1
    assert "no idea at all, sorry" in server.received[0][2]["messages"][0]["content"]
    assert result["extractor"] == {"asked": 1, "from_cache": 0}
    rows = {row["id"]: row for row in read_jsonl(result["per_item"])}
    assert (rows["4"]["verdict"], rows["4"]["extractor_reply"]) == ("correct", "12")
    assert rows["4"]["rule"].startswith("extractor/")
    assert "the rules: " in rows["4"]["note"]
    assert all("extractor_reply" not in rows[i] for i in ("1", "2", "3", "no answer"))
    assert "very-secret" not in out + Path(result["per_item"]).read_text()
    again = json.loads(run(capsys, *files(answers=answers), *options)[1])
    assert again["extractor"] == {"asked": 1, "from_cache": 1}
    assert len(server.received) == 1
    assert read_jsonl(again["per_item"]) == list(rows.values())


def test_a_dead_extractor_is_an_error_and_nothing_is_half_written(files, capsys, serve, monkeypatch):  # noqa: F811
    problems = [{"id": i, "question": "?", "answer": "7"} for i in range(3)]
    answers = [{"id": i, "response": f"hard to say, number {i} of many perhaps"} for i in range(3)]
    server = serve(completion("7"), completion("7"), (400, b"out of credit"))
    options = ["--extractor-url", server.url, "--extractor-model", "reader", "--json"]
    status, out, err = run(capsys, *files(problems, answers), *options)
    assert (status, out) == (2, "")
    assert "out of credit" in err
    assert "2 replies are kept in outputs/extractor.sqlite" in err
    assert not Path("outputs/score").exists()
    server.steps[:] = [completion("7")]
    result = json.loads(run(capsys, *files(problems, answers), *options)[1])
    assert (result["correct"], result["extractor"]) == (3, {"asked": 3, "from_cache": 2})


def test_the_four_measures_of_a_prepared_benchmark(files, capsys, tmp_path):
    """From the published file by `prepare` to the measures of We-Math: one of two decompositions is mastered."""
    prepared("wemath", wemath_folder(tmp_path, WEMATH), tmp_path / "wemath")
    problems = read_jsonl(tmp_path / "wemath/test.jsonl")
    answers = [
        {"id": p["id"], "response": f"<Thought process>: <<so>> <Answer>: <<{'B' if i != 4 else 'A'}>>"}
        for i, p in enumerate(problems)
    ]
    answers[-1]["response"] = answers[3]["response"] = answers[5]["response"] = "<Answer>: <<E>>"
    paths = tmp_path / "wemath/test.jsonl", files(answers=answers)[1]
    result = json.loads(run(capsys, *paths, "--json")[1])
    assert (result["n"], result["correct"], result["score_form"]) == (7, 6, "We-Math")
    assert result["measures"]["strict"]["score"] == 0.5
    assert result["measures"]["strict"]["rote_memorization"] == 0.5
    assert result["measures"]["loose"]["score"] == 1.0
    assert result["categories"]["steps"]["one-step"] == {"accuracy": 0.8, "correct": 4, "total": 5}
    out = run(capsys, *paths, "--judge", "legacy:wemath")[1]
    assert "strict: score 50.00%" in out
    assert "two-step" in out
    without = write(tmp_path / "some.jsonl", answers[:-1])  # an unanswered problem is wrong, here as in the accuracy
    result = json.loads(run(capsys, paths[0], without, "--json")[1])
    assert result["measures"]["loose"]["score"] == 0.5
    assert result["categories"]["steps"]["three-step"]["total"] == 1


def test_every_judge_scores_a_file(files, capsys):
    problems = [{**CHOICE_ROW, "pid": "8"}]
    answers = [{"pid": 8, "response": "Answer: (B)", "extraction": "(B)"}]
    for name in registry.NAMED_JUDGES:
        status, out, err = run(capsys, *files(problems, answers), "--judge", name, "--json")
        assert status == 0, (name, err)
        assert json.loads(out)["judge"] == name


CHARTS = [
    {"id": "a", "question": "How much?", "answer": "20", "answer_type": "number", "tolerance": 0.05},
    {"id": "b", "question": "Which year?", "answer": "2011", "answer_type": "number", "tolerance": 0.05},
    {"id": "c", "question": "Which?", "answer": "Norway", "answer_type": "text"},
    {"id": "d", "question": "What share?", "answer": "14%", "answer_type": "number", "tolerance": 0.05},
    {"id": "e", "question": "Which?", "answer": "Sweden", "answer_type": "text"},
]
SAID = {"a": "Answer: 21", "b": "So the year is 2012.", "c": "Answer: Norway", "d": "\\boxed{14%}", "e": ""}


def test_chartqa_has_both_scores(files, capsys):
    """A wrong year is wrong to our judge and right by the relaxed rule; the percent sign stays as it is written."""
    files(CHARTS, [{"id": name, "response": text} for name, text in SAID.items()])
    status, out, _ = run(capsys, "problems.jsonl", "answers.jsonl", "--judge", "chartqa", "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["correct"], found["official"]["correct"], found["official"]["total"]) == (3, 4, 5)
    assert found["official"]["rule"] == "ChartQA's relaxed accuracy"
    assert "strict" not in found
    rows = {row["id"]: row for row in read_jsonl(found["per_item"])}
    assert {name: row["official"] for name, row in rows.items()} == {**dict.fromkeys("abcd", True), "e": False}
    assert rows["b"]["verdict"] == "wrong"
    _, text, _ = run(capsys, "problems.jsonl", "answers.jsonl", "--judge", "chartqa")
    assert "official 4/5 = 80.00%" in text
    assert "(ChartQA's relaxed accuracy on the answers this judge read)" in text


def test_chartqa_takes_given_extractions(files, capsys):
    files(CHARTS, [{"id": name, "response": text, "extraction": "20"} for name, text in SAID.items()])
    _, out, _ = run(capsys, "problems.jsonl", "answers.jsonl", "--judge", "chartqa", "--json")
    found = json.loads(out)
    assert (found["official"]["correct"], found["official"]["extractions"]) == (1, "given")
