"""Building training data: the two published rules as golden cases, then what must hold for any pool."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.building.census import Census
from data_process.building.mixture import KINDS, build
from data_process.prompts import R3V, SHORT
from data_process.prompts import cot as cot_prompt
from data_process.schema import Candidate, DataError, Example, Judged, Problem, Verdict, judged_from_json, to_json
from data_process.seeds import seed_for

LONG = "The angles of a triangle add up to a straight angle, so the answer follows. "
PUBLISHED = ("qa", "cot", "refine", "select")
STATUS = {"T": "correct", "F": "wrong", "?": "abstain"}


def problem(name: str) -> Problem:
    return Problem(name, f"Question {name}?", "B", ("30", "40", "45"), images=(f"{name}.png",))


def judged(name: str, sample: int, mark: str, *, iteration=1, text=None, finish="stop") -> Judged:
    text = f"{LONG}This is {name} sample {sample} of {iteration}." if text is None else text
    candidate = Candidate(name, iteration, sample, text, 10, 20, finish)
    return Judged(candidate, Verdict(STATUS[mark], "B" if mark == "T" else None, "test"))


def pool(rows: dict[str, str]) -> tuple[list[Problem], list[Judged]]:
    """{"q1": "TTF"} is one problem whose samples 0, 1, 2 are right, right, wrong."""
    return [problem(n) for n in rows], [judged(n, k, mark) for n, marks in rows.items() for k, mark in enumerate(marks)]


def samples(examples, kind="") -> dict[str, list[int]]:
    """Sample numbers that each problem's example was made from."""
    return {e.problem_id + kind: [int(s.rsplit("/", 1)[1]) for s in e.sources] for e in examples}


def test_published_rule_of_the_original():
    """Golden fact 5, where samples are numbered from 1."""
    problems, candidates = pool({"q1": "TTT", "q2": "FFF", "q3": "TFT", "q4": "FTF", "q5": "FFT", "q6": "TTF"})
    gpt = [Example(f"gpt/{k}", "cot", "q1", "p", "t", None) for k in range(2)]
    result = build(problems, candidates, rule="a-orig", prompts=R3V, seed=1, qa_problems=problems[:5], extra=gpt)
    made = result.by_kind
    assert samples(made["cot"]) == {"q1": [2], "q3": [2], "q4": [1], "q5": [2], "q6": [1]}
    assert samples(made["refine"]) == {"q3": [1, 2], "q4": [2, 1], "q5": [1, 2], "q6": [2, 1]}
    assert sorted(e.id for e in made["select"]) == ["select/1+2/q4", "select/1+2/q5", "select/2+1/q3", "select/2+1/q6"]
    assert len(made["qa"]) == 5
    assert len(result.examples) == 20
    assert result.pools == Counter(mixed=4, all_right=1, all_wrong=1)
    # Right in sample 1 alone, and in any sample.
    first = {c.candidate.problem_id: c.verdict.correct for c in candidates if c.candidate.sample == 0}
    assert sum(first.values()) == 3
    assert result.pools["mixed"] + result.pools["all_right"] == 5


def test_published_rule_for_qwen2vl():
    """Golden fact 6: the marks are of files 0 to 5, file 5 the newest."""
    rows = {"q0": "TFFTTF", "q1": "TFFFFT", "q2": "TTTTTT", "q3": "FFFFFF", "q4": "TTFTTF"}
    problems, candidates = pool(rows)
    texts = {("q1", 5): "x" * 50, ("q4", 5): "Answer: A " + LONG}
    candidates = [
        judged(c.problem_id, c.sample, rows[c.problem_id][c.sample], text=texts.get((c.problem_id, c.sample)))
        for c in (item.candidate for item in candidates)
    ]
    result = build(problems, candidates, rule="a-q2", prompts=R3V, seed=1)
    made = result.by_kind
    assert samples(made["cot"]) == {"q0": [4], "q1": [0], "q2": [5], "q4": [4]}
    assert samples(made["refine"]) == {"q0": [5, 4], "q1": [4, 0], "q4": [2, 4]}
    chosen = {e.id: set(samples([e])[e.problem_id]) for e in made["select"]}
    assert chosen == {
        "select/2+1/q0": {4, 3, 5},
        "select/2+1/q4": {4, 3, 2},
        "select/1+2/q0": {4, 5, 2},
        "select/1+2/q1": {0, 4, 3},
    }
    assert {k: n for k, n in result.dropped.items() if k.startswith("candidate:")} == {
        "candidate:too_short": 1,
        "candidate:answer_only": 1,
    }
    # 51 characters are enough; another limit and no prefix admit both texts.
    loose = build(problems, candidates, rule="a-q2", prompts=R3V, seed=1, min_chars=49, answer_prefix="")
    assert samples(loose.by_kind["cot"])["q1"] == [5]
    assert samples(loose.by_kind["refine"])["q4"] == [5, 4]


