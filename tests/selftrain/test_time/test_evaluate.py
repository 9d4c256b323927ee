"""Strategies over one set of samples: credits, abstentions and tokens, recounted by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process import prompts as wording
from data_process.schema import Problem
from selftrain.config import EvaluationConfig
from selftrain.engines.scripted import ScriptedEngine
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Sampler
from selftrain.test_time.evaluate import STRATEGIES, compare, credits, evaluate

PROMPTS = wording.SHORT
UNREADABLE = "The figure shows nothing of use."
CUT = " ".join(["word"] * 60)


def evaluation(
    tmp_path, problems: Sequence[Problem], greedy, samples, selected, *, n: int = 3, iteration: int = 0, max_tokens=50
):
    """Evaluate with one scripted text per problem and role; `samples` holds n texts for each problem."""
    texts = {}
    for problem, first, several, choice in zip(problems, greedy, samples, selected, strict=True):
        texts[problem.question] = (first, list(several), choice)
    config = EvaluationConfig(n=n, max_tokens=max_tokens)
    asked: dict[tuple[str, float], int] = {}

    def respond(request, seed):
        question = next(q for q in texts if request.prompt.startswith(q + "\n"))
        first, several, choice = texts[question]
        if request.prompt.endswith("Which prediction is correct?"):
            return choice
        if len(engine.calls[-1].requests[0].seeds) == 1 and engine.calls[-1].params.temperature == 0:
            return first
        turn = asked[question] = asked.get(question, -1) + 1
        return several[turn]

    engine = ScriptedEngine(respond)
    with (
        Bank(tmp_path / "bank.sqlite") as bank,
        Sampler(
            bank=bank,
            open_engine=lambda: engine,
            engine_name="scripted",
            weights=f"w{iteration}",
            picture=lambda name: pytest.fail("no pictures here"),
            seed=0,
            unit_rows=8,
        ) as sampler,
    ):
        return evaluate(problems, sampler, config, PROMPTS, iteration)


def choice(number: int, gold: str = "B") -> Problem:
    return Problem(f"p{number}", f"Question {number}?", gold, ("10", "20", "30", "40"))


def says(letter: str) -> str:
    return f"So it is.\nAnswer: ({letter})"


# gold B: greedy, samples, selected -> credit by strategy
CASES = {
    "all right": ("B", "BBB", "B", (1, 1, 1, 1, 1)),
    "all wrong": ("A", "AAA", "C", (0, 0, 0, 0, 0)),
    "majority right": ("A", "BAB", "A", (0, 2 / 3, 1, 0, 1)),
    "majority wrong": ("B", "ABA", "B", (1, 1 / 3, 0, 1, 1)),
    "three-way tie": ("B", "ABC", "B", (1, 1 / 3, 1 / 3, 1, 1)),
    "tie without gold": ("D", "ACD", "D", (0, 0, 0, 0, 0)),
    "an abstention does not vote": ("?", "B??", "?", (0, 1 / 3, 1, 0, 1)),
    "tie of two": ("?", "BA?", "?", (0, 1 / 3, 1 / 2, 0, 1)),
    "nothing readable": ("?", "???", "?", (0, 0, 0, 0, 0)),
}


def text(mark: str) -> str:
    return UNREADABLE if mark == "?" else says(mark)


@pytest.mark.parametrize("name", CASES)
def test_credits(tmp_path, name):
    greedy, samples, selected, expected = CASES[name]
    result = evaluation(tmp_path, [choice(1)], [text(greedy)], [map(text, samples)], [text(selected)])
    [row] = result.rows
    assert credits(row) == pytest.approx(dict(zip(STRATEGIES, expected, strict=True)))
    for strategy, credit in zip(STRATEGIES, expected, strict=True):
        assert result.split["strategies"][strategy]["correct"] == pytest.approx(credit)
    abstained = {strategy: result.split["strategies"][strategy]["abstain"] for strategy in STRATEGIES}
    assert abstained == {
        "greedy": int(greedy == "?"),
        "mean": samples.count("?"),
        "majority": int(samples == "???"),
        "select": int(selected == "?"),
        "pass": int(samples == "???"),
    }


def test_three_unreadable_outputs_with_gold_d_are_wrong(tmp_path):
    """A published evaluation read the D of "FAILED" as choice D: an unreadable answer earns nothing under any gold."""
    unreadable = ["FAILED", "", "[FAILED] DNF"]
    result = evaluation(tmp_path, [choice(1, gold="D")], ["FAILED"], [unreadable], ["FAILED"])
    assert set(credits(result.rows[0]).values()) == {0.0}
    assert result.rows[0]["majority"] == {"answers": [], "votes": 0, "credit": 0.0}
    assert {s["verdict"]["status"] for s in result.rows[0]["samples"]} == {"abstain"}
    assert {result.split["strategies"][s]["accuracy"] for s in STRATEGIES} == {0.0}


def test_numbers_are_as_near_for_the_vote_as_for_the_judge(tmp_path):
    """0.33333333 is right for 1/3 when it is judged, so it is right when it wins the vote."""
    problem = Problem("n", "How much?", "1/3", answer_type="number")
    near, far = "Answer: 0.33333333", "Answer: 7"
    result = evaluation(tmp_path, [problem], [near], [[near, near, far]], [far])
    assert [s["verdict"]["status"] for s in result.rows[0]["samples"]] == ["correct", "correct", "wrong"]
    assert credits(result.rows[0]) == pytest.approx({"greedy": 1, "mean": 2 / 3, "majority": 1, "select": 0, "pass": 1})


marks = st.sampled_from("ABCD?")


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(st.tuples(marks, st.lists(marks, min_size=2, max_size=2), marks), min_size=1, max_size=8),
    shuffle=st.randoms(use_true_random=False),
)
def test_totals_are_the_sum_of_rows(tmp_path_factory, table, shuffle):
    problems = [choice(i) for i in range(len(table))]
    result = evaluation(
        tmp_path_factory.mktemp("totals"),
        problems,
        [text(g) for g, _, _ in table],
        [[text(s) for s in several] for _, several, _ in table],
        [text(c) for _, _, c in table],
        n=2,
    )
    split = result.split
    assert (split["n"], split["n_samples"]) == (len(table), 2)
    assert [row["id"] for row in result.rows] == [problem.id for problem in problems]
    per_row = [credits(row) for row in result.rows]
    for strategy, score in split["strategies"].items():
        assert score["correct"] == pytest.approx(sum(row[strategy] for row in per_row))
        assert score["accuracy"] == pytest.approx(score["correct"] / len(table))
        assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
    scores = {name: score["correct"] for name, score in split["strategies"].items()}
    assert scores["mean"] <= scores["pass"] + 1e-9
    assert scores["majority"] <= scores["pass"] + 1e-9
    # Right, wrong and unreadable are all there is.
    flat = [s for row in result.rows for s in row["samples"]]
    assert sum(s["verdict"]["status"] == "abstain" for s in flat) == split["strategies"]["mean"]["abstain"]
    assert sum(s["verdict"]["status"] == "correct" for s in flat) == pytest.approx(2 * scores["mean"])
    assert all((s["verdict"]["extracted"] is None) == (s["verdict"]["status"] == "abstain") for s in flat)
    # A comparison joins by id: the order of the rows says nothing.
    shuffled = list(result.rows)
    shuffle.shuffle(shuffled)
    for strategy in STRATEGIES:
        same = compare(result.rows, shuffled, "dev", strategy, 0)
        assert (same["difference"], same["n"]) == (0, len(table))


def test_tokens(tmp_path):
    """A word is a token. Samples' prompt counts once, the selector's own prompt in full, besides the samples."""
    problems = [choice(1), choice(2)]
    result = evaluation(
        tmp_path,
        problems,
        ["one two", "one two three four"],
        [["a", "a b", "a b c"], ["a", "a", "a"]],
        ["x y z", "x"],
    )
    spent = {name: score["tokens_per_problem"] for name, score in result.split["strategies"].items()}
    prompt = len(wording.cot(problems[0], PROMPTS).split())
    selector = [
        len(wording.select(problems[0], ["a", "a b", "a b c"], PROMPTS).split()),
        len(wording.select(problems[1], ["a", "a", "a"], PROMPTS).split()),
    ]
    samples = (6 + 3) / 2
    assert spent == {
        "greedy": {"generated": 3, "prompt": prompt},
        "mean": {"generated": samples / 3, "prompt": prompt},
        "majority": {"generated": samples, "prompt": prompt},
        "select": {"generated": samples + 2, "prompt": prompt + sum(selector) / 2},
        "pass": {"generated": samples, "prompt": prompt},
    }


def test_cut_texts_are_counted(tmp_path):
    result = evaluation(tmp_path, [choice(1)], [CUT], [[CUT, CUT, says("B")]], [says("B")], max_tokens=50)
    truncated = {name: score["truncated"] for name, score in result.split["strategies"].items()}
    assert truncated == {"greedy": 1, "mean": 2, "majority": 0, "select": 0, "pass": 0}
    assert result.rows[0]["greedy"]["finish"] == "length"
    assert result.rows[0]["greedy"]["tokens"] == 50


def test_no_problem_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no problem"):
        evaluation(tmp_path, [], [], [], [])


def rows(iteration: int, **greedy: str):
    return [
        {
            "id": identifier,
            "iteration": iteration,
            "greedy": {"verdict": {"status": "correct" if mark == "r" else "wrong"}},
            "select": {"verdict": {"status": "wrong"}},
            "samples": [{"verdict": {"status": "wrong"}}],
            "majority": {"credit": {"r": 1.0, "h": 0.5, "w": 0.0}[mark]},
        }
        for identifier, mark in greedy.items()
    ]


def test_compare_joins_by_id():
    before, after = rows(0, a="r", b="w", c="w", d="r"), rows(2, d="w", c="r", b="r", a="r")
    found = compare(before, after, "dev", "greedy", 0)
    assert {key: found[key] for key in ("split", "strategy", "a", "b", "n", "gained", "lost", "difference")} == {
        "split": "dev", "strategy": "greedy", "a": 0, "b": 2, "n": 4, "gained": 2, "lost": 1, "difference": 0.25,
    }  # fmt: skip
    fractions = compare(rows(0, a="h", b="w"), rows(1, b="r", a="h"), "dev", "majority", 0)
    assert (fractions["difference"], fractions["gained"]) == (0.5, None)
    assert fractions == compare(rows(0, a="h", b="w"), rows(1, b="r", a="h"), "dev", "majority", 0)
    with pytest.raises(ValueError, match="same problems"):
        compare(before, after[:-1], "dev", "greedy", 0)
