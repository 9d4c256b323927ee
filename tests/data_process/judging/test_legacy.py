"""The published judges, defects included: golden facts 9 to 13, the published GeoQA verdicts, and never a default."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process.io import read_jsonl
from data_process.judging.published import legacy
from data_process.judging.published.mmmu import mmmu
from data_process.judging.published.registry import NAMED_JUDGES, Response, named_judge
from data_process.schema import DataError, Problem
from tests.shared_data import shared

CHOICES = ("30.0", "40.0", "45.0", "60.0")


def choice(gold="B", choices=CHOICES, **more):
    return Problem("q1", "How many degrees?", gold, choices=choices, **more)


def free(gold, **more):
    return Problem("q1", "How many?", gold, answer_type=more.pop("answer_type", "text"), **more)


# ---- GeoQA


GEOQA = [
    # (text, letter of the training judge, letter of the evaluation judge); None: unreadable there
    ("Answer: (B) 40.0", "B", "B"),
    ("Answer: B", "B", "B"),
    ("since (A) is wrong, Answer: D", "D", "A"),  # R4: the same text, two letters
    ("Answer: B. 40 cm", "M", "M"),  # R5: the last letter of any word
    ("FAILED", "D", "D"),
    ("the answer is (c)", "C", "C"),
    ("Answer: (A) then answer (C)", "C", "C"),  # "Answer" last, then the last bracket of the rest
    ("Answer: 40.0", "B", "R"),  # one split leaves ": 40.0", the other leaves the r of "Answer"
    ("40.0", "B", "B"),
    ("30.0 or 60.0", "R", "R"),
    ("30.0 / 60.0", "D", "D"),  # the last choice held by a text without letters
    ("", None, None),
    ("12345", None, None),
    ("度数", None, None),
]


@pytest.mark.parametrize(("text", "trained", "scored"), GEOQA)
def test_geoqa(text, trained, scored):
    train, test = legacy.geoqa_train(text, choice()), legacy.geoqa_eval(text, choice())
    assert train.extracted == trained
    assert train.status == ("abstain" if trained is None else "correct" if trained == "B" else "wrong")
    assert test.extracted == scored
    if scored is not None:
        assert test.status == ("correct" if scored == "B" else "wrong")
    else:
        assert test.rule == "legacy:geoqa-eval/drawn"


def test_geoqa_credit_is_three_quarters_and_seeded():
    problems = [Problem(f"q{i}", "?", "B", choices=CHOICES) for i in range(4000)]
    credited = {p.id for p in problems if legacy.geoqa_eval("", p, seed=0).correct}
    assert 0.73 < len(credited) / 4000 < 0.77
    assert credited == {p.id for p in reversed(problems) if legacy.geoqa_eval("", p, seed=0).correct}
    assert credited != {p.id for p in problems if legacy.geoqa_eval("", p, seed=1).correct}


def test_golden_fact_9_three_unreadable_samples_elect_choice_d():
    unreadable = ["12345", "", "?"]
    assert legacy.geoqa_vote(unreadable, choice("D")).correct
    assert legacy.geoqa_vote(unreadable, choice("A")).status == "wrong"
    assert {legacy.geoqa_extract(text, choice()) for text in unreadable} == {"FAILED"}


@pytest.mark.parametrize(("letters", "elected"), [("AB", "B"), ("ABC", "C"), ("BA", "A"), ("AAB", "A"), ("ABBA", "B")])
def test_golden_fact_8_ties_go_to_the_last_seen(letters, elected):
    assert legacy.geoqa_vote([f"Answer: ({x})" for x in letters], choice()).extracted == elected


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("Answer: (b)", "B"),
        ("Answer: 60.0 or 40.0", "D"),  # in the order of the choices
        ("It is C.", "C"),
        ("choice a", "A"),
        ("no idea", "FAILED"),
    ],
)
def test_geoqa_extract(text, vote):
    assert legacy.geoqa_extract(text, choice()) == vote


def test_geoqa_needs_choices_and_votes():
    for judge in (legacy.geoqa_train, legacy.geoqa_eval):
        with pytest.raises(DataError, match="judges choices, and this problem has none"):
            judge("40", free("40"))
    with pytest.raises(DataError, match="no samples"):
        legacy.geoqa_vote([], choice())


# ---- TabMWP, ChartQA, CLEVR-Math


@pytest.mark.parametrize(
    ("text", "unit", "normalised"),
    [  # golden fact 12
        ("1,000", None, "1000"),
        ("3/4", None, "0.75"),
        ("$56.40", None, "56.4"),
        ("-3/2", None, "-1.5"),
        ("5 miles", "miles", "5"),
        ("16/95", None, "0.168"),
        ("2.000", None, "2"),
        ("12.", None, "12"),
        ("7:25 P.M.", None, "7:25 P.M"),
        ("yes", None, "yes"),
    ],
)
def test_tabmwp_normalise(text, unit, normalised):
    assert legacy.tabmwp_normalise(text, unit) == normalised


OPTIONS = ("red", "dark blue", "blue")


@pytest.mark.parametrize(
    ("text", "problem", "status", "extracted"),
    [
        (r"Answer: \frac{16}{95}", free("0.168"), "correct", "0.168"),
        ("Answer: 5 miles", free("5", unit="miles"), "correct", "5"),
        ("so 2 = 3. The answer is 1,000.", free("1000"), "correct", "1000"),
        ("so 2 = 3, the answer is 1,000.", free("1000"), "wrong", "3"),  # only with a capital T
        ("It will be $1.40", free("1.4"), "correct", "1.4"),
        ("Answer: 1/0", free("0"), "correct", "0"),  # what cannot be normalised reads as 0
        ("YES", free("yes"), "correct", "YES"),
        ("no number", free("3"), "wrong", "no number"),
        ("Answer: B", choice("B", OPTIONS), "correct", "dark blue"),
        ("(b)", choice("B", OPTIONS), "correct", "dark blue"),
        ("The answer is C", choice("C", OPTIONS), "correct", "blue"),
        ("a blue thing", choice("C", OPTIONS), "wrong", "dark blue"),  # both overlap by 1 word in 3: the first
        ("", choice("A", OPTIONS), "correct", "red"),  # R20: an empty output is the first option
    ],
)
def test_tabmwp(text, problem, status, extracted):
    verdict = legacy.tabmwp(text, problem)
    assert (verdict.status, verdict.extracted) == (status, extracted)


def test_tabmwp_draws_an_option_for_a_letter_beyond_them():
    drawn = Counter(legacy.tabmwp("Answer: E", choice("A", OPTIONS), seed).extracted for seed in range(300))
    assert set(drawn) == set(OPTIONS)
    assert min(drawn.values()) > 60
    assert legacy.tabmwp("Answer: E", choice("A", OPTIONS), 7) == legacy.tabmwp("Answer: E", choice("A", OPTIONS), 7)


def test_tabmwp_gold_it_cannot_read():
    with pytest.raises(DataError, match=r"problem q1: legacy:tabmwp cannot read the gold answer '1/0'"):
        legacy.tabmwp("3", free("1/0"))


@pytest.mark.parametrize(
    ("text", "gold", "status"),
    [  # golden fact 11
        ("10.5", "10", "correct"),
        ("10.6", "10", "wrong"),
        ("9.5", "10", "correct"),
        ("0.01", "0", "wrong"),
        ("0", "0", "correct"),
        ("Yes", "yes", "correct"),
        ("Answer: 2100", "2011", "correct"),  # 89 years off, within 5%
        ("1950", "2011", "correct"),
        ("24.45%", "24.45", "wrong"),
        ("1,000", "1000", "wrong"),
        ("nan", "nan", "correct"),
        ("Solution: ...\nAnswer:\n7", "7", "correct"),
        ("Answer: 5\nActually Answer: 7", "7", "wrong"),  # the first cue, to the end of the text
        ("", "0", "wrong"),
    ],
)
def test_chartqa(text, gold, status):
    assert legacy.chartqa(text, free(gold)).status == status


@pytest.mark.parametrize(
    ("text", "extracted"),
    [  # golden fact 13
        ("10", "10"),
        (" 7\n", "7"),
        ("11", None),
        ("Answer:\n7", "7"),
        ("The answer is 7", None),
        ("Answer: 7.5", "7"),
        ("Answer: -3", "-3"),
        ("", None),
    ],
)
def test_clevr(text, extracted):
    verdict = legacy.clevr(text, free("7"))
    assert verdict.extracted == extracted
    assert verdict.status == ("abstain" if extracted is None else "correct" if extracted == "7" else "wrong")


# ---- MMMU, We-Math

MMMU = [
    ("The note is (C).", "C", "bracketed"),
    ("(A) is wrong, so (C), not (B)", "B", "bracketed"),  # the last one, whatever is said about it
    ("A student reads it, and it is B", "B", "alone"),
    ("A student reads it as 45.0 degrees", "A", "alone"),  # the article
    ("It seems that the angle has 45.0 degrees", "C", "choice"),
    ("first it was 60.0 and later on just 30.0 then", "A", "choice"),
    ("B.", "B", "alone"),
    ("c", None, "drawn"),  # lower case, and too short to be searched
    ("", None, "drawn"),
]


@pytest.mark.parametrize(("text", "letter", "rule"), MMMU)
def test_mmmu_choices(text, letter, rule):
    verdict = mmmu(text, choice())
    assert verdict.rule == f"legacy:mmmu/{rule}"
    if letter:
        assert (verdict.extracted, verdict.correct) == (letter, letter == "B")


def test_mmmu_draws_by_seed_and_problem():
    problems = [choice(gold="A") for _ in range(400)]
    problems = [dataclasses.replace(problem, id=f"q{i}") for i, problem in enumerate(problems)]
    drawn = [mmmu("", problem).extracted for problem in problems]
    assert drawn == [mmmu("", problem).extracted for problem in problems]
    assert drawn != [mmmu("", problem, seed=1).extracted for problem in problems]
    assert min(Counter(drawn).values()) > 60


@pytest.mark.parametrize(
    ("text", "gold", "others", "right"),
    [
        ("The ratio is 3.43", "24/7", ("3.429",), True),  # two decimals
        ("so we get 24/7", "24/7", ("3.429",), True),
        ("The result is 1,204.00 dollars", "1204", (), True),
        ("x = 12", "12", (), True),
        ("12 was meant, the answer is 13", "12", (), False),
        ("It is Baroque music", "baroque", (), True),
        ("It is not Baroque", "baroque", (), True),  # a defect: the text only has to stand there
        ("The answer is vitamin b", "b", (), True),
        ("The answer is bab", "b", (), False),  # a single letter needs a blank beside it
        ("none", "7", (), False),
    ],
)
def test_mmmu_open(text, gold, others, right):
    problem = free(gold, alternatives=others)
    assert mmmu(text, problem).correct == right


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<Thought process>: <<x>> <Answer>: <<B>>", "B"),
        ("Answer: B. 40.0", "B"),
        ("Answer: the second", None),
        ("C", "C"),
        ("Because", "B"),  # a defect: the first letter of the text
        ("Answer: A. Answer: D", "D"),
        ("ANSWER: B", "A"),  # a defect: no cue, and the text begins with A
        ("", None),
    ],
)
def test_wemath(text, letter):
    verdict = legacy.wemath(text, choice())
    assert (verdict.extracted, verdict.correct) == (letter, letter == "B")


# ---- R1-V


@pytest.mark.slow
def test_r1v_agrees_with_every_published_verdict():
    rows = read_jsonl(shared("geoqa/qwen2vl_7b_instruct_test_outputs.jsonl"))
    verdicts = [legacy.r1v(row["output"], free(row["gold"])) for row in rows]
    assert len(rows) == 754
    assert [v.correct for v in verdicts] == [row["published_correct"] for row in rows]
    assert sum(v.correct for v in verdicts) == 231  # 30.64%, as published
    # One number is printed otherwise by this version of math-verify.
    assert sum(v.extracted != row["published_extraction"] for v, row in zip(verdicts, rows, strict=True)) <= 1
    assert (
        sum(v.status == "abstain" for v in verdicts) == sum(row["published_extraction"] is None for row in rows) == 17
    )


@pytest.mark.slow
def test_r1v_hands_the_response_over_as_the_gold_answer():
    inequality, interval = "$x<5$", r"$(-\infty,5)$"
    assert legacy.r1v(inequality, free(interval)).status == "correct"
    assert legacy.r1v(interval, free(inequality)).status == "wrong"


@pytest.mark.slow
def test_r1v_runs_in_a_thread():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(legacy.r1v, "The answer is 65", free("65°")).result().correct


# ---- the registry


def test_legacy_rules_say_so_and_legacy_is_no_default():
    texts = ("", "Answer: (B) 40.0", "12345", "7", "Yes, 40.0")
    for name, judge in NAMED_JUDGES.items():
        for text in texts:
            if name.startswith("legacy:"):
                problem = (
                    choice()
                    if name in ("legacy:geoqa-train", "legacy:geoqa-eval", "legacy:wemath")
                    else free("7", answer_type="integer")
                )
                verdict = judge.verdict(problem, Response(text, text), 0)
                assert verdict.rule.startswith(f"{name}/"), (name, text)
            elif judge.reads == "text":
                assert not judge.verdict(choice(), Response(text, text), 0).rule.startswith("legacy:")
    published = {
        "geoqa-train", "geoqa-eval", "tabmwp", "chartqa", "clevr", "mathvista-official", "mathvista-2023", "r1v",
        "mmmu", "wemath",
    }  # fmt: skip
    assert {f"legacy:{name}" for name in published} == {name for name in NAMED_JUDGES if name.startswith("legacy:")}


def test_the_alias_is_the_official_rule():
    problem = Problem("1", "?", "A", choices=("No", "Yes"))
    alias, official = named_judge("legacy:mathvista-official"), named_judge("mathvista-official")
    for extraction in ("", "(B)", "no", None, "N/A"):
        given = Response("whatever", extraction)
        a, b = alias.verdict(problem, given, 0), official.verdict(problem, given, 0)
        assert (a.status, a.extracted) == (b.status, b.extracted)
    older = named_judge("legacy:mathvista-2023")
    integer = free("3", answer_type="integer")
    assert older.verdict(integer, Response("", "3.4"), 0).status == "abstain"
    assert alias.verdict(integer, Response("", "3.4"), 0).status == "correct"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mathvsta", "mathvista"), ("geoQA", "geoqa"), ("legacy:chart", "legacy:chartqa"), ("Auto", "auto")],
)
def test_an_unknown_judge_names_the_nearest_and_all(name, nearest):
    with pytest.raises(DataError, match=re.escape(f"unknown judge {name!r}; did you mean {nearest!r}? known: auto,")):
        named_judge(name)
    with pytest.raises(DataError) as raised:
        named_judge("zzzz")
    assert "did you mean" not in str(raised.value)
    assert all(known in str(raised.value) for known in NAMED_JUDGES)


def test_choices_of_the_same_wording_are_the_same_answer():
    problem = choice("C", ("9", "12", "18", "18"))
    assert named_judge("mathvista").verdict(problem, Response(r"\boxed{D}"), 0).correct
    assert named_judge("mathvista-official").verdict(problem, Response("", "(D)"), 0).correct
    assert named_judge("mathvista").verdict(problem, Response(r"\boxed{A}"), 0).status == "wrong"


@given(st.text(), st.integers(0, 5))
def test_no_text_raises(text, seed):
    for judge in (legacy.geoqa_train, legacy.geoqa_eval, legacy.tabmwp, legacy.chartqa, legacy.clevr):
        verdict = judge(text, choice())
        assert verdict.status in ("correct", "wrong", "abstain")
    assert legacy.tabmwp(text, free("3"), seed) == legacy.tabmwp(text, free("3"), seed)