def test_newest_is_iteration_then_sample():
    items = [judged("q", 9, "T", iteration=1), judged("q", 0, "T", iteration=10), judged("q", 2, "T", iteration=2)]
    made = build([problem("q")], items, rule="a-q2", prompts=R3V, seed=0).by_kind
    assert made["cot"][0].sources == ("q/10/0",)


def test_what_the_rows_say():
    problems, candidates = pool({"q": "TF"})
    result = build(problems, [*candidates, judged("q", 2, "T")], rule="a-q2", prompts=R3V, seed=0)
    qa, cot, refine, select = (result.by_kind[kind][0] for kind in PUBLISHED)
    assert qa.target == "Answer: \nB"
    assert cot.target == f"{LONG}This is q sample 2 of 1."
    assert cot.prompt == cot_prompt(problems[0], R3V)
    assert refine.target == cot.target
    assert "sample 1 of 1" in refine.prompt
    assert select.target == "Answer:\n B"
    assert all(f"sample {k} of 1" in select.prompt for k in range(3))
    assert {e.images for e in (qa, cot, refine, select)} == {("q.png",)}
    own = build(problems, candidates, rule="a-q2", prompts=R3V, seed=0, select_target="own").by_kind
    assert own["select"] == ()
    own = build(*pool({"q": "TTF"}), rule="a-q2", prompts=R3V, seed=0, select_target="own").by_kind
    assert own["select"][0].target == f"{LONG}This is q sample 1 of 1."


@pytest.mark.parametrize(
    ("marks", "counts", "reasons"),
    [
        ("TTT", (1, 1, 0, 0), {"refine:no_negative": 1, "select:no_negative": 2, "cot:over_cap": 2}),
        ("FFF", (1, 0, 0, 0), {"cot:no_positive": 1, "refine:no_positive": 1, "select:no_positive": 2}),
        ("???", (1, 0, 0, 0), {"cot:no_positive": 1, "refine:no_positive": 1, "select:no_positive": 2}),
        ("", (1, 0, 0, 0), {"cot:no_candidate": 1, "refine:no_candidate": 1, "select:no_candidate": 2}),
        ("TF", (1, 1, 1, 0), {"select:one_positive": 1, "select:one_negative": 1}),
        ("T?", (1, 1, 1, 0), {"select:one_positive": 1, "select:one_negative": 1}),
    ],
)
def test_one_sided_pools(marks, counts, reasons):
    problems, candidates = pool({"q": marks})
    result = build(problems, candidates, rule="a-q2", prompts=R3V, seed=0)
    assert tuple(len(result.by_kind[kind]) for kind in PUBLISHED) == counts
    assert result.dropped == Counter(reasons)
    assert build([], [], rule="a-orig", prompts=R3V, seed=0).examples == ()


def test_truncated_and_unreadable_candidates():
    problems = [problem("q")]
    items = [
        judged("q", 0, "T"),
        judged("q", 1, "T", finish="length"),
        judged("q", 2, "F", finish="length"),
        judged("q", 3, "?"),
        judged("q", 4, "?", text=" \n"),
        judged("q", 5, "F", text=""),
    ]

    def run(**options):
        return build(problems, items, rule="a-q2", prompts=R3V, seed=0, **options)

    result = run()
    assert samples(result.by_kind["cot"]) == {"q": [0]}
    assert samples(result.by_kind["refine"]) == {"q": [3, 0]}
    assert result.dropped["candidate:truncated"] == 2
    assert result.dropped["candidate:empty"] == 2
    result = run(abstain_is_negative=False)
    assert result.by_kind["refine"] == ()
    assert result.dropped["candidate:abstained"] == 1
    result = run(abstain_is_negative=False, allow_truncated_negatives=True)
    assert samples(result.by_kind["refine"]) == {"q": [2, 0]}
    assert samples(result.by_kind["cot"]) == {"q": [0]}  # a cut text is never a target
    assert result.dropped["candidate:truncated"] == 1


