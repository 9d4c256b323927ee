"""The rows that the shipped base is trained on: true where they are learned, mistaken where they are to be mended."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from data_process import prompts as wording
from data_process.derivations import RIGHT, derivation_of
from data_process.judging import judge
from data_process.sources import minigeo
from scripts import tiny_base_rows as rows
from selftrain.engines.budget import preset

MIXTURE = rows.Mixture(lookup=0.1, caption=0.2, draft=0.2, wait=0.2, refine=0.3, sums=0.1, mistakes=True, in_text=0.3)


@pytest.fixture(scope="module")
def problems():
    return [problem for problem, _ in minigeo.generate("base", 200)]


def text_of(row, *, learned: bool = False) -> str:
    return "".join(text for text, weight in row.target if weight or not learned)


@pytest.mark.parametrize(
    ("step", "small"),
    [
        ("80+38=118", "80+30=110+8=118"),
        ("180-118=62", "180-110=70-8=62"),
        ("94/2=47", "94/2=45+2=47"),
        ("80+40=120", "80+40=120"),
        ("80+8=88", "80+8=88"),
        ("90/2=45", "90/2=45"),
        ("8/2=4", "8/2=4"),
    ],
)
def test_sums_in_small_steps(step, small):
    assert rows.in_small_steps(step) == small


def test_what_is_learned_after_a_wait_is_a_right_derivation(problems):
    """The attempts and each `Wait,` of the budget are not in the loss; the check that ends the trace is."""
    rng = random.Random(0)
    (wait,) = preset("tiny").ignore
    for index, problem in enumerate(problems):
        row = rows.wait_row(problem, index, rng)
        text, learned = text_of(row), text_of(row, learned=True)
        assert text.count(wait) in {1, 2, 3}
        assert wait not in learned
        assert learned.startswith("<think> I see ")
        assert derivation_of(text, judge(text, problem), problem) == RIGHT


def test_refined_answers_are_right_derivations(problems):
    rng = random.Random(0)
    for index, problem in enumerate(problems):
        text = text_of(rows.refine_row(problem, index, rng))
        assert derivation_of(text, judge(text, problem), problem) == RIGHT


def test_attempts_are_right_about_half_the_time_and_seldom_by_luck(problems):
    rng = random.Random(0)
    found: Counter[str] = Counter()
    for problem in problems * 5:
        text = rows.spoken(rows.attempt(problem, rng))
        verdict = judge(text, problem)
        way = derivation_of(text, verdict, problem)
        found[f"{verdict.status} {way}"] += 1
    total = found.total()
    right = sum(count for name, count in found.items() if name.startswith("correct"))
    assert 0.4 < right / total < 0.65
    assert found[f"correct {RIGHT}"] / right > 0.9
    assert all(found[f"wrong {name}"] > 0 for name in ("misread", "slip", "wrong_rule"))


def test_results_of_drafts_are_in_the_loss_for_their_share_only(problems):
    rng = random.Random(0)
    counted = []
    for problem in problems * 5:
        row = rows.draft_row(problem, 0, MIXTURE, rng)
        results = [weight for text, weight in row.target if text.isdigit()]
        counted.append(any(results))
        assert row.target[-1][1] == 1
    assert 0.05 < sum(counted) / len(counted) < 0.15


def test_no_row_of_the_first_stage_is_mistaken(problems):
    rng = random.Random(0)
    plain = rows.Mixture(lookup=0.2, caption=0, draft=0.8, wait=0, refine=0, sums=1, mistakes=False, in_text=0.5)
    for index, problem in enumerate(problems):
        row = rows.draw(problem, index, plain, rng)
        text = text_of(row)
        assert text == text_of(row, learned=True)
        assert judge(text, problem).correct
        assert (row.image is None) == ("labels are" in row.prompt or row.prompt.startswith("x is "))


def test_rows_keep_to_their_problem(problems):
    """A row of each kind: the image or the labels in words, the choices, the short wording."""
    rng = random.Random(1)
    for index, problem in enumerate(problems):
        row = rows.draw(problem, index, MIXTURE, rng)
        assert row.image in {index, None}
        assert all(f"({letter}) {choice}" in row.prompt for letter, choice in zip("ABCD", problem.choices, strict=True))
        assert "\nThink step by step." in row.prompt
        if row.image is not None:
            assert row.prompt.startswith(wording.cot(problem, wording.SHORT))
