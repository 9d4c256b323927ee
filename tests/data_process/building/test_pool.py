"""Pool policies: what each keeps, in which order they apply, and that what they leave out is counted."""

from __future__ import annotations

from collections import Counter

import pytest

from data_process.building.mixture import build
from data_process.building.pool import choose, first_iteration, normalised, read_policies
from data_process.prompts import SHORT
from data_process.schema import Candidate, DataError
from tests.data_process.building.test_mixture import judged, pool, problem

REFUSED = {
    "unknown": (["best"], "no pool policy 'best'; known, .*window@K"),
    "no number": (["cap"], "no pool policy 'cap'"),
    "zero": (["cap@0"], "no pool policy 'cap@0'"),
    "half": (["window@1.5"], "no pool policy"),
    "a number too many": (["diverse@2"], "no pool policy 'diverse@2'"),
    "two windows": (["newest", "window@2"], "one pool policy chooses the iterations, not newest and window@2"),
    "none": ([], "no pool policy is named"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    names, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        read_policies(names)


@pytest.mark.parametrize(
    ("names", "iteration", "first"),
    [
        (["all"], 5, 1),
        (["newest"], 5, 5),
        (["window@1"], 5, 5),
        (["window@3", "cap@2"], 5, 3),
        (["cap@2", "window@9"], 5, 1),
        (["diverse"], 5, 1),
    ],
)
def test_iterations(names, iteration, first):
    assert first_iteration(names, iteration) == first


EQUAL = [
    ("So AB = 1,000.0 cm.", "so   ab=1000 cm"),
    ("Answer: (B)", "answer b"),
    ("12.50, .5", "12.5; .5"),
    ("x\nthen y", "x then y"),
]
DIFFERENT = [
    ("80+38=118", "80-38=118"),
    ("12.5", "125"),
    ("1,00", "100"),
    ("a then b", "b then a"),
    ("10", "1 0"),
    ("10.05", "10.5"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_rationales(a, b):
    assert normalised(a) == normalised(b)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_rationales(a, b):
    assert normalised(a) != normalised(b)


def right(*texts: str) -> list[Candidate]:
    """Newest first: samples n-1 ... 0."""
    return [judged("q", len(texts) - 1 - k, "T", text=text).candidate for k, text in enumerate(texts)]


REWARDS = {"q/1/3": 0.2, "q/1/2": 0.9, "q/1/1": 0.2, "q/1/0": 0.5}
KEPT = {  # policies: samples of four right candidates "a", "A.", "b", "b" that are kept, and the reasons of the others
    "all": ([3, 2, 1, 0], {}),
    "newest": ([3, 2, 1, 0], {}),
    "diverse": ([3, 1], {"candidate:diverse": 2}),
    "cap@3": ([3, 2, 1], {"candidate:cap": 1}),
    "cap@9": ([3, 2, 1, 0], {}),
    "reward@1": ([2], {"candidate:reward": 3}),
    "reward@2": ([2, 0], {"candidate:reward": 2}),
    "reward@3": ([3, 2, 0], {"candidate:reward": 1}),  # of equal rewards the newer
    "diverse cap@1": ([3], {"candidate:diverse": 2, "candidate:cap": 1}),
    "cap@2 diverse": ([3], {"candidate:cap": 2, "candidate:diverse": 1}),
    "reward@2 diverse": ([2, 0], {"candidate:reward": 2}),
}


@pytest.mark.parametrize("names", KEPT)
def test_choices(names):
    samples, reasons = KEPT[names]
    dropped: Counter[str] = Counter()
    found = choose(right("a", "A.", "b", "b"), names.split(), 0, dropped, REWARDS)
    assert [candidate.sample for candidate in found] == samples
    assert dropped == reasons


def test_a_random_choice_is_seeded_and_reaches_every_candidate():
    texts = right(*"abcdef")
    draws = [tuple(c.sample for c in choose(texts, ["random@2"], seed, Counter())) for seed in range(60)]
    assert draws == [tuple(c.sample for c in choose(texts, ["random@2"], seed, Counter())) for seed in range(60)]
    assert all(len(draw) == 2 and draw[0] > draw[1] for draw in draws)
    assert {sample for draw in draws for sample in draw} == set(range(6))


def test_rewards_are_needed_and_named():
    with pytest.raises(
        DataError, match=r"build.pool reward@2 keeps .* nothing supplies rewards; set reward.model .* use random@2"
    ):
        choose(right("a"), ["reward@2"], 0, Counter())
    with pytest.raises(DataError, match="'q/1/0' has no reward"):
        choose(right("a"), ["reward@2"], 0, Counter(), {})


def test_policies_choose_among_usable_right_candidates_and_counts_add_up():
    """Three right ones, the newest of which is too short; two wrong ones, which a policy leaves alone."""
    problems, candidates = pool({"q1": "TTFF", "q2": "TFFF"})
    candidates.append(judged("q1", 9, "T", text="short"))
    shared = {"rule": "a-q2", "prompts": SHORT, "seed": 1, "max_cot_per_problem": 9}
    result = build(problems, candidates, policies=["cap@1"], **shared)
    assert [e.sources for e in result.by_kind["cot"]] == [("q1/1/1",), ("q2/1/0",)]
    assert result.dropped["candidate:cap"] == 1
    assert result.dropped["candidate:too_short"] == 1
    assert result.n_usable == 7
    assert len(result.by_kind["refine"]) == 2
    everything = build(problems, candidates, policies=["all"], **shared)
    assert everything == build(problems, candidates, **shared)
    assert len(everything.by_kind["cot"]) == 3


def test_a_guided_candidate_comes_after_the_others_and_is_no_attempt():
    """Right ones serve where the model did not get there alone; wrong ones are dropped, and no prompt shows them."""

    def guided(name, sample, mark):
        item = judged(name, sample, mark)
        names = {f: getattr(item.candidate, f) for f in Candidate.__dataclass_fields__}
        return type(item)(Candidate(**{**names, "guide": f"{name}/0/0"}), item.verdict)

    candidates = [judged("q1", 0, "T"), judged("q1", 1, "F"), guided("q1", 2, "T"), guided("q1", 3, "F")]
    candidates += [judged("q2", 0, "F"), judged("q2", 1, "F"), guided("q2", 2, "T")]
    shared = {"rule": "a-orig", "prompts": SHORT, "seed": 1}
    result = build([problem("q1"), problem("q2")], candidates, **shared)
    assert [e.sources for e in result.by_kind["cot"]] == [("q1/1/0",), ("q2/1/2",)]
    assert result.dropped["candidate:guided_wrong"] == 1
    assert [e.sources[0] for e in result.by_kind["refine"]] == ["q1/1/1", "q2/1/1"]
    rationale = build([problem("q1"), problem("q2")], candidates, select_format="rationale", **shared)
    shown = {source for e in rationale.by_kind["select"] for source in e.sources[:-1]}
    assert shown == {"q1/1/0", "q1/1/1", "q2/1/0", "q2/1/1"}