def test_several_chains_per_problem_without_duplicates():
    texts = ["one " + LONG, "two " + LONG, "two " + LONG, "three " + LONG]
    items = [judged("q", k, "T", text=text) for k, text in enumerate(texts)]
    result = build([problem("q")], items, rule="a-q2", prompts=R3V, seed=0, max_cot_per_problem=2)
    assert [e.sources for e in result.by_kind["cot"]] == [("q/1/3",), ("q/1/2",)]
    assert result.dropped["cot:duplicate_text"] == 1
    assert result.dropped["cot:over_cap"] == 1


def test_places_of_the_odd_one_are_balanced():
    problems, candidates = pool({f"q{k:03}": "TTF" if k % 2 else "TFF" for k in range(200)})
    for balanced in (True, False):
        rows = build(problems, candidates, rule="a-q2", prompts=R3V, seed=3, balance_positions=balanced).by_kind[
            "select"
        ]
        places: dict[str, Counter[int]] = {"2+1": Counter(), "1+2": Counter()}
        orders = set()
        for row in rows:
            name = row.id.split("/")[1]
            shown = samples([row])[row.problem_id]
            orders.add((name, *shown))
            places[name][shown.index(2 if name == "2+1" else 0)] += 1
        spread = [max(p.values()) - min(p.values()) for p in places.values()]
        assert max(spread) <= 1 if balanced else 1 < max(spread) < 40
        assert len(orders) == 12  # every order of both types
        assert len(rows) == 200


@pytest.mark.parametrize(
    ("weight", "kept", "repeated"), [(0, 0, 0), (0.25, 2, 0), (0.5, 5, 0), (1, 10, 0), (1.5, 15, 5), (3, 30, 20)]
)
def test_weights(weight, kept, repeated):
    problems, candidates = pool({f"q{k}": "T" for k in range(10)})
    weights = {"qa": 0, "cot": weight}
    if weight == 0.25:
        kept = 3  # 2.5 rounds up
    result = build(problems, candidates, rule="a-q2", prompts=R3V, seed=0, parts=weights)
    assert len(result.examples) == kept
    assert result.repeated["cot"] == repeated
    assert result.dropped["qa:weight"] == 10
    assert result.dropped["cot:weight"] == max(0, 10 - kept)
    assert len({e.id for e in result.examples}) == kept
    if weight >= 1:
        assert {e.problem_id for e in result.examples} == {p.id for p in problems}


def refused(match, problems=(), candidates=(), **options):
    with pytest.raises(DataError, match=match):
        build(problems, candidates, **({"rule": "a-q2", "prompts": R3V, "seed": 0} | options))


def test_what_is_refused():
    problems, candidates = pool({"q": "TF"})
    refused("weight of part cot is -1", parts={"cot": -1})
    refused("weight of part cot is nan", parts={"cot": float("nan")})
    refused("unknown part 'cott'", parts={"cott": 1})
    refused("unknown rule 'x'", rule="x")
    refused("unknown select target", select_target="x")
    refused("max_cot_per_problem", max_cot_per_problem=0)
    refused("'q/1/0' belongs to none of the problems", [problem("other")], candidates[:1])
    refused("'q/1/0' occurs twice", problems, [*candidates, candidates[0]])
    refused("problem id 'q' occurs twice", problems * 2)
    refused("example id 'qa/q' occurs twice", problems, extra=[Example("qa/q", "qa", "q", "p", "t", None)])
    refused("'q/1/1' belongs to none of the problems", [problem("other")], candidates[1:], sampled_only=True)


def test_the_collector_is_on_again():
    """Also after an error; and one that was off stays off."""
    for on in (True, False):
        (gc.enable if on else gc.disable)()
        try:
            build(*pool({"q": "TF"}), rule="a-q2", prompts=R3V, seed=0)
            refused("occurs twice", [problem("q")] * 2)
            assert gc.isenabled() is on
        finally:
            gc.enable()


