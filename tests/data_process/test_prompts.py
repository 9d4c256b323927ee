"""Prompts: one pass of filling, choices always there, and nothing from data or a model can place a mark."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.judging import judge
from data_process.prepare.data_card import row_of
from data_process.prompts import (
    PROMPT_SETS,
    R3V,
    SHORT,
    body,
    conditioned,
    cot,
    fill,
    images,
    named_prediction,
    neutralise,
    prompt_set,
    qa,
    qa_target,
    refine,
    select,
    select_target,
)
from data_process.schema import DataError, Example, Problem, to_json

PROBLEM = Problem("p", "How large is {angle}?", "B", ("30°", "{letter}", "<image>"))
FREE = Problem("f", "How large?", "5", answer_type="number")
SETS = pytest.mark.parametrize("prompts", list(PROMPT_SETS.values()), ids=list(PROMPT_SETS))


def test_the_published_wording():
    problem = Problem("p", "Q?", "B", ("30", "40"))
    base = "Q?\nChoices:\n(A) 30\n(B) 40"
    ask = base + "\nAnswer the question with Chain-of-Thought."
    assert qa(problem, R3V) == base
    assert cot(problem, R3V) == ask
    assert refine(problem, "W", R3V) == (
        ask + "\nModel's Prediction: W\nJudge the correctness of the model's prediction and refine it."
    )
    assert select(problem, ["W", "V"], R3V) == (
        ask + "\nModel's Prediction 1: W\nModel's Prediction 2: V\nWhich prediction is correct? "
        "Give the final answer for the beginning question by selecting the correct option."
    )
    assert fill(R3V.qa_target, answer="B") == "Answer: \nB"


@pytest.mark.parametrize(
    ("problem", "asked", "right"),
    [
        (Problem("c", "How large?", "B", ("30", "40")), "the letter of the correct choice", "B"),
        (Problem("n", "How large?", "5", answer_type="number"), "the value, word or phrase", "5"),
        (Problem("t", "Which one?", "the left", answer_type="text"), "the value, word or phrase", "the left"),
    ],
    ids=["choice", "number", "text"],
)
def test_thinking_between_tags(problem, asked, right):
    """Every form asks for it but the direct ones, and what follows the tags is what the judge reads."""
    think, other = PROMPT_SETS["think"], "A" if problem.choices else "7"
    whole = f"<think>At first {other} seems right, but it is {right}.</think>\nAnswer: {right}"
    shown = [f"<think>It is {other}.</think>\nAnswer: {other}", whole]
    prompts = [cot(problem, think), refine(problem, shown[0], think)]
    prompts += [select(problem, shown, think, form) for form in ("reasoning", "rationale")]
    for prompt in prompts:
        assert "<think> and </think>" in prompt
        assert asked in prompt
    assert all(text in prompts[-1] for text in shown)
    assert "without thinking" in qa(problem, think)
    assert "Do not think again" in select(problem, shown, think)
    reasoned = select_target(problem, think, "reasoning", 2, "The first one misreads the figure.")
    assert named_prediction(reasoned, 2) == 2
    targets = [qa_target(problem, think), select_target(problem, think), reasoned, whole]
    assert [judge(text, problem).status for text in targets] == ["correct"] * 4
    assert judge(shown[0], problem).status == "wrong"


@SETS
@pytest.mark.parametrize("attempt", ["{body}", "{cot}{cot}", "{", "}", "{0}", "{attempt}", "\\1 \\g<0>", "%s {{x}}"])
def test_braces_in_an_attempt_stay(prompts, attempt):
    assert attempt in refine(PROBLEM, attempt, prompts)
    shown = select(PROBLEM, [attempt, "other"], prompts)
    assert attempt in shown
    assert "{angle}" in shown  # a brace in the question stays as well
    assert shown.count("other") == 1


@SETS
def test_choices_are_in_every_prompt(prompts):
    texts = [
        qa(PROBLEM, prompts),
        cot(PROBLEM, prompts),
        refine(PROBLEM, "x", prompts),
        select(PROBLEM, "xyz", prompts),
    ]
    for text in texts:
        for letter, choice in zip("ABC", ("30°", "{letter}", "< image >"), strict=True):
            assert fill(prompts.choice, letter=letter, text=choice) in text
    assert fill(prompts.choice, letter="A", text="") not in cot(FREE, prompts)
    drawn = dataclasses.replace(PROBLEM, choices_in_image=True)
    for text in (cot(drawn, prompts), qa(drawn, prompts)):
        assert "30°" not in text  # they stand in the image


@SETS
@pytest.mark.parametrize("problem", [PROBLEM, FREE], ids=["choice", "free"])
def test_one_prompt_is_the_head_of_the_others(prompts, problem):
    """So a prefix cache serves sampling, refinement and selection."""
    head = cot(problem, prompts)
    said = body(problem, prompts)
    assert head.startswith(said) if prompts.of(problem).cot.startswith("{body}") else said in head
    assert refine(problem, "attempt", prompts).startswith(head)
    assert select(problem, ["one", "two"], prompts).startswith(head)


MARKS = ["<image>", "<video>", "<audio>", "<|image_pad|>", "<|video_pad|>", "<|vision_pad|>", "<|vision_start|>"]
MARKS += ["<|vision_end|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@SETS
@pytest.mark.parametrize("mark", MARKS)
def test_no_mark_can_be_placed(prompts, mark):
    problem = Problem("p", f"Q {mark}?", "A", (f"1 {mark}", "2"))
    texts = [qa(problem, prompts), cot(problem, prompts)]
    texts += [refine(problem, f"a {mark} b", prompts), select(problem, [mark, f"{mark}{mark}"], prompts)]
    for text in texts:
        assert mark not in text
    assert mark[1:-1].strip("|") in texts[0]  # still readable


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([*MARKS, "<", ">", "|", "image", "<|", "|>", " "]), max_size=8).map("".join))
def test_neutral_text_stays_as_it_is(text):
    once = neutralise(text)
    assert not any(mark in once for mark in MARKS)
    assert neutralise(once) == once


def test_fill_wants_every_value():
    with pytest.raises(KeyError, match="missing"):
        fill("{missing}", other=1)
    assert fill("{a}{b}", a="{b}", b="{a}") == "{b}{a}"


def test_digest_is_of_every_wording():
    assert R3V.digest != SHORT.digest
    assert dataclasses.replace(R3V, cot="{body}\nThink.").digest != R3V.digest
    assert dataclasses.replace(R3V).digest == R3V.digest
    new = dataclasses.replace(R3V, select_rationale="{cot}{predictions}\nCheck them.")
    assert (new.digest, new.rationale_digest == R3V.rationale_digest) == (R3V.digest, False)
    assert prompt_set("short") is SHORT
    with pytest.raises(DataError, match=r"unknown prompt set 'none'; known: chartqa, .*mathvista, .*short"):
        prompt_set("none")


ATTEMPTS = ["Answer: (A)", "{cot} Answer: (B)"]


@SETS
def test_the_reasoning_form_of_selection(prompts):
    """It differs from the published form in what is asked at the end, and its target reads as the gold answer."""
    plain = select(PROBLEM, ATTEMPTS, prompts)
    reasoned = select(PROBLEM, ATTEMPTS, prompts, "reasoning")
    assert plain == select(PROBLEM, ATTEMPTS, prompts, "answer") != reasoned
    shown = plain.rindex("\nWhich prediction ")
    assert reasoned.startswith(plain[:shown] + "\nWhich prediction is correct, and why?")
    target = select_target(PROBLEM, prompts, "reasoning", 2, "180-150=30.\n")
    assert judge(target, PROBLEM).correct
    assert named_prediction(target, 2) == 2
    assert select_target(PROBLEM, prompts) == fill(prompts.select_target, answer="B")
    for number, reason in ((0, "so"), (1, " ")):
        with pytest.raises(DataError, match="needs a prediction's number and a reason"):
            select_target(PROBLEM, prompts, "reasoning", number, reason)
    for function in (
        lambda: select(PROBLEM, ATTEMPTS, prompts, "both"),
        lambda: select_target(PROBLEM, prompts, "both"),
    ):
        with pytest.raises(DataError, match="unknown selection form 'both'; known: answer, reasoning"):
            function()


def test_the_short_reasoning_form_is_short():
    """The tiny model's context is small: the target takes three words more than the reason and the answer."""
    target = select_target(PROBLEM, SHORT, "reasoning", 1, "60-30=30.")
    assert target == "Prediction 1 is correct. 60-30=30.\nAnswer: (B)"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Prediction 2 is correct. So it is.", 2),
        ("Prediction 1 is right? No: prediction 3 is correct.", 3),
        ("Prediction 4 is correct", None),  # three were shown
        ("Prediction 0 is correct", None),
        ("Prediction 2 is not correct", None),
        ("Answer: (B)", None),
        ("", None),
        ("Prediction " + "9" * 4000 + " is correct", None),
    ],
)
def test_named_prediction(text, number):
    assert named_prediction(text, 3) == number


