"""Selections with a rationale: natural draws, whole right derivations as targets, and what the prompt shows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process import prompts as wording
from data_process.building.mixture import KINDS, build
from data_process.building.rationale import SetSizes, build_rationale_select
from data_process.building.second_thoughts import NONE, SecondThoughts, Selection, cut_trace
from data_process.judging import judge
from data_process.prompts import R3V, SHORT, ShowLimit
from data_process.schema import Candidate, DataError, Judged, Problem, Verdict

ANSWERS = {"choice": ("B", ("30", "40", "45")), "number": ("40", ()), "text": ("north", ())}


def problem(name: str, kind: str = "choice") -> Problem:
    answer, choices = ANSWERS[kind]
    return Problem(name, f"Question {name}?", answer, choices, (f"{name}.png",), answer_type=kind)  # type: ignore[arg-type]


def response(name: str, mark: str, answer: str, k: int | str) -> str:
    if mark == "D":  # right, and the same text for every one of them
        return f"<think>the usual way, {name}</think>\nAnswer: {answer}"
    if mark == "A":
        return f"Answer: {answer}"
    said = {"T": answer, "C": answer, "F": "99" if answer.isdigit() else "C" if answer == "B" else "south"}.get(mark)
    return f"<think>way {k} of {name}</think>" + (f"\nAnswer: {said}" if said else "")


def judged(problem: Problem, marks: str) -> list[Judged]:
    """A candidate a mark: T right, D right with a common text, A right but bare, C right but cut, F wrong, ? silent."""
    items = []
    for k, mark in enumerate(marks):
        text = response(problem.id, mark, problem.answer, k)
        candidate = Candidate(problem.id, k // 3, k % 3, text, 9, 30, "length" if mark == "C" else "stop")
        items.append(Judged(candidate, judge(text, problem)))
    return items


def mixture(pools: dict[str, str], kind: str = "choice", thoughts: SecondThoughts = NONE, **more):
    problems = [problem(name, kind) for name in pools]
    items = [item for p in problems for item in judged(p, pools[p.id])]
    sets = SetSizes(more.pop("largest", 5), more.pop("per_problem", 2), more.pop("limit", ShowLimit(texts=5)))
    options = {"rule": "a-orig", "prompts": SHORT, "seed": 1, "select_format": "rationale", **more}
    return build(problems, items, sets=sets, thoughts=thoughts, **options)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    pools=st.dictionaries(st.sampled_from("abcd"), st.text("TDACF?", max_size=9), min_size=1, max_size=4),
    largest=st.integers(2, 6),
    per_problem=st.integers(1, 4),
    texts=st.integers(2, 5),
    kind=st.sampled_from(sorted(ANSWERS)),
)
def test_every_row_derives_the_answer_and_every_slot_is_counted(pools, largest, per_problem, texts, kind):
    limit = ShowLimit(texts=texts)
    result = mixture(pools, kind, largest=largest, per_problem=per_problem, limit=limit)
    result.check()
    candidates = {i.candidate.id: i for name, marks in pools.items() for i in judged(problem(name, kind), marks)}
    for row in result.by_kind["select"]:
        *shown, target = row.sources
        assert 2 <= len(shown) <= largest
        assert len(set(shown)) == len(shown), "a candidate is drawn once"
        assert {source.split("/")[0] for source in row.sources} == {row.problem_id}
        one = problem(row.problem_id, kind)
        assert row.target == candidates[target].candidate.text
        assert judge(row.target, one).correct, "a target states the right answer"
        assert "way" in row.target, "and derives it"
        assert candidates[target].candidate.finish == "stop"
        shown_texts = [candidates[source].candidate.text for source in shown]
        assert row.prompt == wording.select(one, shown_texts, SHORT, "rationale", limit=limit)
        assert row.prompt.count("\nPrediction ") <= texts
    most = Counter(row.problem_id for row in result.by_kind["select"])
    assert max(most.values(), default=0) <= per_problem


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        ("", "no_candidate"),
        ("T", "too_few_candidates"),
        ("FF?", "no_right"),
        ("FFA", "no_right"),  # the only right one is a bare answer
        ("FFC", "no_right"),  # or was cut
    ],
)
def test_why_a_problem_gives_no_row(marks, reason):
    result = mixture({"a": marks})
    assert result.by_kind["select"] == ()
    assert result.dropped[f"select:{reason}"] == 2


def test_right_candidates_are_as_frequent_as_they_were_sampled():
    """40% of 6 candidates are right; sets with none and with nothing else occur, which R3V's own sets exclude."""
    pools = {f"q{k:03}": "".join("TF"[(k * 7 + j * 3) % 5 > 1] for j in range(6)) for k in range(300)}
    rows = mixture(pools, largest=4).by_kind["select"]
    share = [
        pools[r.problem_id][int(s.split("/")[1]) * 3 + int(s.split("/")[2])] == "T"
        for r in rows
        for s in r.sources[:-1]
    ]
    usable = [name for name, marks in pools.items() if "T" in marks]
    natural = sum(pools[name].count("T") for name in usable) / (6 * len(usable))
    assert sum(share) / len(share) == pytest.approx(natural, abs=0.04)
    kinds = Counter()
    for row in rows:
        marks = [pools[row.problem_id][int(s.split("/")[1]) * 3 + int(s.split("/")[2])] for s in row.sources[:-1]]
        kinds["none" if "T" not in marks else "all" if "F" not in marks else "both"] += 1
    assert min(kinds[kind] for kind in ("none", "all", "both")) > 20
    sizes = Counter(len(row.sources) - 1 for row in rows)
    assert set(sizes) == {2, 3, 4}
    assert min(sizes.values()) > 0.8 * max(sizes.values()), "every number of candidates is as frequent"


