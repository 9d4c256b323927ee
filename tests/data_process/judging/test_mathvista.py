"""MathVista's official rule: exact on every published row and table, corner by corner, and readable by its script."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process.io import read_jsonl
from data_process.judging.published.mathvista import most_similar, normalise, official_verdict, states_answer
from data_process.judging.published.registry import Response
from data_process.predictions.files import read_answer_rows, read_problem_rows
from data_process.predictions.mathvista_tables import TABLES, published_form, result_entry, write_json
from data_process.predictions.score_forms import FORMS, score_tables
from data_process.schema import DataError, Problem
from tests.shared_data import shared

MODELS = ("bard", "claude", "gpt4", "llava_llama_2_13b")
YES_NO = Problem("1", "Is it convex?", "B", choices=("No", "Yes"))
FOUR = Problem("2", "How long?", "B", choices=("3/11", "8/11", "6/11", "3/5"))
INTEGER = Problem("3", "How many?", "3", answer_type="integer")
FLOAT = Problem("4", "How long?", "1.25", answer_type="float", precision=2)
LIST = Problem("5", "Which years?", "[1, 2]", answer_type="list")

NORMALISED = [
    # golden fact 14
    (YES_NO, "", "No", "nearest_to_nothing"),
    (FOUR, "(B) 8/11", "8/11", "letter"),
    (INTEGER, "3.7", "3", "integer"),
    (FLOAT, "1.255", "1.25", "float"),  # the double below 1.255
    (INTEGER, "12%", None, "unreadable"),
    (INTEGER, "1,234", None, "unreadable"),
    # letters: the first in brackets, whatever its case; a bare one only as a capital
    (FOUR, "(b)", "8/11", "letter"),
    (FOUR, "not (a) but (b)", "3/11", "letter"),
    (FOUR, " B ", "8/11", "letter"),
    (FOUR, "B.", "3/5", "nearest"),  # all at distance 4 or 3: "3/5" is the shortest
    (FOUR, "b", "3/5", "nearest"),
    (FOUR, "(E)", "3/5", "nearest"),  # beyond the choices, so compared as the text "E"
    (FOUR, "the slope of f(x) is unknown", "3/5", "nearest"),  # x in brackets is taken for a letter
    (FOUR, "(10)", "3/11", "nearest"),
    (FOUR, "8/11", "8/11", "choice"),
    (FOUR, "AB", "3/5", "nearest"),  # "AB" stands in "ABCD", but is no letter
    # values that are no text are turned into text, not stripped
    (YES_NO, None, "No", "nearest"),  # "None" is nearer to "No" (2) than to "Yes" (4)
    (FOUR, 8, "8/11", "nearest"),
    (FOUR, ["(B)"], "8/11", "letter"),
    # numbers as Python reads them
    (INTEGER, "-0.5", "0", "integer"),
    (INTEGER, " 7 ", "7", "integer"),
    (INTEGER, "1e3", "1000", "integer"),
    (INTEGER, "1_000", "1000", "integer"),
    (INTEGER, "３", "3", "integer"),
    (INTEGER, 3, "3", "integer"),
    (INTEGER, True, "1", "integer"),
    (INTEGER, "", None, "unreadable"),
    (INTEGER, None, None, "unreadable"),
    (INTEGER, [3], None, "unreadable"),
    (INTEGER, "nan", None, "unreadable"),
    (INTEGER, "1e999", None, "unreadable"),
    (INTEGER, 10**400, None, "unreadable"),
    (FLOAT, "1.2", "1.2", "float"),
    (FLOAT, "1.20", "1.2", "float"),
    (FLOAT, "1", "1.0", "float"),
    (FLOAT, "1.2 cm", None, "unreadable"),
    (FLOAT, "inf", "inf", "float"),
    (FLOAT, "1e999", "inf", "float"),
    (Problem("6", "?", "2", answer_type="float"), "1.2", None, "unreadable"),  # precision null: int(None) fails there
    (Problem("7", "?", "2.0", answer_type="float", precision=0), "1.5", "2.0", "float"),
    (LIST, "[1, 2]", "[1, 2]", "list"),
    (LIST, [1, 2], "[1, 2]", "list"),
    (LIST, None, "None", "list"),
    (Problem("8", "?", "cat", answer_type="text"), "cat", None, "undefined"),  # the official script stops here
]


@pytest.mark.parametrize(("problem", "extraction", "prediction", "rule"), NORMALISED)
def test_normalise(problem, extraction, prediction, rule):
    assert normalise(extraction, problem) == (prediction, rule)


@pytest.mark.parametrize(
    ("problem", "extraction", "status"),
    [
        (YES_NO, "Yes", "correct"),
        (YES_NO, "", "wrong"),
        (INTEGER, "3.7", "correct"),
        (INTEGER, "12%", "abstain"),
        (FLOAT, "1.2549", "correct"),
        (Problem("9", "?", "1.20", answer_type="float", precision=2), "1.2", "wrong"),  # gold text as it stands
        (LIST, "[1,2]", "wrong"),
        (Problem("8", "?", "cat", answer_type="text"), "cat", "abstain"),
        # two choices with the gold text: either is right, because texts are compared
        (Problem("781", "?", "C", choices=("9", "12", "18", "18")), "(D)", "correct"),
    ],
)
def test_official_verdict(problem, extraction, status):
    verdict = official_verdict(problem, extraction)
    assert verdict.status == status
    assert verdict.rule.startswith("official:")


def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@given(st.text("abN/o ", max_size=8), st.lists(st.text("abN/o ", max_size=6), min_size=1, max_size=6))
def test_the_nearest_choice_is_the_first_minimum(text, choices):
    distances = [edit_distance(text, choice) for choice in choices]
    assert most_similar(text, tuple(choices)) == choices[distances.index(min(distances))]


def test_ties_go_to_the_first():
    assert most_similar("", ("Yes", "Oui")) == "Yes"
    assert most_similar("x", ("b", "a")) == "b"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(ANY_JSON, st.sampled_from([YES_NO, FOUR, INTEGER, FLOAT, LIST]))
def test_no_extraction_raises(extraction, problem):
    official_verdict(problem, extraction, decimals=False)
    verdict = official_verdict(problem, extraction)
    assert (verdict.extracted is None) == (verdict.status == "abstain")
    assert isinstance(states_answer(problem, extraction), bool)


def test_a_choice_problem_without_choices():
    with pytest.raises(DataError, match=r"problem 1: .* needs 'choices'"):
        normalise("A", Problem("1", "?", "A"))


WORDS = Problem("10", "Which animal?", "A", choices=("giant panda", "none of these", "cat", "$x^2$"))


@pytest.mark.parametrize(
    ("problem", "extraction", "states"),
    [
        (FOUR, "(B)", True),
        (FOUR, "b", True),
        (FOUR, "C.", True),
        (FOUR, "(F)", True),  # a letter, if not one of these
        (FOUR, "8/11", True),
        (FOUR, "92.5", True),  # a number, if not one of these
        (FOUR, "90°", True),
        (FOUR, "[1, 2]", True),
        (FOUR, 8, True),
        (YES_NO, "yes", True),
        (WORDS, "panda", True),
        (WORDS, "The giant panda", True),
        (WORDS, "none of these", True),
        (FOUR, "", False),
        (FOUR, "  ", False),
        (FOUR, None, False),
        (FOUR, "N/A", False),
        (YES_NO, "N/A", False),
        (YES_NO, "None", False),
        (YES_NO, "There is no correct option provided", False),
        (FOUR, "The question does not provide f(a).", False),
        (WORDS, "The text does not say whether it is a cat or a giant panda or anything else.", False),
        (INTEGER, "3", True),
        (INTEGER, "N/A", False),
        (FLOAT, "12%", False),
    ],
)
def test_states_answer(problem, extraction, states):
    assert states_answer(problem, extraction) is states


# ---- the published files ------------------------------------------------------------------------------------------

# Scored before the script was public, by a rule that took no decimals for an integer.
OLDER_RULE = {"bard", "claude", "llava_llama_2_13b"}

# The score files were made with older labels than the problem file has: "daily life" was renamed, and these problems
# had other skills (from the result files in lupantech/MathVista `results/`, which repeat the labels of their day).
SKILLS = {
    "a": "arithmetic reasoning", "b": "algebraic reasoning", "c": "scientific reasoning", "g": "geometry reasoning",
    "l": "logical reasoning", "n": "numeric commonsense", "s": "statistical reasoning",
}  # fmt: skip
OLDER_SKILLS = """
4:a 38:s 43:c 58:s 74:s 84:c 92:an 108:s 110:s 136:s 159:s 175:s 184:s 185:c 199:c 200:s 201:s 281:an 294:c 306:a
307:c 324:s 353:c 393:s 409:b 421:c 513:s 540:ags 608:s 617:c 630:c 641:c 657:s 661:bs 668:s 671:b 693:an 706:ln
733:c 737:bg 767:b 768:c 787:ans 789:s 791:c 822:bg 834:s 844:a 862:c 863:s 884:an 892:s 911:a 926:b 953:as 971:a
982:s 987:c
"""


def labels_of_the_day(row, model):
    """The problem's row with the labels that the published score file of a model was made with."""
    older = dict(pair.split(":") for pair in OLDER_SKILLS.split())
    if model == "llava_llama_2_13b":
        older["586"] = "bgn"
    metadata = dict(row["metadata"])
    if metadata["grade"] == "not applicable":
        metadata["grade"] = "daily life"
    if row["pid"] in older:
        metadata["skills"] = [SKILLS[letter] for letter in older[row["pid"]]]
    return {**row, "metadata": metadata}


