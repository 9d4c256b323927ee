"""What is particular to the scripted engine: tables, failures on order, and the responder that knows the answers."""

from __future__ import annotations

import dataclasses

import pytest

from data_process import prompts
from data_process.judging import judge
from data_process.schema import Problem
from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.budget import Budget
from selftrain.engines.scripted import GoldNoise, ScriptedEngine

SAMPLE = SamplingParams(temperature=1.0, max_tokens=50)
TRIANGLE = Problem("t1", "What is x?", "B", ("10", "20", "30"), answer_type="choice")
SUM = Problem("n1", "How much is it?", "7", answer_type="number")


def cot(problem: Problem, seeds=(0,)) -> Request:
    return Request(problem.id, prompts.cot(problem, prompts.R3V), (), tuple(seeds))


@pytest.mark.parametrize(
    ("text", "max_tokens", "expected", "n", "finish"),
    [
        ("a b c", 3, "a b c", 3, "stop"),
        ("a b  c", 2, "a b", 2, "length"),
        ("", 2, "", 1, "stop"),
    ],
)
def test_words_are_tokens(text, max_tokens, expected, n, finish):
    [[c]] = ScriptedEngine({"q": [text]}).generate([Request("q", "p", (), (1,))], SamplingParams(1.0, max_tokens))
    assert (c.text, len(c.token_ids), c.finish) == (expected, n, finish)


FIRST = "<think>I see 5. 5+4=9.</think>\nAnswer: (A)"
SECOND = "It is 8. Really.</think>\nAnswer: (B)"
THINK = Budget(end="</think>", ignore=(" Wait,",), answer_cue="\nAnswer: (", answer_tokens=4, max_tokens=20)


@pytest.mark.parametrize(
    ("change", "seed", "text", "closed_by", "ignores"),
    [
        ({}, 0, FIRST, "model", 0),
        ({"num_ignore": 1}, 0, "<think>I see 5. 5+4=9. Wait,It is 8. Really.</think>\nAnswer: (B)", "model", 1),
        ({"max_tokens": 2}, 0, "<think>I see</think>\nAnswer: (A)", "budget", 0),
        ({"max_tokens": 2, "answers": ("C)", "D)")}, 0, "<think>I see</think>\nAnswer: (", "budget", 0),
        ({"max_tokens": 2, "answer_cue": "\nSo:"}, 0, "<think>I see</think>\nSo:\nAnswer: (A)", "budget", 0),
        ({}, 2, "no end", "end_of_turn", 0),
        ({"end_of_turn": "close"}, 2, "no end</think>\nAnswer: (", "end_of_turn", 0),
        ({"num_ignore": 1}, 2, "no end Wait,<think>I see 5. 5+4=9.</think>\nAnswer: (A)", "model", 1),
    ],
)
def test_thinking_by_script(change, seed, text, closed_by, ignores):
    params = dataclasses.replace(SAMPLE, budget=dataclasses.replace(THINK, **change))
    engine = ScriptedEngine({"q": [FIRST, SECOND, "no end"]})
    [[c]] = engine.generate([Request("q", "p", (), (seed,))], params)
    assert c.text.startswith(text) if "answers" in change else c.text == text
    assert engine.words.decode(c.token_ids) == c.text
    assert (c.forcing.closed_by, c.forcing.ignores, c.finish) == (closed_by, ignores, "stop")
    assert c.forcing.thinking_tokens <= params.budget.max_tokens
    if "answers" in change:
        assert c.text.endswith(("C)", "D)"))


def test_table_by_id_or_prompt():
    engine = ScriptedEngine({"q": ["zero", "one"], "What?": ["by prompt"]})
    got = engine.generate([Request("q", "-", (), (0, 1, 2)), Request("r", "What?", (), (9,))], SAMPLE)
    assert [[c.text for c in of_one] for of_one in got] == [["zero", "one", "zero"], ["by prompt"]]
    with pytest.raises(EngineError, match="'s'"):
        engine.generate([Request("s", "?", (), (0,))], SAMPLE)
    assert [len(call.requests) for call in engine.calls] == [2, 1]


def test_fails_once_at_the_kth_request():
    engine = ScriptedEngine(lambda r, s: "fine", fail_at=3)
    pair = [Request("a", "", (), (0,)), Request("b", "", (), (0,))]
    assert len(engine.generate(pair, SAMPLE)) == 2
    with pytest.raises(EngineError, match="'a'"):
        engine.generate(pair, SAMPLE)
    assert len(engine.generate(pair, SAMPLE)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("problem", [TRIANGLE, SUM])
@pytest.mark.parametrize("kind", ["cot", "qa", "refine", "select"])
def test_gold_noise_rates(problem, kind):
    prompt = {
        "cot": prompts.cot(problem, prompts.R3V),
        "qa": prompts.qa(problem, prompts.R3V),
        "refine": prompts.refine(problem, "Answer: (A)", prompts.R3V),
        "select": prompts.select(problem, ["Answer: (A)", "Answer: (C)"], prompts.R3V),
    }[kind]
    engine = ScriptedEngine(GoldNoise([TRIANGLE, SUM], prompts.R3V, accuracy=0.5, abstain_rate=0.2))
    [found] = engine.generate([Request("any", prompt, (), tuple(range(1000)))], SAMPLE)
    share = {s: sum(judge(c.text, problem).status == s for c in found) / 1000 for s in ("correct", "wrong", "abstain")}
    # four standard deviations of a share of 1000 draws
    assert share == pytest.approx({"correct": 0.5, "wrong": 0.3, "abstain": 0.2}, abs=0.065)


def test_gold_noise_follows_the_weights():
    def correct(weights):
        responder = GoldNoise([TRIANGLE], prompts.R3V, {"base": 0.2, "iter1": 0.9}, weights=weights)
        [found] = ScriptedEngine(responder).generate([cot(TRIANGLE, range(200))], SAMPLE)
        return sum(judge(c.text, TRIANGLE).correct for c in found)

    assert correct("base") < 70 < 150 < correct("iter1")


def test_gold_noise_tells_equal_questions_apart_by_id():
    twin = dataclasses.replace(TRIANGLE, id="t12", answer="C")
    know = GoldNoise([TRIANGLE, twin], prompts.R3V, accuracy=1)
    assert know.find(dataclasses.replace(cot(twin), id="t12/0")) == twin
    assert know.find(dataclasses.replace(cot(twin), id="t1/0")) == TRIANGLE
    for id_, prompt, why in (("q", cot(twin).prompt, "several"), ("t1", "Quite another question?", "no known")):
        with pytest.raises(EngineError, match=why):
            know.find(Request(id_, prompt, (), ()))


def test_gold_noise_refuses_impossible_rates():
    with pytest.raises(ValueError, match="probabilities"):
        GoldNoise([TRIANGLE], prompts.R3V, accuracy=0.9, abstain_rate=0.2)
