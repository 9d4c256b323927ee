"""Draws: s1's weights, and that neither the order of the problems nor anything but the seed matters."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from data_process.curate.draws import (
    TargetMix,
    at_random,
    draw_rank,
    longest,
    over_domains,
    rank_weights,
)
from data_process.curate.pool import Item


def items(*rows: tuple[str, float]) -> list[Item]:
    """(domain, length) of each; ids are numbers."""
    return [Item(k, f"p{k}", domain=domain, length=length) for k, (domain, length) in enumerate(rows)]


MANY = items(*[(f"d{k % 5}", float(k * 37 % 101)) for k in range(100)])


def test_weights_of_s1():
    """Golden: lengths 100, 300, 200 have ranks 2, 0, 1, weights 1/4, 1, 1/2 and probabilities 1/7, 4/7, 2/7."""
    weights = rank_weights([100, 300, 200])
    assert weights == [0.25, 1.0, 0.5]
    assert [weight / sum(weights) for weight in weights] == pytest.approx([1 / 7, 4 / 7, 2 / 7])


@pytest.mark.parametrize("n", [1, 2, 3, 6, 2000])
def test_ranks_are_drawn_with_these_weights(n):
    rng, times = Random(0), 20_000
    drawn = Counter(draw_rank(n, rng) for _ in range(times))
    weights = rank_weights(list(range(n, 0, -1)))[:12]
    for rank, weight in enumerate(weights):
        expected = weight / (2 - 2.0 ** (1 - n))
        assert drawn[rank] / times == pytest.approx(expected, abs=4 * (expected / times) ** 0.5 + 1e-9), rank
    assert 0 <= min(drawn) <= max(drawn) < n


def test_the_first_of_three_by_length():
    """The same through the whole draw: which of lengths 100, 300, 200 comes first, over seeds."""
    three = items(("a", 100), ("a", 300), ("a", 200))
    first = Counter(over_domains(three, 1, seed, by_length=True)[0][0].id for seed in range(2000))
    shares = [first[f"p{k}"] / 2000 for k in range(3)]
    assert shares == pytest.approx([1 / 7, 4 / 7, 2 / 7], abs=0.04)


DRAWS = {
    "random": lambda some, seed: at_random(some, 30, seed),
    "longest": lambda some, seed: longest(some, 30, seed),
    "diverse": lambda some, seed: over_domains(some, 30, seed, by_length=False),
    "ranked": lambda some, seed: over_domains(some, 30, seed, by_length=True),
    "target": lambda some, seed: over_domains(some, 30, seed, by_length=True, target=TargetMix(20, {"d1": 1.0})),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_depends_on_the_seed_alone(name):
    shuffled = Random(1).sample(MANY, len(MANY))
    one, same, other = (DRAWS[name](some, seed) for some, seed in ((MANY, 0), (shuffled, 0), (MANY, 1)))
    assert [(item.id, why) for item, why in one] == [(item.id, why) for item, why in same]
    assert len({item.id for item, _ in one}) == 30
    if name != "longest":  # which has ties alone to draw
        assert {item.id for item, _ in one} != {item.id for item, _ in other}


def test_domains_are_uniform_however_large():
    """One domain has 96 of 100 problems; each of five gets about a fifth while it lasts."""
    uneven = items(*[("big", 1.0)] * 400, *[(f"small{k}", 1.0) for k in range(4) for _ in range(40)])
    counts = Counter(item.domain for item, _ in over_domains(uneven, 100, 0, by_length=False))
    assert max(counts.values()) <= 35
    assert min(counts.values()) >= 8


def test_every_problem_can_be_drawn():
    assert {item.id for item, _ in over_domains(MANY, len(MANY), 3, by_length=True)} == {item.id for item in MANY}


def test_the_last_follow_the_target():
    drawn = over_domains(MANY, 30, 0, by_length=True, target=TargetMix(20, {"d1": 3.0, "d2": 1.0, "elsewhere": 9.0}))
    assert {item.domain for item, _ in drawn[20:]} == {"d1", "d2"}
    assert [why.partition(" '")[0] for _, why in drawn] == ["domain"] * 20 + ["target domain"] * 10
    used_up = over_domains(MANY, 60, 0, by_length=True, target=TargetMix(0, {"d1": 1.0}))
    assert [item.domain for item, _ in used_up[:20]] == ["d1"] * 20
    assert "d1" not in {item.domain for item, _ in used_up[20:]}


def test_equal_lengths_are_ordered_by_the_seed():
    equal = items(*[("a", 7.0)] * 40)
    first = {longest(equal, 1, seed)[0][0].id for seed in range(20)}
    assert len(first) > 5