@pytest.fixture(scope="module")
def testmini():
    return read_problem_rows(shared("mathvista/testmini.jsonl.gz"))


def published(model, testmini):
    path = shared(f"mathvista/output_{model}.jsonl.gz")
    answers = read_answer_rows(path, testmini, shared("mathvista/testmini.jsonl.gz"))
    rows = {row["pid"]: row for row in read_jsonl(path)}
    assert rows.keys() == answers.keys() == testmini.keys()
    return answers, rows


@pytest.mark.parametrize("model", MODELS)
def test_published_verdicts_and_predictions(model, testmini):
    answers, rows = published(model, testmini)
    verdicts = {i: official_verdict(testmini[i].problem, a.response.extraction) for i, a in answers.items()}
    assert len(verdicts) == 1000
    assert {i for i, v in verdicts.items() if v.correct != rows[i]["true_false"]} == set()
    other = {i for i, v in verdicts.items() if v.extracted != rows[i]["prediction"]}
    assert bool(other) == (model in OLDER_RULE)
    for i in other:
        assert testmini[i].problem.answer_type == "integer"
        assert rows[i]["prediction"] is None
        assert verdicts[i].extracted == str(int(float(rows[i]["extraction"])))
    as_then = {
        i: official_verdict(testmini[i].problem, a.response.extraction, decimals=model not in OLDER_RULE)
        for i, a in answers.items()
    }
    assert {i: v.extracted for i, v in as_then.items()} == {i: row["prediction"] for i, row in rows.items()}
    assert {i: v.correct for i, v in as_then.items()} == {i: row["true_false"] for i, row in rows.items()}