def test_candidates_are_the_newest_whole_iterations():
    """`largest` 4 of three iterations of three: the two newest, never a part of one."""
    rows = mixture({"a": "FFFTFFTFF"}, largest=4, per_problem=6).by_kind["select"]
    assert {source.split("/")[1] for row in rows for source in row.sources[:-1]} == {"1", "2"}


def test_equal_candidates_stand_once_with_their_number():
    (row,) = mixture({"a": "DDF"}, largest=3, per_problem=1, seed=4).by_kind["select"]
    one = problem("a")
    texts = [item.candidate.text for item in judged(one, "DDF")]
    assert wording.shown_texts(texts, ShowLimit()) == [(0, 2), (2, 1)]
    prompt = wording.select(one, texts, SHORT, "rationale")
    assert prompt == (
        wording.cot(one, SHORT) + "\nPrediction 1 x2: <think>the usual way, a</think>\nAnswer: B"
        "\nPrediction 2: <think>way 2 of a</think>\nAnswer: C\nWhich prediction is correct?"
    )
    assert "Model's Prediction 1 (2 times): <think>" in wording.select(one, texts, R3V, "rationale")
    assert row.target == texts[0]


# (texts, limit, what is shown)
SHOWN = [
    ("aabc", ShowLimit(), [(0, 2), (2, 1), (3, 1)]),
    ("abcb", ShowLimit(texts=2), [(0, 1), (1, 2)]),  # of the equally frequent ones the first stays
    ("abcc", ShowLimit(texts=1), [(2, 2)]),
    ("abc", ShowLimit(texts=0), [(0, 1)]),  # one is always left
    ("abc", ShowLimit(characters=2), [(0, 1), (1, 1)]),
    ("abb", ShowLimit(characters=1), [(1, 2)]),
    ("abc", ShowLimit(characters=0), [(0, 1)]),
    ("", ShowLimit(texts=3), []),
]


@pytest.mark.parametrize(("texts", "limit", "shown"), SHOWN)
def test_what_a_prompt_shows(texts, limit, shown):
    assert wording.shown_texts(list(texts), limit) == shown


@given(st.lists(st.text("ab", max_size=3), max_size=8), st.none() | st.integers(0, 4), st.none() | st.integers(0, 9))
def test_no_prompt_is_longer_than_its_limit(texts, most, characters):
    limit = ShowLimit(most, characters)
    shown = wording.shown_texts(texts, limit)
    kept = [texts[index] for index, _ in shown]
    assert len(set(kept)) == len(kept) <= (max(most, 1) if most is not None else 8)
    assert [index for index, _ in shown] == sorted(index for index, _ in shown)
    assert all(count == texts.count(texts[index]) for index, count in shown)
    assert characters is None or len(kept) <= 1 or sum(map(len, kept)) <= characters
    assert wording.shown_characters(texts, limit) == sum(map(len, kept))
    left_out = [count for text, count in Counter(texts).items() if text not in kept]
    assert max(left_out, default=0) <= min((count for _, count in shown), default=len(texts))


def selection(one: Problem, iteration: int, mark: str, vote_right: bool, shown: tuple[str, ...]) -> Selection:
    text = response(one.id, mark, one.answer, "chosen")
    said = Candidate(one.id, iteration, 0, text, 9, 60, "stop")
    return Selection(Judged(said, judge(text, one)), shown, vote_right)


@pytest.mark.parametrize(
    ("mark", "vote_right", "rows"),
    [("T", False, 1), ("F", True, 1), ("T", True, 0), ("F", False, 0), ("?", True, 1), ("A", False, 1)],
)
def test_choices_that_differ_from_the_vote_come_back(mark, vote_right, rows):
    """A right choice is its own target; after a wrong one, or a bare answer, another right response is."""
    one = problem("a")
    past = selection(one, 0, mark, vote_right, ("a/0/2", "a/0/0"))
    result = mixture({"a": "TFF"}, thoughts=SecondThoughts.of([], [past]), per_problem=1)
    result.check()
    back = [row for row in result.by_kind["select"] if row.id.startswith("select/own/")]
    assert len(back) == rows
    for row in back:
        texts = [item.candidate.text for item in judged(one, "TFF")]
        assert row.prompt == wording.select(one, [texts[2], texts[0]], SHORT, "rationale", limit=ShowLimit(texts=5))
        own = mark == "T"
        assert row.target == (past.judged.candidate.text if own else texts[0])
        assert row.sources == ("a/0/2", "a/0/0", past.id if own else "a/0/0")


