"""Preference pairs: what may be preferred to what, where selections show it, and that nothing is lost on the way."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_process import prompts as wording
from data_process.building.pairs import PAIR_KINDS, build_pairs
from data_process.building.sharegpt import rejection_reason, to_row, write_dataset
from data_process.io import read_jsonl
from data_process.json_files import read_json
from data_process.prompts import SHORT, ShowLimit
from data_process.schema import Candidate, DataError, Example, Judged, Problem, Verdict, example_from_json, to_json

BOTH = {"cot": 3, "select": 2}
# T right, F wrong, ? unreadable, C right but truncated, X right but contradicting itself, B right but a bare answer,
# S right and the same text as another S, E empty.
STATUS = {"F": "wrong", "?": "abstain"}


def problem(name: str) -> Problem:
    return Problem(name, f"Question {name}?", "B", ("30", "40", "45"), images=(f"{name}.png",))


def text_of(name: str, k: int, mark: str) -> str:
    if mark in "BE":
        return "Answer: (B)" if mark == "B" else " "
    k = 0 if mark == "S" else k
    letter = "A" if mark == "F" else "B"
    return f"<think>{mark}{k} of {name}, {'99 is (B)' if mark == 'X' else 'fine'}</think>\nAnswer: ({letter})"


def judged(name: str, marks: str) -> list[Judged]:
    items = []
    for k, mark in enumerate(marks):
        finish = "length" if mark == "C" else "stop"
        candidate = Candidate(name, k // 3, k % 3, text_of(name, k, mark), 9, 30, finish)
        extracted = {"F": "A", "?": None}.get(mark, "B")
        items.append(Judged(candidate, Verdict(STATUS.get(mark, "correct"), extracted, "test")))
    return items


def build(pools: dict[str, str], per_problem=BOTH, **more):
    items = [item for name, marks in pools.items() for item in judged(name, marks)]
    settings = {"rule": "a-orig", "prompts": SHORT, "seed": 1} | more
    return build_pairs([problem(name) for name in pools], items, per_problem=per_problem, **settings)


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.text("TF?CXBSE", max_size=9), min_size=1, max_size=6),
    st.fixed_dictionaries({"cot": st.integers(0, 5), "select": st.integers(0, 4)}),
    st.sampled_from(["answer", "reasoning", "rationale"]),
    st.booleans(),
)
def test_every_pair_prefers_right_to_wrong_and_everything_is_counted(pools, per_problem, form, consistent):
    result = build(pools, per_problem, select_format=form, sizes=(2, 3, 4), require_consistent=consistent)
    sampled = [name for name, marks in pools.items() if marks]
    assert result.problems == len(sampled)
    by_reason = defaultdict(Counter)
    for key, n in result.dropped.items():
        name, reason = key.split(":")
        by_reason[name][reason] = n
    assert result.n_usable + by_reason["candidate"].total() == sum(map(len, pools.values()))
    for kind in PAIR_KINDS:
        of_kind = Counter(example.problem_id for example in result.examples if example.kind == kind)
        assert max(of_kind.values(), default=0) <= per_problem[kind]
        assert result.paired[kind] == len(of_kind)
        if per_problem[kind]:
            assert len(of_kind) + by_reason[kind].total() == len(sampled)
    mark_of = {f"{name}/{k // 3}/{k % 3}": mark for name, marks in pools.items() for k, mark in enumerate(marks)}
    assert len({example.id for example in result.examples}) == len(result.examples)
    assert len({(e.problem_id, e.prompt, e.target, e.rejected, e.sources) for e in result.examples}) == len(
        result.examples
    )
    for example in result.examples:
        *shown, chosen, rejected = (mark_of[source] for source in example.sources)
        assert chosen in ("TBS" if consistent else "TBSX")
        assert rejected in ("F?" if example.kind == "cot" else "F")
        assert {source.split("/")[0] for source in example.sources} == {example.problem_id}
        assert {chosen, rejected} <= {*shown, chosen, rejected}
        assert rejection_reason(example) is None
        assert example.target != example.rejected
        if example.kind == "select":
            assert len(shown) in (2, 3, 4)
            assert not {"C", "E", "?"} & set(shown)
            assert set(shown) & set("TBSX")
            assert "F" in shown


@pytest.mark.parametrize(
    ("marks", "cot", "select"),
    [
        ("", None, None),  # never sampled: not counted as a problem
        ("TTT", "no_wrong", "no_wrong"),
        ("F?F", "no_right", "no_right"),
        ("CCE", "no_candidate", "no_candidate"),
        ("CFF", "no_right", "no_right"),
        ("T??", None, "no_wrong"),
        ("TF", None, "too_few_candidates"),
        ("TFF", None, None),
    ],
)
def test_why_a_problem_has_no_pair(marks, cot, select):
    result = build({"a": marks}, sizes=(3,))
    found = {key: n for key, n in result.dropped.items() if not key.startswith("candidate:")}
    assert found == {f"{kind}:{reason}": 1 for kind, reason in (("cot", cot), ("select", select)) if reason}
    assert bool(result.examples) == bool(marks and (not cot or not select))


def test_reasons_of_candidates():
    result = build({"a": "TFCEXB"}, rule="a-q2", require_consistent=True, min_chars=10)
    expected = {"truncated": 1, "empty": 1, "contradicts_itself": 1, "answer_only": 1}
    assert {k: n for k, n in result.dropped.items() if k.startswith("candidate:")} == {
        f"candidate:{k}": n for k, n in expected.items()
    }
    assert result.n_usable == 2


@pytest.mark.parametrize(
    ("marks", "most", "right", "wrong"),
    [
        ("TF", 3, [1], [1]),
        ("TTFF", 2, [1, 1], [1, 1]),  # no text twice while another one is unused
        ("TTFF", 4, [2, 2], [2, 2]),
        ("TTFF", 9, [2, 2], [2, 2]),
        ("TTTF", 2, [1, 1], [2]),
        ("TTTFFF", 6, [2, 2, 2], [2, 2, 2]),
        ("SSSFF", 9, [2], [1, 1]),  # equal texts are one
    ],
)
def test_how_often_a_text_is_used(marks, most, right, wrong):
    pairs = build({"a": marks}, {"cot": most}).examples
    assert sorted(Counter(example.target for example in pairs).values()) == right
    assert sorted(Counter(example.rejected for example in pairs).values()) == wrong
    assert len({(example.target, example.rejected) for example in pairs}) == len(pairs)


def test_a_cot_pair_is_what_sampling_asks_and_got():
    (pair,) = build({"a": "FT"}, {"cot": 1}).examples
    assert pair.prompt == wording.cot(problem("a"), SHORT)
    assert (pair.target, pair.rejected) == (text_of("a", 1, "T"), text_of("a", 0, "F"))
    assert pair.sources == ("a/0/1", "a/0/0")
    assert pair.images == ("a.png",)


def test_places_of_right_candidates_are_balanced():
    pools = {f"p{k}": "TFF" if k % 2 else "TTF" for k in range(60)}
    pairs = build(pools, {"select": 1}, sizes=(3,)).examples
    assert len(pairs) == 60
    patterns = Counter()
    for pair in pairs:
        marks = [pools[pair.problem_id][int(source.split("/")[2])] for source in pair.sources[:3]]
        patterns["".join(marks)] += 1
        assert pair.prompt == wording.select(
            problem(pair.problem_id),
            [
                text_of(pair.problem_id, int(source.split("/")[2]), mark)
                for source, mark in zip(pair.sources[:3], marks, strict=True)
            ],
            SHORT,
        )
    assert patterns == dict.fromkeys(("TFF", "FTF", "FFT", "TTF", "TFT", "FTT"), 10)


@pytest.mark.parametrize(
    ("form", "chosen", "rejected"),
    [
        ("answer", "Answer: (B)", "Answer: (A)"),
        ("reasoning", "T0 of a, fine", "F1 of a, fine"),
        ("rationale", text_of("a", 0, "T"), text_of("a", 1, "F")),
    ],
)
def test_the_targets_of_selections(form, chosen, rejected):
    (pair,) = build({"a": "TF"}, {"select": 1}, sizes=(2,), select_format=form).examples
    assert chosen in pair.target
    assert rejected in pair.rejected
    if form == "reasoning":
        places = [source.endswith("/0") for source in pair.sources[:2]]
        assert f"{places.index(True) + 1}" in pair.target.split("Answer")[0]
        assert f"{places.index(False) + 1}" in pair.rejected.split("Answer")[0]


def test_right_and_wrong_answers_are_spelt_alike():
    """The gold answer's own spelling would tell right from wrong."""
    one = Problem("a", "How long?", "3√2", (), answer_type="expression")
    items = [
        Judged(Candidate("a", 0, k, f"It is {k}.", 9, 30, "stop"), Verdict(status, answer, "test"))
        for k, (status, answer) in enumerate([("correct", "3*sqrt(2)"), ("wrong", "5*sqrt(2)")])
    ]
    (pair,) = build_pairs(
        [one], items, rule="a-orig", prompts=SHORT, seed=1, per_problem={"select": 1}, sizes=(2,)
    ).examples
    assert (pair.target, pair.rejected) == ("Answer: (3*sqrt(2))", "Answer: (5*sqrt(2))")


