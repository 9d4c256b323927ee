"""The steps of a solution."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process.steps import prefixes, split_steps

TEXTS = st.text(alphabet="aB1 .!?\n*-()。é", max_size=80)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", ()),
        ("12", ("12",)),
        ("I see 40 and 80. 80+38=118. 118 is (B).", ("I see 40 and 80.", " 80+38=118.", " 118 is (B).")),
        ("118 is (B). Wait, I see 40.", ("118 is (B).", " Wait, I see 40.")),
        ("AB = 3.\nBC = 4.\nSo AC = 5. Done.", ("AB = 3.\n", "BC = 4.\n", "So AC = 5. Done.")),  # lines
        ("Add 3. Take 4.\nAnswer: 5", ("Add 3.", " Take 4.\n", "Answer: 5")),  # two lines: sentences
        ("1. Add 3. 2. Take 4.", ("1. Add 3.", " 2. Take 4.")),
        ("a) x = 3.5 cm, e.g. 35 mm. So 4.", ("a) x = 3.5 cm, e.g. 35 mm.", " So 4.")),
        ("First:\n\n$$\nx = 2\n$$\n\nThen 3.", ("First:\n\n$$\n", "x = 2\n$$\n\n", "Then 3.")),
        ("---\nOne.\nTwo.\nThree.", ("---\nOne.\n", "Two.\n", "Three.")),
        ("两数相加。结果是五。", ("两数相加。", "结果是五。")),
        ("\n \n", ("\n \n",)),
    ],
)
def test_split_steps(text, steps):
    assert split_steps(text) == steps


@given(TEXTS)
def test_the_steps_make_up_the_text_and_each_says_something(text):
    steps = split_steps(text)
    assert "".join(steps) == text
    assert all(re.search(r"[^\W_]", step) for step in steps) or len(steps) <= 1
    assert prefixes(steps)[-1:] == ([text] if text else [])


@given(TEXTS, st.integers(1, 6))
def test_a_number_of_steps_at_most(text, most):
    """The parts differ by one step at most, and their ends are ends of steps."""
    whole, joined = split_steps(text), split_steps(text, most)
    assert "".join(joined) == text
    assert len(joined) == min(len(whole), most)
    assert set(prefixes(joined)) <= set(prefixes(whole))


def test_no_step_is_no_number():
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        split_steps("a", 0)