def test_in_a_run_with_reflection_no_sample_is_a_target():
    """Not even for a problem that has no second thought."""
    other = problem("b")
    again = f"<think>way 1 of b Wait, way 2 of b</think>\nAnswer: {other.answer}"
    whole = Candidate("b", 0, 0, again, 9, 60, "stop")
    traces = [cut_trace(whole, other, (" Wait,",), 1)]
    result = mixture({"a": "TFF", "b": "TTF"}, thoughts=SecondThoughts.of(traces), per_problem=1)
    result.check()
    rows = [row for kind in ("select", "refine") for row in result.by_kind[kind]]
    assert {row.problem_id for row in rows} == {"b"}
    assert result.dropped["refine:no_second_thought"] == 1
    assert result.dropped["select:no_second_thought"] == 1


def test_a_right_second_thought_is_the_target_of_choosing_and_refining():
    one = problem("a")
    past = selection(one, 0, "T", True, ("a/0/0", "a/0/1"))
    result = mixture({"a": "TFF"}, thoughts=SecondThoughts.of([], [past]))
    assert {row.target for kind in ("select", "refine") for row in result.by_kind[kind]} == {past.judged.candidate.text}
    plain = mixture({"a": "TFF"}).by_kind
    assert {row.target for kind in ("select", "refine") for row in plain[kind]} == {
        judged(one, "TFF")[0].candidate.text
    }


def test_the_longest_prompt_is_on_record():
    """Later prompts are cut to it."""
    result = mixture({"a": "TFF", "b": "TDDF"}, largest=4, per_problem=6)
    longest = 0
    for row in result.by_kind["select"]:
        candidates = {
            i.candidate.id: i.candidate.text
            for i in judged(problem(row.problem_id), {"a": "TFF", "b": "TDDF"}[row.problem_id])
        }
        longest = max(longest, sum(map(len, {candidates[source] for source in row.sources[:-1]})))
    assert result.select_characters == longest > 0
    assert mixture({"a": "TFF"}, select_format="answer").select_characters is None


@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_the_forms_in_the_mixture(kind):
    """The published sets in R3V's form and with reasoning; a letter, a value or words as the answer."""
    for form, start in (("answer", "Answer:\n "), ("reasoning", "Prediction ")):
        rows = mixture({"a": "TTF"}, kind, select_format=form, prompts=R3V).by_kind["select"]
        assert [row.id for row in rows] == ["select/2+1/a"]
        assert rows[0].target.startswith(start)
        assert judge(rows[0].target, problem("a", kind)).correct
        assert ("and why?" in rows[0].prompt) is (form == "reasoning")


def test_old_mixtures_are_as_they_were():
    """Without the new settings a mixture has no new rows, and the published parts do not move."""
    result = mixture({"a": "TTF", "b": "TFF"}, select_format="answer")
    assert result.by_kind["reflect"] == ()
    assert KINDS[:4] == ("qa", "cot", "refine", "select")
    assert not result.slots["reflect"]


def select_data(pools: dict[str, str], **more):
    problems = [problem(name) for name in pools]
    items = [item for p in problems for item in judged(p, pools[p.id])]
    return build_rationale_select(problems, items, prompts=SHORT, seed=1, **more)


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from("abcd"), st.text("TDACF?", max_size=9), min_size=1, max_size=4),
    st.lists(st.integers(2, 6), min_size=1, max_size=4, unique=True),
    st.integers(1, 3),
)
def test_the_rows_of_select_data_add_up(pools, sizes, per_size):
    result = select_data(pools, sizes=sizes, per_size=per_size)
    assert result.slots == len(pools) * len(sizes) * per_size == len(result.examples) + result.dropped.total()
    assert sum(result.by_size.values()) == len(result.examples)
    assert Counter(len(e.sources) - 1 for e in result.examples) == Counter(
        {n: k for n, k in result.by_size.items() if k}
    )
    right = sum(map(sum, result.right_places.values()))
    marks = {i.candidate.id: i.verdict.correct for n, m in pools.items() for i in judged(problem(n), m)}
    assert right == sum(marks[source] for e in result.examples for source in e.sources[:-1])


@pytest.mark.parametrize("more", [{"sizes": [1]}, {"sizes": []}, {"per_size": 0}])
def test_impossible_sizes_are_refused(more):
    with pytest.raises(DataError):
        select_data({"a": "TF"}, **more)


def test_a_target_without_a_response_is_refused():
    with pytest.raises(DataError, match="needs a response as its target"):
        wording.select_target(problem("a"), SHORT, "rationale", reason=" ")


def test_verdicts_of_the_tables_are_the_judges():
    """The marks of this file are what the judge says."""
    status = {m: judged(problem("a", kind), m)[0].verdict for m in "TDACF?" for kind in ("choice",)}
    assert {m: v.status for m, v in status.items()} == {
        "T": "correct", "D": "correct", "A": "correct", "C": "correct", "F": "wrong", "?": "abstain",
    }  # fmt: skip
    assert isinstance(status["T"], Verdict)
