"""What candidates say about the weights that wrote them."""

from __future__ import annotations

import pytest

from data_process.behaviours import behaviours
from data_process.judging import judge
from data_process.schema import Candidate, Judged, Problem
from data_process.sources import minigeo
from selftrain.runs.dynamics import PassRate, Tally, measure, normalized, pass_rates, rows_by_iteration

PROBLEMS = [Problem(id=name, question="?", answer="A", choices=("1", "2")) for name in "pqrs"]


def judged(problem_id: str, sample: int, text: str) -> Judged:
    problem = next(one for one in PROBLEMS if one.id == problem_id)
    candidate = Candidate(problem_id, 0, sample, text, n_tokens=10 * (sample + 1), n_prompt_tokens=5, finish="stop")
    return Judged(candidate, judge(text, problem))


def tally(**texts: list[str]) -> Tally:
    return measure((judged(i, k, text) for i, each in texts.items() for k, text in enumerate(each)), PROBLEMS)


RIGHT, WRONG = "Answer: (A)", "Answer: (B)"


def test_solved_forgotten_and_never_solved():
    first = tally(p=[RIGHT, WRONG], q=[WRONG, WRONG], r=[RIGHT, RIGHT]).rates()
    assert first == [
        PassRate(id="p", n=2, correct=1),
        PassRate(id="q", n=2, correct=0),
        PassRate(id="r", n=2, correct=2),
    ]
    second = tally(p=[WRONG, WRONG], q=[WRONG, RIGHT]).rates()  # r is not sampled
    third = tally(p=[WRONG], r=[WRONG], s=[WRONG]).dynamics([first, second], {"1": 3})
    assert (third.problems, third.solved, third.newly_solved) == (3, 0, 0)
    assert third.forgotten == 1  # r, solved when it was last sampled; p was forgotten the iteration before
    assert third.never_solved == 1  # s
    found = tally(p=[WRONG, WRONG], q=[WRONG, RIGHT]).dynamics([first], {})
    assert (found.solved, found.newly_solved, found.forgotten, found.never_solved) == (1, 1, 1, 0)
    again = tally(p=[RIGHT], q=[RIGHT]).dynamics([first], {})
    assert (again.solved, again.newly_solved, again.forgotten) == (2, 1, 0)  # p was solved before


def test_what_candidates_look_like():
    found = tally(p=[RIGHT, "answer  (a).", "Let me check. " + RIGHT], q=[WRONG]).dynamics([], {"0": 7})
    assert found.distinct == pytest.approx((2 / 3 + 1) / 2)  # case, punctuation and spaces make no difference
    assert found.tokens == (10 + 20 + 30 + 10) / 4
    assert found.behaviours == {"verify": 0.25, "backtrack": 0, "subgoal": 0, "backward": 0}
    assert found.lucky is None  # these problems do not say how they are solved
    assert found.rows_by_iteration == {"0": 7}


def test_lucky_answers_where_the_data_can_tell():
    (problem, _), *_ = minigeo.generate("train", 1)
    steps, labels = problem.meta["steps"], " and ".join(problem.meta["labels"])
    value = problem.meta["value"]
    right = f"<think>I see {labels}. {'. '.join([*steps, f'{value} is ({problem.answer}).'])}</think>\n"
    texts = [f"{right}Answer: ({problem.answer})", f"<think>I see 1.</think>\nAnswer: ({problem.answer})"]
    found = measure(
        (Judged(Candidate(problem.id, 0, k, text, 9, 9, "stop"), judge(text, problem)) for k, text in enumerate(texts)),
        [problem],
    )
    assert found.dynamics([], {}).lucky == 0.5


@pytest.mark.parametrize(
    ("correct", "n", "place"), [(0, 4, 0), (1, 5, 1), (1, 4, 1), (1, 3, 2), (2, 4, 2), (2, 3, 3), (9, 10, 4), (3, 3, 5)]
)
def test_classes_of_pass_rates(correct, n, place):
    found = pass_rates([PassRate(id="p", n=n, correct=correct)])
    assert found == tuple(int(k == place) for k in range(6))


def test_rows_by_the_iteration_of_their_newest_candidate():
    rows = [
        {"sources": ["p/0/1"]},
        {"sources": ["p/0/1", "reflect/p/2/0"]},
        {"sources": []},
        {},
        {"sources": ["book/7"]},
        {"sources": ["a/b/2/4", "a/b/0/9"]},
    ]
    assert rows_by_iteration(rows) == {"0": 1, "2": 2, "none": 3}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Let me check this. 3+4=7.", {"verify"}),
        ("Let's double-check.", {"verify"}),
        ("Substituting back, 2*3=6.", {"verify"}),
        ("代入原方程检验。", {"verify"}),
        ("Wait, that is wrong.", {"backtrack"}),
        ("Actually, it is 5.", {"backtrack"}),
        ("I made a mistake. Let me try again.", {"backtrack"}),
        ("不对，重新计算。", {"backtrack"}),
        ("First, find AB. Then, find BC.", {"subgoal"}),
        ("Step 1: find AB.", {"subgoal"}),
        ("首先求AB。", {"subgoal"}),
        ("To find x, we need AB.", {"backward"}),
        ("Working backwards from 12.", {"backward"}),
        ("The waiter waits for the first train.", set()),
        ("80+30=110. 110 is (B).", set()),
        ("A cheque for the actual amount.", set()),
        ("", set()),
    ],
)
def test_wordings_of_behaviours(text, found):
    assert behaviours(text) == found


def test_normalized():
    assert normalized(" The  Answer_is: (B)!\n") == "the answer is b"