@SETS
def test_conditions_follow_the_question(prompts):
    """simplescaling/s1, lm_eval/tasks/aime/utils.py: an empty line, then the wording."""
    base = cot(PROBLEM, prompts)
    assert conditioned(PROBLEM, prompts, "token", 512) == base + "\n\nThink for up to 512 tokens."
    assert conditioned(PROBLEM, prompts, "step", 16) == base + "\n\nThink for up to 16 steps."
    assert conditioned(PROBLEM, prompts, "short").startswith(
        base + "\n\nAnswer after a short amount of thinking. Do not"
    )
    assert conditioned(PROBLEM, prompts, "long").startswith(base + "\n\nAnswer after a long amount of thinking. If you")


@pytest.mark.parametrize(
    ("condition", "limit", "message"),
    [
        ("token", None, "'token' needs a limit"),
        ("step", 0, "at least 1"),
        ("long", 5, "'long' has no limit"),
        ("brief", None, "unknown condition 'brief'; known: token, step, short, long"),
    ],
)
def test_conditions_refuse(condition, limit, message):
    with pytest.raises(DataError, match=message):
        conditioned(PROBLEM, SHORT, condition, limit)


def test_problems_of_one_image_or_none_are_written_and_asked_as_before():
    """The digest was taken when a problem could have one image at most: rows, prompts and training rows."""
    found = []
    for paths in ((), ("images/a.png",)):
        problem = Problem("p", "Which angle <x?", "B", ("30°", "40 < 50"), paths, meta={"k": 1})
        example = Example("cot/p/0/0", "cot", "p", cot(problem, R3V), "Answer: (B)", paths)
        rows = [to_json(problem), row_of(problem), to_json(example), cot(problem, R3V)]
        found.append(hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16])
    assert found == ["45b93207da779847", "f179c3ebed146847"]