def test_bare_answers_are_in_no_selection_with_a_rationale():
    counts = {
        form: build({"a": "BF"}, {"select": 1}, sizes=(2,), select_format=form) for form in ("answer", "rationale")
    }
    assert (counts["answer"].paired["select"], counts["rationale"].paired["select"]) == (1, 0)
    assert counts["rationale"].dropped == {"select:no_right": 1}


def test_the_longest_prompt_is_reported_for_the_rationale_form():
    limit = ShowLimit(texts=3)
    result = build({"a": "TFF", "b": "TTF"}, sizes=(3,), select_format="rationale", limit=limit)
    shown = [text_of("a", k, mark) for k, mark in enumerate("TFF")]
    assert result.select_characters == wording.shown_characters(shown, limit)
    assert build({"a": "TFF"}).select_characters is None


def test_the_order_of_the_input_does_not_matter_and_the_seed_does():
    items = [item for name in "abcdef" for item in judged(name, "TTFFTF")]
    problems = [problem(name) for name in "abcdef"]
    settings = {"rule": "a-orig", "prompts": SHORT, "per_problem": BOTH}
    first = build_pairs(problems, items, seed=1, **settings).examples
    assert build_pairs(problems[::-1], items[::-1], seed=1, **settings).examples == first
    assert build_pairs(problems, items, seed=2, **settings).examples != first


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rule": "b"}, "unknown rule"),
        ({"per_problem": {"refine": 1}}, "1 pairs of kind 'refine'"),
        ({"per_problem": {"cot": -1}}, "-1 pairs of kind 'cot'"),
        ({"sizes": (1, 2)}, r"sizes \[1, 2\]"),
        ({"sizes": ()}, r"sizes \[\]"),
    ],
)
def test_what_cannot_be_built(more, message):
    with pytest.raises(DataError, match=message):
        build({"a": "TF"}, **more)