def tables_of(model, testmini, label=lambda row, model: row):
    answers, _ = published(model, testmini)
    return score_tables(
        FORMS["MathVista"],
        (
            (label(testmini[i].row, model), official_verdict(testmini[i].problem, a.response.extraction).correct)
            for i, a in answers.items()
        ),
    )


@pytest.mark.parametrize("model", MODELS)
def test_published_score_tables(model, testmini):
    expected = json.loads(shared(f"mathvista/scores_{model}.json").read_text())
    assert list(expected) == ["average", *TABLES]
    assert published_form(tables_of(model, testmini, labels_of_the_day)) == expected
    today = published_form(tables_of(model, testmini))
    assert {table for table in expected if today[table] != expected[table]} == {"grade", "skills"}
    renamed = {value.replace("not applicable", "daily life"): count for value, count in today["grade"].items()}
    assert renamed == expected["grade"]
    for table in TABLES:
        accuracies = [float(count["accuracy"]) for count in today[table].values()]
        assert accuracies == sorted(accuracies, reverse=True)


def test_another_published_file(testmini):
    path = shared("s1m/qwen2vl_7b_mathvista_outputs.jsonl.gz")
    rows = read_jsonl(path)
    assert Counter(row["true_or_false"] for row in rows)[True] == 408
    for row in rows:
        verdict = official_verdict(testmini[row["pid"]].problem, row["extraction"])
        assert (verdict.extracted, verdict.correct) == (row["prediction"], row["true_or_false"])


def test_how_much_of_a_score_is_credit_for_no_answer(testmini):
    found = {}
    for model in MODELS:
        answers, rows = published(model, testmini)
        found[model] = sum(
            rows[i]["true_false"] and not states_answer(testmini[i].problem, a.response.extraction)
            for i, a in answers.items()
        )
    assert found == {"bard": 6, "claude": 5, "gpt4": 123, "llava_llama_2_13b": 1}


