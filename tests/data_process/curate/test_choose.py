"""Filters and policies on items: who leaves why, and counts that add up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_process.curate.choose import POLICIES, DirectRule, Measures, Plan, choose, copies, difficulty_fault
from data_process.curate.pool import Item
from data_process.schema import DataError

PLAN = Plan(
    seed=0, policy=POLICIES["s1"], filters=("quality", "duplicates", "contamination", "difficulty"), size=4, share=None,
    contradicting="drop", models=("small", "large"), easy=0.0, hard=None, unsampled="drop",
)  # fmt: skip


def pool(n: int = 20) -> list[Item]:
    return [
        Item(k, f"p{k}", same=bytes([k]), gold=b"x", length=float(k), domain=f"d{k % 3}", rates=(0.0, 0.0))
        for k in range(n)
    ]


def measures(leaking=(), late=()) -> Measures:
    """Nothing to measure; `leaking` leak at once, `late` once at most ten are looked at."""

    def leaks(items):
        ids = {item.id for item in items}
        found = {name: f"item leak: {name!r} of test" for name in leaking if name in ids}
        return found | ({name: "text leak" for name in late if name in ids} if len(ids) <= 10 else {})

    nothing = lambda items: None  # noqa: E731
    return Measures(nothing, nothing, nothing, leaks)


def check(items, chosen):
    """Every item has one decision, and each step hands on what it kept."""
    assert all((item.by and item.why) or item.kept for item in items)
    offered = len(items)
    for step in chosen.steps:
        assert step.offered == offered
        assert step.kept + sum(step.reasons.values()) == step.offered
        offered = step.kept
    assert offered == sum(item.kept for item in items)
    for item in items:
        if not item.kept:
            assert sum(step.name == item.by for step in chosen.steps) >= 1


def test_each_filter_takes_its_own():
    items = pool()
    items[0] = Item(0, "p0", usable=False, fault="answer '5' is no letter")
    items[1].fault = "string rule asymptote"
    items[2].same = items[3].same
    items[5].rates = (0.0, 1.0)
    items[6].rates = (None, 0.0)
    chosen = choose(items, PLAN, measures(leaking=["p4", "p1"]))
    check(items, chosen)
    assert [(item.id, item.by, item.why) for item in items[:7] if not item.kept and item.by != "draw"] == [
        ("p0", "rows", "answer '5' is no letter"),
        ("p1", "quality", "string rule asymptote"),
        ("p3", "duplicates", "a copy of 'p2'"),
        ("p4", "contamination", "item leak: 'p4' of test"),
        ("p5", "difficulty", "too easy for large"),
        ("p6", "difficulty", "no samples of small"),
    ]
    assert [step.name for step in chosen.steps] == ["rows", *PLAN.filters, "draw"]
    assert sum(item.kept for item in items) == 4


@pytest.mark.parametrize(
    "order", [("difficulty", "quality"), ("duplicates",), (), ("contamination", "duplicates", "quality")]
)
def test_filters_in_any_order_and_number(order):
    items = pool()
    items[7].fault, items[8].rates = "broken", (1.0, 1.0)
    items[9] = Item(9, "p9", usable=False, fault="no question")
    chosen = choose(items, replace(PLAN, filters=order, size=15), measures())
    check(items, chosen)
    assert [step.name for step in chosen.steps] == ["rows", *order, "draw"]
    assert items[7].by == ("quality" if "quality" in order else items[7].by)
    assert items[9].by == "rows", "what is no problem leaves in any case"


@pytest.mark.parametrize("name", POLICIES)
def test_policies(name):
    items = pool()
    items[19].rates = (1.0, 1.0)
    chosen = choose(items, replace(PLAN, policy=POLICIES[name]), measures())
    check(items, chosen)
    kept = {item.id for item in items if item.kept}
    assert len(kept) == (20 if name == "all" else 4)
    assert (items[19].by == "difficulty") == (name in ("s1", "difficulty"))
    if name == "longest":
        assert kept == {"p16", "p17", "p18", "p19"}


def test_a_share_of_the_pool():
    items = pool()
    items[0].fault = "broken"
    choose(items, replace(PLAN, size=None, share=0.5), measures())
    assert sum(item.kept for item in items) == 10, "of the pool, not of what is left"


@pytest.mark.parametrize(
    ("rates", "changes", "fault"),
    [
        ((0.0, 0.0), {}, None),
        ((0.2, 0.0), {}, "too easy for small"),
        ((0.2, 0.6), {"easy": 0.5}, "too easy for large"),
        ((0.5, 0.5), {"easy": 0.5}, None),
        ((0.1, 0.0), {"easy": 0.5, "hard": 0.2}, "too hard"),
        ((0.0, 0.2), {"easy": 0.5, "hard": 0.2}, None),
        ((None, 0.0), {}, "no samples of small"),
        ((None, 0.0), {"unsampled": "keep"}, None),
        ((None, None), {"unsampled": "keep", "hard": 0.2, "easy": 0.5}, None),
        ((None, 1.0), {}, "too easy for large"),
    ],
)
def test_difficulty(rates, changes, fault):
    assert difficulty_fault(rates, replace(PLAN, **changes)) == fault


@pytest.mark.parametrize(
    ("golds", "contradicting", "found"),
    [
        ("xxx", "drop", {1: "a copy of 'p0'", 2: "a copy of 'p0'"}),
        ("xyx", "drop", dict.fromkeys(range(3), "copies with different answers")),
        ("xyx", "first", {1: "a copy of 'p0'", 2: "a copy of 'p0'"}),
    ],
)
def test_copies(golds, contradicting, found):
    items = [Item(k, f"p{k}", same=b"s", gold=gold.encode()) for k, gold in enumerate(golds)]
    assert copies([*items, Item(3, "p3", same=b"t"), Item(4, "u"), Item(5, "v", usable=False)], contradicting) == found


def test_direct_problems_pass_difficulty_and_draw():
    items = pool()
    for k in (1, 2, 3):
        items[k].origin, items[k].trace_right, items[k].rates = "MATH", k != 3, (1.0, 1.0)
    plan = replace(PLAN, direct=[DirectRule(frozenset({"MATH"}), min_length=2)])
    chosen = choose(items, plan, measures())
    check(items, chosen)
    assert [item.by for item in items[1:4]] == ["difficulty", "direct", "difficulty"], "too short, direct, wrong"
    assert sum(item.kept for item in items) == 4
    assert "1 of them are taken directly, without difficulty and draw" in chosen.remarks
    many = pool()
    for item in many[:5]:
        item.origin, item.trace_right = "MATH", True
    with pytest.raises(DataError, match="the direct rules take 5 problems, more than the 4 wanted"):
        choose(many, replace(plan, direct=[DirectRule(frozenset({"MATH"}))]), measures())


def test_the_target_mix_is_that_of_its_data_sets():
    items = pool(200)
    for item in items:
        item.origin = "AIME" if item.domain == "d1" else "GPQA" if item.domain == "d2" else None
    plan = replace(PLAN, size=60, target_share=0.5, target_origins={"AIME": 2.0, "GPQA": 1.0})
    chosen = choose(items, plan, measures())
    check(items, chosen)
    last = [item.domain for item in items if item.why.startswith("target")]
    assert len(last) == 30
    assert 15 <= last.count("d1") <= 26
    assert last.count("d0") == 0
    with pytest.raises(DataError, match="no problem from 'AMC' with a domain is left"):
        choose(pool(), replace(PLAN, target_share=0.5, target_origins={"AMC": 1.0}), measures())


def test_a_leak_that_shows_only_in_the_choice():
    items = pool()
    chosen = choose(items, replace(PLAN, policy=POLICIES["longest"]), measures(late=["p19", "p17"]))
    check(items, chosen)
    assert {item.id for item in items if item.kept} == {"p18", "p16", "p15", "p14"}
    assert items[19].by == items[17].by == "contamination"


def broken(items, **fields):
    for item in items:
        for name, value in fields.items():
            setattr(item, name, value)
    return items


@pytest.mark.parametrize(
    ("items", "changes", "message"),
    [
        (broken(pool(), fault="no trace"), {}, r"the filters leave no problem; .*quality kept 0 of 20 \(no trace 20\)"),
        (broken(pool(), rates=(1.0, 0.0)), {}, r"difficulty kept 0 of 20 \(too easy for small 20\); all pass rates of "
                                               r"small are 1: they tell no problem from another"),
        (pool(), {"size": 21}, r"21 problems are wanted, and the filters leave 20: .*lower size or share"),
        (pool(), {"size": None, "share": 0.01}, "0 problems are wanted"),
        (pool(), {"size": None}, "say how many problems are wanted"),
        (broken(pool(), length=None), {}, "no problem has a length; name another field with length.of"),
        (broken(pool(), domain=None), {}, "no problem has a domain; name another field with domain.of"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(items, changes, message):
    with pytest.raises(DataError, match=message):
        choose(items, replace(PLAN, **changes), measures())


def test_some_without_a_domain_are_counted():
    items = pool()
    items[0].domain = items[1].length = None
    chosen = choose(items, PLAN, measures())
    check(items, chosen)
    assert (items[0].by, items[0].why, items[1].by, items[1].why) == ("domain", "no domain", "length", "no length")


def test_equal_rates_are_remarked_and_harmless():
    chosen = choose(pool(), PLAN, measures())
    assert "all pass rates of large are 0: they tell no problem from another" in chosen.remarks