def test_a_candidate_of_no_problem():
    with pytest.raises(DataError, match="belongs to none"):
        build_pairs([problem("a")], judged("b", "TF"), rule="a-orig", prompts=SHORT, seed=1, per_problem=BOTH)


# --- on disk --------------------------------------------------------------------------------------------------------


PAIR = Example("e", "cot", "p", "How large is B?", "Answer: (B)", ("a.png",), (), (), "Answer: (A)")


def test_a_pair_survives_json_and_other_rows_keep_their_bytes():
    assert example_from_json(to_json(PAIR)) == PAIR
    assert "rejected" not in to_json(Example("e", "cot", "p", "q", "t", ()))


def test_a_ranking_data_set(tmp_path):
    assert write_dataset(tmp_path, "train", [PAIR], lambda image: tmp_path / image) == {"written": 1}
    info = read_json(tmp_path / "dataset_info.json", "")["train"]
    assert info["ranking"] is True
    assert info["columns"] == {"messages": "messages", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    (row,) = read_jsonl(tmp_path / "train.jsonl")
    assert [message["role"] for message in row["messages"]] == ["user"]
    assert row["chosen"] == {"role": "assistant", "content": "Answer: (B)"}
    assert row["rejected"] == {"role": "assistant", "content": "Answer: (A)"}
    assert row["images"] == [str(tmp_path / "a.png")]


def test_pairs_stand_alone(tmp_path):
    with pytest.raises(DataError, match="cannot be trained on together"):
        write_dataset(tmp_path, "train", [PAIR, Example("f", "cot", "p", "q", "t", ())], lambda image: tmp_path / image)
    with pytest.raises(DataError, match="open turns"):
        to_row(PAIR, lambda image: tmp_path / image, open_turns=True)


@pytest.mark.parametrize(("rejected", "reason"), [(" ", "empty_rejected"), ("<image>", "mark_in_rejected")])
def test_a_rejected_text_that_cannot_be_trained_on(rejected, reason):
    assert rejection_reason(Example("e", "cot", "p", "q", "t", (), (), (), rejected)) == reason
