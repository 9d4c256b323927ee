"""Strategies over one set of samples: credits, abstentions and tokens, recounted by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process import prompts as wording
from data_process.io import write_jsonl
from data_process.schema import Problem
from selftrain.config import ConfigError, EvaluationConfig
from selftrain.engines.scripted import ScriptedEngine
from selftrain.files import RunError, write_json
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Sampler
from selftrain.test_time.evaluate import check_strategies, evaluate
from selftrain.test_time.results import EvaluatedProblem, SplitResult, StrategyResult, compare
from selftrain.test_time.tokens import TokenCost
from tests.selftrain.test_time.helpers import rating, sampler

STRATEGIES = ("greedy", "mean", "majority", "select", "pass")
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


def credits(row: EvaluatedProblem) -> dict[str, float]:
    return {name: result.credit for name, result in row.strategies.items()}


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
        assert result.split.strategies[strategy].correct == pytest.approx(credit)
    abstained = {strategy: result.split.strategies[strategy].abstain for strategy in STRATEGIES}
    assert abstained == pytest.approx(
        {
            "greedy": int(greedy == "?"),
            "mean": samples.count("?") / 3,  # in problems, as everywhere
            "majority": int(samples == "???"),
            "select": int(selected == "?"),
            "pass": int(samples == "???"),
        }
    )
    assert {name: one.abstain for name, one in row.strategies.items()} == pytest.approx(abstained)


def test_three_unreadable_outputs_with_gold_d_are_wrong(tmp_path):
    """A published evaluation read the D of "FAILED" as choice D: an unreadable answer earns nothing under any gold."""
    unreadable = ["FAILED", "", "[FAILED] DNF"]
    result = evaluation(tmp_path, [choice(1, gold="D")], ["FAILED"], [unreadable], ["FAILED"])
    assert set(credits(result.rows[0]).values()) == {0.0}
    assert result.rows[0].strategies["majority"] == StrategyResult(credit=0.0, abstain=1.0)
    assert {s.verdict.status for s in result.rows[0].samples} == {"abstain"}
    assert {result.split.strategies[s].accuracy for s in STRATEGIES} == {0.0}


def test_numbers_are_as_near_for_the_vote_as_for_the_judge(tmp_path):
    """0.33333333 is right for 1/3 when it is judged, so it is right when it wins the vote."""
    problem = Problem("n", "How much?", "1/3", answer_type="number")
    near, far = "Answer: 0.33333333", "Answer: 7"
    result = evaluation(tmp_path, [problem], [near], [[near, near, far]], [far])
    assert [s.verdict.status for s in result.rows[0].samples] == ["correct", "correct", "wrong"]
    assert credits(result.rows[0]) == pytest.approx({"greedy": 1, "mean": 2 / 3, "majority": 1, "select": 0, "pass": 1})


marks = st.sampled_from("ABCD?")


@pytest.mark.slow
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
    assert (split.n, split.n_samples) == (len(table), 2)
    assert [row.id for row in result.rows] == [problem.id for problem in problems]
    per_row = [credits(row) for row in result.rows]
    for strategy, score in split.strategies.items():
        assert score.correct == pytest.approx(sum(row[strategy] for row in per_row))
        assert score.accuracy == pytest.approx(score.correct / len(table))
        assert 0 <= score.low <= score.accuracy <= score.high <= 1
    scores = {name: score.correct for name, score in split.strategies.items()}
    assert scores["mean"] <= scores["pass"] + 1e-9
    assert scores["majority"] <= scores["pass"] + 1e-9
    # Right, wrong and unreadable are all there is.
    verdicts = [s.verdict for row in result.rows for s in row.samples]
    assert sum(v.status == "abstain" for v in verdicts) == pytest.approx(2 * split.strategies["mean"].abstain)
    assert sum(v.status == "correct" for v in verdicts) == pytest.approx(2 * scores["mean"])
    assert all((v.extracted is None) == (v.status == "abstain") for v in verdicts)
    # A comparison joins by id: the order of the rows says nothing.
    shuffled = list(result.rows)
    shuffle.shuffle(shuffled)
    for strategy in STRATEGIES:
        same = compare(result.rows, shuffled, "dev", strategy, 0)
        assert (same.difference, same.n) == (0, len(table))


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
    spent = {name: score.tokens_per_problem.to_json() for name, score in result.split.strategies.items()}
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


def test_truncated_completions_are_counted(tmp_path):
    """Among all completions that a strategy pays for."""
    result = evaluation(tmp_path, [choice(1)], [CUT], [[CUT, CUT, says("B")]], [says("B")], max_tokens=50)
    counts = {name: (score.truncated, score.completions) for name, score in result.split.strategies.items()}
    assert counts.pop("mean") == pytest.approx((2 / 3, 1))
    assert counts == {"greedy": (1, 1), "majority": (2, 3), "select": (2, 4), "pass": (2, 3)}
    [greedy] = result.rows[0].strategies["greedy"].texts
    assert (greedy.finish, greedy.tokens) == ("length", 50)


def test_a_selector_is_not_asked_about_a_single_sample(tmp_path):
    result = evaluation(tmp_path, [choice(1)], [says("A")], [[says("B")]], ["never asked"], n=1)
    select, mean = (result.rows[0].strategies[name] for name in ("select", "mean"))
    assert (select.credit, select.answers, select.texts) == (1.0, ("B",), ())
    assert select.credit == mean.credit
    assert result.split.strategies["select"].completions == 1


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        (("greedy", "elect"), "no strategy 'elect'; known: greedy"),
        (("greedy", "best_reward"), "needs a reward; set reward.model"),
        (("greedy", "reward_pass"), "needs a reward; set reward.model to a folder that `selftrain reward` made$"),
        (("greedy", "reject"), "needs a rejection limit"),
        (("greedy", "recursive"), "needs a context limit"),
    ],
)
def test_strategies_that_the_loop_cannot_run(strategies, message):
    with pytest.raises(ConfigError, match=message):
        check_strategies(EvaluationConfig(strategies=strategies), [choice(1)], PROMPTS)


def test_a_reward_model_rates_all_samples_together_and_is_calibrated(tmp_path):
    """After all that needs the sampling model; rewards lie with the samples, and what they are worth with the totals.

    The reward likes B in the first problem and A in the second, and B is right.
    """
    calls = []

    def rate(items):
        calls.append([problem.id for problem, _ in items])
        liked = {"p1": "(B)", "p2": "(A)"}
        return rating(lambda p, c: 0.75 if liked[p.id] in c.text else 0.25, TokenCost(2, 30, 2))(items)

    names = ("best_reward", "greedy", "vote_reward", "reward_pass@3/1", "reward_pass@3/3", "best_reward@2", "majority")
    config = EvaluationConfig(n=3, strategies=names)
    problems = [choice(1), choice(2)]
    with sampler(tmp_path, lambda request, seed: says("ABB"[seed % 3])) as held:
        check_strategies(config, problems, PROMPTS, rate=rate)
        result = evaluate(problems, held, config, PROMPTS, 0, rate=rate)
    assert calls == [["p1"] * 3 + ["p2"] * 3]
    assert [*result.split.strategies] == list(names)
    first, second = result.rows
    letters = [[s.verdict.extracted for s in row.samples] for row in result.rows]
    assert [[s.reward for s in row.samples] for row in result.rows] == [
        [0.75 if letter == liked else 0.25 for letter in of_one] for of_one, liked in zip(letters, "BA", strict=True)
    ]
    assert credits(first)["best_reward"] == credits(first)["reward_pass@3/1"] == float("B" in letters[0])
    assert credits(second)["best_reward"] == float("A" not in letters[1])
    assert credits(second)["reward_pass@3/3"] == float("B" in letters[1])
    costs = {name: s.tokens_per_problem for name, s in result.split.strategies.items()}
    assert costs["best_reward"].prompt == costs["majority"].prompt + 90
    assert costs["best_reward@2"].generated == pytest.approx(costs["majority"].generated * 2 / 3 + 4)
    found = result.split.calibration
    assert found is not None
    right = sum(letter == "B" for of_one in letters for letter in of_one)
    assert (found.n, found.right) == (6, right / 6)
    again = SplitResult.from_json(json.loads(json.dumps(result.split.to_json())), "split.json")
    assert again == result.split
    assert EvaluatedProblem.from_json(json.loads(json.dumps(first.to_json())), "rows") == first


def test_without_a_reward_model_records_are_as_before(tmp_path):
    result = evaluation(tmp_path, [choice(1)], [says("A")], [[says("B")] * 3], [says("B")])
    assert "calibration" not in result.split.to_json()
    assert all("reward" not in sample for sample in result.rows[0].to_json()["samples"])


@pytest.mark.parametrize("strategies", [(), ("mean",), ("greedy", "greedy")])
def test_greedy_is_always_measured(strategies):
    with pytest.raises(ValueError, match="greedy among them"):
        EvaluationConfig(strategies=strategies)


def test_records_come_back_from_their_files(tmp_path):
    """What is written is read into the same records, and a fault in a file is named."""
    result = evaluation(tmp_path, [choice(1), choice(2)], ["?", says("B")], [["?", says("B"), "x"]] * 2, ["?"] * 2)
    write_jsonl(tmp_path / "rows.jsonl", (row.to_json() for row in result.rows))
    write_json(tmp_path / "split.json", result.split)
    assert EvaluatedProblem.read_rows(tmp_path / "rows.jsonl") == result.rows
    assert SplitResult.read(tmp_path / "split.json") == result.split
    spoilt = [row.to_json() for row in result.rows]
    del spoilt[1]["strategies"]["greedy"]["credit"]
    spoilt[1]["samples"][2]["finish"] = "cut"
    write_jsonl(tmp_path / "rows.jsonl", spoilt)
    faults = (
        r"rows.jsonl, line 2: samples\[2\].finish is wrong .*, strategies.greedy.credit is missing; restore the file"
    )
    with pytest.raises(RunError, match=faults):
        EvaluatedProblem.read_rows(tmp_path / "rows.jsonl")


def test_files_of_earlier_versions_are_read(tmp_path):
    """A strategy's text stood under its name, and under "mean" samples were counted, not problems."""
    result = evaluation(tmp_path, [choice(1)], [says("B")], [[says("B"), says("A"), "?"]], [says("A")])
    [row] = result.rows
    text = {name: one.texts[0].to_json() for name, one in row.strategies.items() if one.texts}
    old = {"id": row.id, "gold": row.gold, "iteration": 0, "samples": [s.to_json() for s in row.samples]}
    old |= {"greedy": text["greedy"], "select": text["select"]}
    old |= {"majority": {"answers": ["A", "B"], "votes": 1, "credit": 0.5}}
    write_jsonl(tmp_path / "rows.jsonl", [old])
    [read] = EvaluatedProblem.read_rows(tmp_path / "rows.jsonl")
    assert {**read.strategies} == {**row.strategies}
    mean = {"accuracy": 0.5, "low": 0.2, "high": 0.8, "n": 4, "correct": 2, "abstain": 6, "truncated": 3}
    write_json(tmp_path / "split.json", {"n": 4, "n_samples": 3, "strategies": {"mean": mean}})
    counted = SplitResult.read(tmp_path / "split.json").strategies["mean"]
    assert (counted.abstain, counted.truncated) == (2, 1)


