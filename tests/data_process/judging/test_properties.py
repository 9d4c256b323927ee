"""What holds for any text: order of choices, abstentions, later text, and texts made to take long."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.judging import hostile, hostile_problems
from data_process.judging import judge
from data_process.schema import LETTERS, Problem, Verdict
from tests.data_process.judging.cases import of

PROBLEMS = [
    *hostile_problems(),
    of("integer", "7", "How many cars are there?"),
    Problem("p", "Is Web Green the maximum?", "A", ("yes", "no")),
    Problem("p", "What is the angle?", "B", ("30°", "40°", "45°", "60°")),
]
_WORDS = (
    r"Answer: answer \boxed{ } { ( ) A B C (B) 40 40.0 7 seven / 0 \frac <answer> </answer> <think> </think> . , ° "
    r"= or - $ ** √ 2√3 π [ ] and is are not more fewer than yes No there Therefore So the maximum "
    r"Web Green cars angle square"
)
PIECES = st.lists(st.sampled_from([*_WORDS.split(" "), "\n", " ", "the answer is ", ". "]), max_size=18).map(" ".join)
# Any code point, lone surrogates included: an engine may return what a tokenizer cut in half.
ANY = st.text(st.characters(), max_size=80)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=PIECES | ANY, problem=st.sampled_from(PROBLEMS), truncated=st.booleans())
def test_never_raises_and_abstaining_is_never_correct(text, problem, truncated):
    verdict = judge(text, problem, truncated=truncated)
    assert isinstance(verdict, Verdict)
    assert verdict == judge(text, problem, truncated=truncated)
    assert (verdict.extracted is None) == (verdict.status == "abstain")
    assert verdict.correct == (verdict.status == "correct")
    assert verdict.rule
    if verdict.span is not None:
        assert 0 <= verdict.span[0] <= verdict.span[1] <= len(text)


@settings(max_examples=60, deadline=None)
@given(a=PIECES, b=PIECES, problem=st.sampled_from(PROBLEMS))
def test_equal_extractions_get_equal_verdicts(a, b, problem):
    """A vote counts extracted texts, so that text alone must decide."""
    first, second = judge(a, problem), judge(b, problem)
    if first.extracted is not None and first.extracted == second.extracted:
        assert first.status == second.status


VALUES = ("30", "40", "45", "60")
NAMES = ("red square", "blue circle", "green line", "purple arc")
SAID = ["Answer: {}", "The answer is {}.", "\\boxed{{{}}}", "So it is {}.", "<answer>{}</answer>", "**{}**"]


@settings(max_examples=100, deadline=None)
@given(
    order=st.permutations(range(4)),
    index=st.integers(0, 3),
    said=st.sampled_from(SAID),
    choices=st.sampled_from([VALUES, NAMES]),
)
def test_permuting_the_choices_permutes_the_letter(order, index, said, choices):
    """An answer by value or wording goes with its choice to the new place."""
    text = said.format(choices[index])
    before = judge(text, Problem("p", "Which is it?", LETTERS[index], choices))
    shuffled = tuple(choices[i] for i in order)
    after = judge(text, Problem("p", "Which is it?", LETTERS[order.index(index)], shuffled))
    assert before.correct, before
    assert after.correct, after
    assert shuffled[LETTERS.index(after.extracted)] == choices[LETTERS.index(before.extracted)]


COMPLETE = [
    ("Answer: (B) 40", PROBLEMS[-1]),
    ("\\boxed{40}", PROBLEMS[-1]),
    ("<answer>B</answer>", PROBLEMS[-1]),
    ("The answer is B.", PROBLEMS[-1]),
    ("Answer: 7", of("integer", "7")),
    ("Answer: 2√3", of("expression", "2√{3}")),
    ("Answer: [1, 2]", of("list", "[1, 2]")),
    ("Answer: yes", of("text", "Yes")),
]
# Text that states no answer of its own: courtesies, checks, a question, white space, a rule.
AFTER = [
    "\nI hope this helps!", "\n\nLet me know if you have any other questions.", "\nThis can be checked in the figure.",
    "\n\n---\n", "\nIs there anything else I can help you with?", "   \n\n", "\nAnswer:", "\n```\n", "<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), COMPLETE)
@pytest.mark.parametrize("after", AFTER)
def test_text_after_a_complete_answer_that_is_none_changes_nothing(text, problem, after):
    alone, followed = judge(text, problem), judge(text + after, problem)
    assert alone.correct
    assert (followed.status, followed.extracted) == (alone.status, alone.extracted)


@pytest.mark.parametrize("text", ["Answer: B", "The answer is 40.", "\\boxed{C}"])
def test_the_gold_answer_does_not_decide_what_is_read(text):
    problem = PROBLEMS[-1]
    assert len({judge(text, replace(problem, answer=letter)).extracted for letter in "ABCD"}) == 1


HOSTILE = hostile()


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_of_a_megabyte_is_quick(name):
    """0.2 s each is what the benchmark shows; the bound here leaves room for a busy machine."""
    for problem in hostile_problems():
        started = time.process_time()
        judge(HOSTILE[name], problem)
        assert time.process_time() - started < 2