# ---- the official result format -----------------------------------------------------------------------------------

ROW = {
    "pid": "7", "question": "How long?", "image": "images/7.jpg", "choices": None, "unit": "cm", "precision": 1.0,
    "answer": "1.2", "question_type": "free_form", "answer_type": "float", "query": "Hint: ...",
    "metadata": {
        "split": "testmini", "language": "english", "source": "SciBench", "category": "math-targeted-vqa",
        "task": "textbook question answering", "context": "scientific figure", "grade": "college",
        "skills": ["scientific reasoning", "algebraic reasoning"],
    },
}  # fmt: skip
CHOICE_ROW = {
    **ROW, "pid": "8", "choices": ["B", "A"], "answer": "A", "question_type": "multi_choice", "answer_type": "text",
    "precision": None,
}  # fmt: skip


def questions(tmp_path, *rows):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_problem_rows(path)


def as_the_official_script_reads(results):
    """(predictions, verdicts) that the steps of calculate_score.py find in a result file's own fields."""
    found = {}
    for pid, entry in results.items():
        metadata = dict(entry["metadata"])  # it is popped there
        assert {"language", "source", "category", "task", "context", "grade", "skills"} <= metadata.keys()
        gold, extraction = entry["answer"], entry["extraction"]
        if entry["question_type"] == "multi_choice":
            choices = tuple(entry["choices"])
            problem = Problem(pid, "?", "ABCDEFGHIJ"[choices.index(gold)], choices=choices)
        else:
            problem = Problem(pid, "?", gold, answer_type=entry["answer_type"], precision=entry["precision"])
        found[pid] = normalise(extraction, problem)[0]
    return found, {pid: prediction == results[pid]["answer"] for pid, prediction in found.items()}


def test_result_file_round_trip(tmp_path):
    found = questions(tmp_path, ROW, CHOICE_ROW)
    extractions = {"7": "1.234", "8": "(A)"}
    entries = {
        i: result_entry(q.problem, q.row, Response(f"It is \ud800 {extractions[i]}", extractions[i]))
        for i, q in found.items()
    }
    path = tmp_path / "out" / "results.json"
    write_json(path, entries)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert list(read) == ["7", "8"]
    assert read["7"]["prediction"] == "1.2"
    assert read["7"]["true_false"] is True
    assert read["8"]["prediction"] == "B"  # the letter (A) is the first choice, whose text is "B"
    assert read["8"]["true_false"] is False
    for row in (ROW, CHOICE_ROW):
        entry = read[row["pid"]]
        assert {key: entry[key] for key in row} == row
        assert {"response", "extraction", "prediction", "true_false"} <= entry.keys()
    predictions, verdicts = as_the_official_script_reads(read)
    assert predictions == {pid: entry["prediction"] for pid, entry in read.items()}
    assert verdicts == {pid: entry["true_false"] for pid, entry in read.items()}


@pytest.mark.parametrize("model", MODELS)
def test_published_result_files_round_trip(model, testmini, tmp_path):
    answers, rows = published(model, testmini)
    entries = {i: result_entry(testmini[i].problem, testmini[i].row, a.response) for i, a in answers.items()}
    write_json(tmp_path / "results.json", entries)
    read = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert as_the_official_script_reads(read)[1] == {i: row["true_false"] for i, row in rows.items()}
    assert all(read[i]["response"] == rows[i]["response"] for i in rows)


def test_result_entry_needs_what_the_script_reads(tmp_path):
    [found] = questions(tmp_path, {"id": 1, "question": "?", "answer": "3", "answer_type": "integer"}).values()
    with pytest.raises(DataError, match=r"problem 1: .* needs question_type, choices, precision, metadata"):
        result_entry(found.problem, found.row, Response("3", "3"))


def test_tables_need_metadata_and_count_every_skill_once():
    assert score_tables(FORMS["MathVista"], [(ROW, True), ({"question_type": "free_form"}, False)]) is None
    tables = score_tables(FORMS["MathVista"], [(ROW, True), (CHOICE_ROW, False), (ROW, False)])
    assert tables["average"] == {"accuracy": 1 / 3, "correct": 1, "total": 3}
    assert tables["skills"]["algebraic reasoning"]["total"] == 3
    assert tables["answer_type"] == {
        "float": {"accuracy": 0.5, "correct": 1, "total": 2},
        "text": {"accuracy": 0.0, "correct": 0, "total": 1},
    }
