"""A bank with a scripted engine behind it, and judged attempts made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st

from data_process import prompts as wording
from data_process.schema import Problem
from selftrain.engines.base import Completion, Request, SamplingParams
from selftrain.engines.scripted import ScriptedEngine
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Sampler
from selftrain.test_time.records import Attempt, Rating, attempt
from selftrain.test_time.strategy_config import Rate, StrategyConfig
from selftrain.test_time.tokens import NOTHING, TokenCost

PROMPTS = wording.SHORT
SAMPLING = SamplingParams(temperature=0.9, max_tokens=60, top_p=0.95, top_k=50)
SELECTING = SamplingParams(temperature=0.0, max_tokens=20)
PROBLEM = Problem("q", "How large is x?", "B", ("10", "20", "30", "40"))
NUMBER = Problem("n", "How much is it?", "1/3", answer_type="number")


def plan(n: int = 3, **changes: object) -> StrategyConfig:
    return StrategyConfig(**{"prompts": PROMPTS, "sampling": SAMPLING, "selecting": SELECTING, "n": n, **changes})


def problems(count: int, gold: str = "B") -> list[Problem]:
    return [Problem(f"p{i}", f"Question number {i}?", gold, ("10", "20", "30", "40")) for i in range(count)]


def says(answer: str | None, words: int = 0) -> str:
    """A text with `words` words before the answer; None is a text without one."""
    lead = "so " * words
    return f"{lead}Nothing follows here." if answer is None else f"{lead}it is so.\nAnswer: ({answer})"


def made(answer: str | None, problem: Problem = PROBLEM, logprob: float = -0.5, tokens: int = 5) -> Attempt:
    """An attempt with this answer."""
    text = f"Answer: {answer}" if answer is not None else "Nothing follows."
    return attempt(Completion(text, tuple(range(tokens)), 7, "stop", logprob), problem)


def rating(score: Callable[[Problem, Completion], float], cost: TokenCost = NOTHING) -> Rate:
    """A reward model that gives this score, for so many tokens a response."""
    return lambda items: [Rating(score(problem, completion), cost=cost) for problem, completion in items]


attempts = st.lists(
    st.builds(made, st.sampled_from(["A", "B", "C", None]), logprob=st.sampled_from([-0.1, -0.5, -0.5, -2.0])),
    min_size=1,
    max_size=7,
)


@contextmanager
def sampler(
    folder: Path, respond: Callable[[Request, int], str], *, weights: str = "w", unit_rows: int = 64
) -> Iterator[Sampler]:
    """A sampler; `.engine` is the scripted engine behind it."""
    engine = ScriptedEngine(respond)
    with (
        Bank(folder / "bank.sqlite") as bank,
        Sampler(
            bank=bank,
            open_engine=lambda: engine,
            engine_name="scripted",
            weights=weights,
            picture=lambda name: pytest.fail("no pictures here"),
            seed=0,
            unit_rows=unit_rows,
        ) as held,
    ):
        yield held


def predictions(prompt: str) -> list[str]:
    """The texts that a selector's prompt shows, in order."""
    shown = prompt.partition("Think step by step.\nPrediction 1: ")[2].rpartition("\nWhich prediction is correct")[0]
    parts, number = [], 2
    while shown:
        head, mark, tail = shown.partition(f"\nPrediction {number}: ")
        parts.append(head)
        shown, number = (tail, number + 1) if mark else ("", number)
    return parts


def is_selection(prompt: str) -> bool:
    return "\nWhich prediction is correct" in prompt
