"""Draws: seeded, different, and every place used alike."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.test_time import subsets

sizes = st.integers(1, 8).flatmap(lambda pool: st.tuples(st.just(pool), st.integers(1, pool)))
seeds = st.integers(0, 2**32 - 1)
fast = settings(max_examples=80, deadline=None)


@fast
@given(sizes, st.integers(1, 40), seeds)
def test_ordered_draws_use_every_place_alike(size, draws, seed):
    pool, n = size
    rows = subsets.ordered(pool, n, draws, seed)
    assert len(rows) == draws
    assert all(len(set(row)) == n and set(row) <= set(range(pool)) for row in rows)
    for place in range(n):
        counts = Counter(row[place] for row in rows)
        assert max(counts.values()) - min(counts[i] for i in range(pool)) <= 1
    assert rows == subsets.ordered(pool, n, draws, seed)
    assert (
        rows[: draws // 2] == subsets.ordered(pool, n, max(draws // 2, 1), seed)[: draws // 2]
    )  # more keeps the first


def test_each_ordered_draw_is_uniform_by_itself():
    counts = Counter(subsets.ordered(4, 2, 1, seed)[0] for seed in range(6000))
    assert len(counts) == 12
    assert all(abs(count - 500) < 110 for count in counts.values())  # 5 standard deviations of 21.4
    second = Counter(subsets.ordered(4, 2, 2, seed)[1] for seed in range(6000))
    assert all(abs(second[pair] - 500) < 110 for pair in counts)


@fast
@given(st.integers(1, 6), st.integers(1, 30), seeds)
def test_orders_are_different_and_all_when_few(n, most, seed):
    rows = subsets.orders(n, most, seed)
    assert len(set(rows)) == len(rows) == min(most, math.factorial(n))
    assert all(sorted(row) == list(range(n)) for row in rows)
    if n <= most:
        for place in range(n):
            counts = Counter(row[place] for row in rows[: n * (len(rows) // n)])
            assert set(counts.values()) == {len(rows) // n} or most < math.factorial(n)


def test_orders_begin_with_a_latin_square():
    rows = subsets.orders(5, 5, seed=3)
    assert [sorted(row[place] for row in rows) for place in range(5)] == [list(range(5))] * 5


@fast
@given(sizes, st.integers(1, 100), seeds)
def test_unordered_is_all_or_so_many(size, most, seed):
    pool, n = size
    rows, every = subsets.unordered(pool, n, most, seed)
    assert every == (math.comb(pool, n) <= most)
    assert len(rows) == min(most, math.comb(pool, n))
    assert all(list(row) == sorted(set(row)) and len(row) == n for row in rows)
    if every:
        assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(("pool", "n", "draws"), [(3, 4, 1), (3, 0, 1), (3, 2, 0)])
def test_refusals(pool, n, draws):
    for function in (subsets.ordered, subsets.unordered):
        with pytest.raises(ValueError, match=r"cannot be shown|at least one draw"):
            function(pool, n, draws, 0)
    with pytest.raises(ValueError, match=r"at least one draw"):
        subsets.orders(3, 0, 0)
