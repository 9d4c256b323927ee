"""Choosing on dev, reporting on test; Holm's correction."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.stats import choose_on_dev, holm, wilson

fast = settings(max_examples=80, deadline=None)


def test_choose_on_dev():
    dev = {"a": {"d1": 1.0, "d2": 0.0}, "b": {"d1": 0.5, "d2": 1.0}}
    test = {"b": {"t1": 1.0, "t2": 0.5, "t3": 0.0}, "a": {"t1": 1.0, "t2": 1.0, "t3": 1.0}}
    found = choose_on_dev(dev, test)
    assert (found.setting, found.n_settings, found.dev_accuracy, found.n_dev) == ("b", 2, 0.75, 2)
    assert (found.test_accuracy, found.n_test) == (0.5, 3)  # the better test number of a is not looked at
    assert (found.low, found.high) == wilson(1.5, 3)
    assert choose_on_dev(dev, {"b": test["b"]}) == found


def test_ties_go_to_the_cheaper_then_to_the_name():
    dev = {"long": {"d1": 1 / 3, "d2": 2 / 3}, "short": {"d1": 2 / 3, "d2": 1 / 3}}
    test = {name: {"t": 1.0} for name in dev}
    assert choose_on_dev(dev, test).setting == "long"
    assert choose_on_dev(dev, test, cost={"long": 9, "short": 3}).setting == "short"


@pytest.mark.parametrize(
    ("dev", "test", "cost", "message"),
    [
        ({}, {}, None, "at least one setting"),
        ({"a": {}}, {}, None, "at least one setting"),
        ({"a": {"d": 1.0}, "b": {"e": 1.0}}, {}, None, "same dev questions: 'd' has one"),
        ({"a": {"d": 1.0}}, {"b": {"t": 1.0}}, None, "a was chosen on dev but has no credits on test"),
        ({"a": {"d": 1.0}}, {"a": {"t": 1.0, "d": 0.0}}, None, "1 questions are in dev and in test, for instance 'd'"),
        ({"a": {"d": 1.0}}, {"a": {"t": 1.0}}, {}, "no cost is given for setting 'a'"),
    ],
)
def test_choice_refuses(dev, test, cost, message):
    with pytest.raises(ValueError, match=message):
        choose_on_dev(dev, test, cost)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert list(holm({"b": 0.5, "a": 0.9})) == ["b", "a"]
    assert holm({}) == {}
    with pytest.raises(ValueError, match=r"x: 1\.5 is not a p-value"):
        holm({"x": 1.5})


@fast
@given(st.lists(st.sampled_from([0.001, 0.01, 0.012, 0.02, 0.05, 0.3, 1.0]), min_size=1, max_size=5))
def test_holm_is_the_closed_bonferroni_test(values):
    """By definition of a closed test: a comparison's p is the largest Bonferroni p of all sets that hold it."""
    p = {f"c{i}": value for i, value in enumerate(values)}
    for name, adjusted in holm(p).items():
        others = [other for other in p if other != name]
        sets = [(name, *rest) for k in range(len(p)) for rest in itertools.combinations(others, k)]
        assert adjusted == pytest.approx(max(min(1.0, len(s) * min(p[x] for x in s)) for s in sets))
        assert adjusted >= p[name]
