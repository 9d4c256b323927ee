"""Head-tail allocation: more samples where earlier ones failed, for the same expected tokens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process.schema import Candidate, Judged, Verdict
from selftrain.sampling.allocation import Seen, allocate, guided_samples, guides, look_back

CASES = {  # (samples, right, tokens) of earlier iterations by problem; n, most: samples that each gets
    "nothing seen": ({}, 3, 4, {"a": 3, "b": 3, "c": 3}),
    "equal failures": ({"a": (4, 2, 40), "b": (4, 2, 40), "c": (4, 2, 40)}, 3, 4, {"a": 3, "b": 3, "c": 3}),
    "all fail": ({"a": (4, 0, 40), "b": (4, 0, 40), "c": (4, 0, 40)}, 3, 4, {"a": 3, "b": 3, "c": 3}),
    "all solved": ({"a": (4, 4, 40), "b": (4, 4, 40), "c": (4, 4, 40)}, 3, 4, {"a": 0, "b": 0, "c": 0}),
    "one solved": ({"a": (4, 4, 40), "b": (4, 2, 40), "c": (4, 2, 40)}, 4, 4, {"a": 0, "b": 6, "c": 6}),
    "in proportion": ({"a": (4, 3, 40), "b": (4, 2, 40), "c": (4, 1, 40)}, 4, 4, {"a": 2, "b": 4, "c": 6}),
    "capped": ({"a": (4, 4, 40), "b": (4, 4, 40), "c": (4, 0, 40)}, 3, 2, {"a": 0, "b": 0, "c": 6}),
    "at least one": ({"a": (100, 99, 1000), "b": (4, 0, 40), "c": (4, 0, 40)}, 3, 4, {"a": 1, "b": 4, "c": 4}),
    # A text of c costs twice as much: 4 x (10 + 10 + 20) tokens are 5 texts of b and 5 of c, and 10 are left.
    "dear texts": ({"a": (4, 4, 40), "b": (4, 2, 40), "c": (4, 2, 80)}, 4, 4, {"a": 0, "b": 6, "c": 5}),
    # b was never sampled: it counts as failing in half of its samples.
    "unseen": ({"a": (4, 4, 40), "c": (4, 0, 40)}, 3, 4, {"a": 0, "b": 3, "c": 6}),
}


@pytest.mark.parametrize("case", CASES)
def test_allocation(case):
    earlier, n, most, expected = CASES[case]
    seen = {problem: Seen(*numbers) for problem, numbers in earlier.items()}
    assert allocate(["a", "b", "c"], seen, n, most).samples == expected


numbers = st.integers(1, 8).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(n, 200 * n)).map(lambda t: Seen(*t))
)


@pytest.mark.slow
@given(st.dictionaries(st.text("abcdefghij", min_size=1, max_size=3), numbers, min_size=1), st.integers(1, 6))
def test_the_budget_is_spent_and_never_exceeded(seen, n):
    problems, most = sorted(seen), 4
    found = allocate(problems, seen, n, most)
    price = {p: seen[p].tokens / seen[p].samples for p in problems}
    assert found.budget == pytest.approx(n * sum(price.values()))
    assert found.expected == pytest.approx(sum(found.samples[p] * price[p] for p in problems))
    assert found.expected <= found.budget + 1e-3
    for p in problems:
        assert (found.samples[p] == 0) == (seen[p].pass_rate == 1)
        assert found.samples[p] <= n * most
    free = [p for p in problems if 0 < found.samples[p] < n * most]
    if free:
        assert found.budget - found.expected < max(price[p] for p in free) + 1e-3
    by_failure = sorted(free, key=lambda p: -seen[p].pass_rate)
    for easier, harder in itertools.pairwise(by_failure):
        if seen[easier].pass_rate > seen[harder].pass_rate:
            assert found.samples[easier] <= found.samples[harder] + 1


def judged(sample, status="wrong", text=None, finish="stop", guide=None, iteration=0) -> Judged:
    text = f"text {sample}" if text is None else text
    return Judged(Candidate("p", iteration, sample, text, 10, 5, finish, None, guide), Verdict(status, None, "test"))


def test_looking_back():
    items = [
        judged(0),
        judged(1, "correct"),
        judged(2, "abstain"),
        judged(3, finish="length"),
        judged(4, text="text 0"),
    ]
    items += [judged(5, "correct", guide="p/0/0"), judged(6, guide="p/0/0"), judged(0, iteration=1, text="newer")]
    seen = look_back(items, attempts=2)["p"]
    assert (seen.samples, seen.right, seen.tokens) == (6, 1, 60)
    assert [c.id for c in seen.wrong] == ["p/1/0", "p/0/4"]  # of equal texts the newer
    assert look_back(items, attempts=1)["p"].wrong == seen.wrong[:1]
    assert look_back(items, attempts=0)["p"].wrong == []


@pytest.mark.parametrize(
    ("right", "samples", "share", "expected"),
    [(0, 6, 0.5, 3), (1, 6, 0.5, 3), (2, 6, 0.5, 0), (0, 1, 0.5, 0), (0, 6, 0.0, 0), (0, 6, 1.0, 6)],
)
def test_how_many_are_guided(right, samples, share, expected):
    seen = Seen(4, right, 40, [judged(0).candidate])
    by = guides(seen, None)
    assert [one.name for one in by] == ["refine/p/0/0"]
    assert guided_samples(samples, seen, 0.25, share, by) == expected
    assert guided_samples(samples, Seen(4, 0, 40), 0.25, share, []) == 0
    assert guided_samples(samples, None, 0.25, share, by) == 0
    assert guided_samples(samples, Seen(0, 0, 0), 0.25, share, by) == 0


STEPS = "One.\nTwo.\nThree.\nAnswer: 4"


@pytest.mark.parametrize(
    ("texts", "share", "expected"),
    [
        ([STEPS], 0.5, ["One.\nTwo.\n"]),
        ([STEPS], 0.1, ["One.\n"]),  # at least one step
        ([STEPS], 0.99, ["One.\nTwo.\nThree.\n"]),  # never all
        ([STEPS, STEPS.replace("Three", "3")], 0.5, ["One.\nTwo.\n"]),  # two solutions with one beginning
        ([STEPS, "1.5 and 2. Answer: 4"], 0.5, ["One.\nTwo.\n", "1.5 and 2."]),
        (["Answer: 4"], 0.5, []),  # a single step has no beginning
        ([], 0.5, []),
        ([STEPS], None, []),
    ],
)
def test_what_guides(texts, share, expected):
    """The beginnings of right solutions, or else wrong attempts."""
    wrong = [judged(9).candidate]
    right = [judged(k, "correct", text).candidate for k, text in enumerate(texts)]
    found = guides(Seen(4, 0, 40, wrong, right), share)
    assert [one.prefix for one in found] == (expected or [""])
    if not expected:
        assert [one.candidate for one in found] == wrong
    else:
        assert all(one.candidate.text.startswith(one.prefix) for one in found)
    assert guides(None, share) == []


def test_solutions_are_looked_back_at_too():
    """The model's own refinements among them, although they say nothing of what is solved without help."""
    items = [
        judged(0),
        judged(1, "correct"),
        judged(2, "correct", guide="p/0/0"),
        judged(3, "correct", finish="length"),
    ]
    seen = look_back(items, attempts=2)["p"]
    assert [c.id for c in seen.solutions] == ["p/0/2", "p/0/1"]
    assert (seen.samples, seen.right) == (3, 2)
    assert look_back(items, attempts=0)["p"].solutions == []
    only_guided = look_back([judged(2, "correct", guide="p/0/0")], attempts=1)
    assert allocate(["p"], only_guided, 3, 4).samples == {"p": 3}