def test_old_digests_stay():
    """Runs of earlier versions recorded these; new wordings of a set must not change them."""
    digests = {"r3v-qwen2vl": "63f9f3b8552e9fca", "short": "a63053ec091ed186", "mathvista": "293051a3a49dd1a1"}
    assert {name: prompt_set(name).digest for name in digests} == digests


UNIT_AND_CONTEXT = Problem("p", "How {far}?", "5", answer_type="number", unit="k{m}", context="A car <image> drives.")


def test_unit_and_context_stand_where_the_wording_puts_them():
    tabmwp = prompt_set("tabmwp")
    assert body(UNIT_AND_CONTEXT, tabmwp) == "A car < image > drives.\nHow {far}? (Unit: k{m})"
    assert body(UNIT_AND_CONTEXT, R3V) == "A car < image > drives.\nHow {far}?"
    behind = dataclasses.replace(R3V, question="{question}{context}", context=" [{context}]")
    assert body(UNIT_AND_CONTEXT, behind) == "How {far}? [A car < image > drives.]"
    assert body(FREE, tabmwp) == "How large?"


def test_wordings_differ_without_choices():
    tabmwp = prompt_set("tabmwp")
    assert cot(FREE, tabmwp).endswith("using a single word or phrase.")
    assert cot(PROBLEM, tabmwp).endswith("from the given choices directly.")
    assert tabmwp.free is not None
    assert tabmwp.digest != dataclasses.replace(tabmwp, free=None).digest
    assert select(FREE, ["x"], tabmwp).startswith(cot(FREE, tabmwp))
    assert qa_target(FREE, tabmwp) == "5"


def test_wordings_of_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "chartqa"\ncot = "{body}\\nThink."\n[free]\ncot = "{body}\\nCount."\n')
    mine = prompt_set(str(path))
    assert mine.id == "mine"
    assert mine.qa == prompt_set("chartqa").qa
    assert cot(PROBLEM, mine).endswith("\nThink.")
    assert cot(FREE, mine) == "How large?\nCount."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cott = "{body}"', "unknown wording 'cott'; did you mean 'cot'"),
        ('cot = "Think."', r"cot must hold \{body\}, found 'Think.'"),
        ('cot = "{body}{answer}"', r"cot has no placeholder \{answer\}"),
        ("cot = 3", "cot must be a text, found 3"),
        ('extends = "none"', "extends 'none', which it cannot; known: r3v-qwen2vl"),
        ('free = "x"', "free must be a table of wordings"),
        ('[free]\nqa = ""', r"free: qa must hold \{body\}"),
        ("cot = {", "not TOML"),
        (None, "cannot be read"),
    ],
)
def test_wordings_that_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        prompt_set(str(path))


def test_images_keep_their_places_in_a_context():
    """Marks are counted in the order of context, question and choices."""
    problem = Problem(
        "p", "Compare <image 2> and <image 1>.", "A", ("x", "y"), ("a.png", "b.png"), context="One: <image 1>."
    )
    text = body(problem, prompt_set("m3cot"))
    assert text.startswith("[Context]\nOne: <image>.\n[Question]\nCompare <image> and image 1.\n[Choices]")
    assert images(problem) == ("a.png", "b.png")
    behind = dataclasses.replace(R3V, question="{question}{context}")
    with pytest.raises(DataError, match="the wordings 'r3v-qwen2vl' put the context behind the question"):
        body(problem, behind)
    plain = dataclasses.replace(problem, context="Two.")
    assert body(plain, behind).startswith("Compare <image> and <image>.Two.")
    assert images(plain) == ("b.png", "a.png")