def test_census():
    rows = {"a": "TT", "b": "FF", "c": "TF", "d": "??", "e": "T?", "f": "F?", "g": ""}
    census = Census()
    for item in pool(rows)[1]:
        census.add(item)
    census.check(rows)
    assert census.pools(rows) == Counter(all_right=1, all_wrong=2, mixed=2, unreadable=1, unsampled=1)
    assert census.verdicts == Counter(correct=4, wrong=4, abstain=4)
    assert (len(census), "a" in census, "g" in census) == (6, True, False)
    with pytest.raises(DataError, match="'a/1/0' belongs to none of the problems"):
        census.check(["b"])
    census.add(judged("b", 1, "T"))
    with pytest.raises(DataError, match="'b/1/1' occurs twice"):
        census.check(rows)


_POOLS = st.dictionaries(st.sampled_from("abcdefg"), st.text("TF?", max_size=6), max_size=6)
_OPTIONS = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["a-orig", "a-q2"]),
        "seed": st.integers(0, 3),
        "max_cot_per_problem": st.integers(1, 3),
        "balance_positions": st.booleans(),
        "abstain_is_negative": st.booleans(),
        "parts": st.fixed_dictionaries({kind: st.sampled_from([0, 0.4, 1, 1.5, 2]) for kind in KINDS}),
    }
)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(rows=_POOLS, options=_OPTIONS, shuffle=st.randoms(use_true_random=False))
def test_any_pool_adds_up_and_does_not_depend_on_order(rows, options, shuffle: random.Random):
    problems, candidates = pool(rows)
    result = build(problems, candidates, prompts=SHORT, **options)
    result.check()
    assert sum(result.pools.values()) == len(problems)
    texts = {item.candidate.text: item.verdict.status for item in candidates}
    assert all(texts[e.target] == "correct" for kind in ("cot", "refine") for e in result.by_kind[kind])
    assert all(len([e for e in result.by_kind["select"] if e.problem_id == p.id]) <= 2 for p in problems)
    shuffle.shuffle(problems)
    shuffle.shuffle(candidates)
    assert build(problems, iter(candidates), prompts=SHORT, **options) == result
    sampled = [p for p in problems if rows[p.id]]
    assert build(problems, candidates, prompts=SHORT, sampled_only=True, **options) == build(
        sampled, candidates, prompts=SHORT, **options
    )


@pytest.mark.slow
@given(rows=_POOLS)
def test_records_as_json(rows):
    _, candidates = pool(rows)
    guided = [replace(item, candidate=replace(item.candidate, guide="a/0/1")) for item in candidates]
    for item in candidates + guided:
        fields = asdict(item)
        for name in ("guide", "begun"):  # as before there was any guidance
            if not fields["candidate"][name]:
                del fields["candidate"][name]
        assert to_json(item) == fields
        assert judged_from_json(json.loads(json.dumps(to_json(item)))) == item


def test_another_seed_is_another_order():
    problems, candidates = pool({f"q{k}": "TF" for k in range(20)})
    first, second = (build(problems, candidates, rule="a-q2", prompts=R3V, seed=s) for s in (1, 2))
    assert [e.id for e in first.examples] != [e.id for e in second.examples]
    assert {e.id for e in first.examples} == {e.id for e in second.examples}


def test_seeds_are_the_same_in_every_process():
    assert seed_for(1, "q", "select") == 3032449903
    assert seed_for(1, "q", "select") != seed_for(1, "q", "cot")
    with pytest.raises(TypeError):
        seed_for(object())
    code = "from data_process.seeds import seed_for; print(seed_for('é', 2.5, ('a',)))"
    values = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": h}, capture_output=True, text=True).stdout
        for h in ("1", "2")
    }
    assert values == {f"{seed_for('é', 2.5, ('a',))}\n"}


@pytest.mark.slow
def test_time_grows_with_the_size_only():
    def seconds(n: int) -> float:
        problems, candidates = pool({f"q{k}": "TFTFTFTFTFTF" for k in range(n)})
        started = time.process_time()
        result = build(problems, candidates, rule="a-q2", prompts=R3V, seed=0)
        json.dumps(to_json(result.examples[0]))
        return time.process_time() - started

    # 100,000 problems in 60 seconds are 0.6 ms each; linear, so 2,000 of them must stay under 1.2 s.
    assert seconds(2000) < 1.2
