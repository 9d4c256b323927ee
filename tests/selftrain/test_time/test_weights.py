"""What votes weigh by, and the last derivation that consistency is judged on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_process.schema import Problem
from selftrain.engines.base import Completion
from selftrain.engines.budget import S1_M, TINY, ForcingRecord
from selftrain.test_time import vote, weights
from selftrain.test_time.last_derivation import last_derivation
from selftrain.test_time.records import Attempt, attempt
from selftrain.test_time.strategies import run
from tests.selftrain.test_time.helpers import PROBLEM, SAMPLING, plan, sampler

TRUE, FALSE = "10+10=20. 20 is (B). Answer: (B)", "10+10=30. 30 is (C). Answer: (C)"
LUCKY = "10+10=40. 40 is (B). Answer: (B)"
SILENT = "Nothing follows from it."
OTHER = "20+20=40. 40 is (D). Answer: (D)"


def said(text: str, ignores: int | None = None, logprob: float = -0.5, problem: Problem = PROBLEM) -> Attempt:
    """`ignores` ignore strings were forced into it; None: there was no budget."""
    forcing = None
    if ignores is not None:
        forcing = ForcingRecord(9, 2, ignores, tuple(range(1, ignores + 1)), "model", 9, (), 0)
    return attempt(Completion(text, tuple(range(11)), 7, "stop", logprob, forcing), problem)


# (texts, weight of a contradiction, answers that win); gold is B
VOTES = [
    ((TRUE, FALSE, FALSE), 0.0, "B"),
    ((TRUE, FALSE, FALSE), 0.4, "B"),
    ((TRUE, FALSE, FALSE), 0.5, "BC"),
    ((TRUE, FALSE, FALSE), 1.0, "C"),
    ((TRUE, OTHER, FALSE), 0.0, "BD"),
    ((TRUE, OTHER, LUCKY), 0.0, "B"),  # a contradiction breaks a tie of consistent ones
    ((FALSE, FALSE, LUCKY), 0.0, "C"),  # all contradict themselves: a plain vote
    ((FALSE, SILENT), 0.0, "C"),
    ((SILENT, SILENT), 0.0, ""),
    ((TRUE,), 0.0, "B"),
]


@pytest.mark.parametrize(("texts", "doubt", "winners"), VOTES)
def test_consistent_votes(tmp_path, texts, doubt, winners):
    samples = [said(text) for text in texts]
    with sampler(tmp_path, lambda request, seed: pytest.fail("asked")) as held:
        [found] = run("vote_consistent", [PROBLEM], held, plan(len(texts), doubt=doubt), {"q": samples})
    assert "".join(found.choices[0].answers) == winners
    assert found.credit == ("B" in winners) / max(len(winners), 1)


def test_likelihood_and_consistency():
    samples = [said(TRUE, logprob=-2.0), said(FALSE, logprob=-0.1), said(OTHER, logprob=-1.0)]
    assert weights.consistent_likelihoods(PROBLEM, samples, plan(3, doubt=0.5)) == pytest.approx(
        [vote.likelihood(samples[0]), 0.5 * vote.likelihood(samples[1]), vote.likelihood(samples[2])]
    )


@pytest.mark.parametrize("changes", [{"doubt": -0.1}, {"doubt": 1.1}, {"confidence": 0.5}, {"confidence": 1.1}])
def test_bad_numbers(changes):
    with pytest.raises(ValueError, match="they lie in"):
        plan(3, **changes)


# (text, ignore strings forced, its last derivation)
FIRST, SECOND = "I see 10. 10+10=30. 30 is (C).", "I see 10. 10+10=20. 20 is (B)."
DERIVATIONS = [
    (f"<think>{SECOND}</think>\nAnswer: (B)", 0, f"<think>{SECOND}</think>\nAnswer: (B)"),
    (f"<think>{FIRST} Wait, {SECOND}</think>\nAnswer: (B)", 1, f"<think>{SECOND}</think>\nAnswer: (B)"),
    (f"{FIRST} Wait, {SECOND}</think>\nAnswer: (B)", 1, f"{SECOND}</think>\nAnswer: (B)"),
    # nothing was forced, so a "Wait," of the model's own is its text
    (f"<think>{FIRST} Wait, {SECOND}</think>\nAnswer: (B)", None, None),
    (f"<think>{FIRST} Wait, {SECOND}</think>\nAnswer: (B)", 0, None),
    # after the last one there is nothing, or it is judged otherwise
    (f"<think>{FIRST} Wait, {SECOND} Wait,</think>\nAnswer: (B)", 2, f"<think>{SECOND} Wait,</think>\nAnswer: (B)"),
    (f"<think>{SECOND} Wait,</think>\nAnswer: (B)", 1, None),
    ("<think>20 is (B). The answer is (B). Wait, so it is.", 1, None),
]


@pytest.mark.parametrize(("text", "ignores", "expected"), DERIVATIONS)
def test_last_derivation(text, ignores, expected):
    assert last_derivation(said(text, ignores), PROBLEM, TINY) == (text if expected is None else expected)
    assert last_derivation(said(text), PROBLEM, None) == text


def test_ignore_strings_of_a_published_budget():
    marks = "Let me check again,", "I need to think more and check again."
    text = f"<think>{FIRST} {marks[0]} {FIRST} {marks[1]} {SECOND}</think> \\boxed{{B}}"
    assert last_derivation(said(text, 2), PROBLEM, S1_M) == f"<think>{SECOND}</think> \\boxed{{B}}"


def test_a_slip_that_a_wait_mends_is_no_contradiction():
    forced = plan(1, sampling=replace(SAMPLING, budget=replace(TINY, num_ignore=1)))
    mended = said(f"<think>{FIRST} Wait, {SECOND}</think>\nAnswer: (B)", 1)
    spoilt = said(f"<think>{SECOND} Wait, {FIRST}</think>\nAnswer: (C)", 1)
    assert not weights.contradicts_itself(PROBLEM, mended, forced)
    assert weights.contradicts_itself(PROBLEM, spoilt, forced)