def test_no_problem_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no problem"):
        evaluation(tmp_path, [], [], [], [])


def rows(iteration: int, **greedy: str):
    credit = {"r": 1.0, "h": 0.5, "w": 0.0}
    return [
        EvaluatedProblem(
            id=identifier,
            gold="A",
            iteration=iteration,
            samples=(),
            strategies={
                "greedy": StrategyResult(credit=float(mark == "r"), abstain=0),
                "majority": StrategyResult(credit=credit[mark], abstain=0),
            },
        )
        for identifier, mark in greedy.items()
    ]


def test_compare_joins_by_id():
    before, after = rows(0, a="r", b="w", c="w", d="r"), rows(2, d="w", c="r", b="r", a="r")
    found = compare(before, after, "dev", "greedy", 0)
    assert found.to_json().items() >= {
        "split": "dev", "strategy": "greedy", "a": 0, "b": 2, "n": 4, "gained": 2, "lost": 1, "difference": 0.25,
    }.items()  # fmt: skip
    fractions = compare(rows(0, a="h", b="w"), rows(1, b="r", a="h"), "dev", "majority", 0)
    assert (fractions.difference, fractions.gained) == (0.5, None)
    assert fractions == compare(rows(0, a="h", b="w"), rows(1, b="r", a="h"), "dev", "majority", 0)
    with pytest.raises(ValueError, match="same problems"):
        compare(before, after[:-1], "dev", "greedy", 0)
