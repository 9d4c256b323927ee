"""What a page holds of one problem in one evaluation: plain values that JSON has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data_process.judging.consistency import contradictions
from data_process.schema import Problem
from selftrain.test_time.records import equal_answers
from selftrain.test_time.results import EvaluatedProblem, JudgedText, StrategyResult
from selftrain.test_time.strategies import STRATEGIES
from selftrain.test_time.variants import variant

Check = Callable[[str, JudgedText], list[str]]  # what a text holds against itself; [] also where nobody looked
VOTE_IS_NOT_SELECT, AGAINST_ITSELF = 1, 2  # bits
LEAST_SAMPLES = 3  # whose agreement says anything


def entry(row: EvaluatedProblem, check: Check) -> dict[str, Any]:
    """Every text with its verdict, and what each strategy made of them."""
    strategies = [[name, round(s.credit, 4), round(s.abstain, 4), [*s.answers]] for name, s in row.strategies.items()]
    return {"strategies": strategies, "texts": [_text(name, text, check) for name, text in row.judged_texts()]}


def _text(name: str, judged: JudgedText, check: Check) -> dict[str, Any]:
    """Without what is empty."""
    v = judged.verdict
    values = {
        "name": name, "status": v.status, "answer": v.extracted, "rule": v.rule, "span": v.span, "note": v.note,
        "text": judged.text, "tokens": judged.tokens, "prompt_tokens": judged.prompt_tokens,
        "truncated": judged.finish == "length", "reward": judged.reward, "against": check(name, judged),
        "budget": judged.budget and judged.budget.to_json(), "prompt": judged.prompt and [*judged.prompt],
        "named": judged.named,
    }  # fmt: skip
    return {key: value for key, value in values.items() if value not in (None, False, [])}


def summary(row: EvaluatedProblem, main: str, shown: dict[str, Any]) -> list[Any]:
    """For the list: a letter for each strategy, the main strategy's answer, flags."""
    result = row.strategies.get(main)
    flags = VOTE_IS_NOT_SELECT if vote_is_not_select(row) else 0
    texts = [text for text in shown["texts"] if text["name"] == main] if main in row.strategies else []
    if any(text.get("against") for text in texts or shown["texts"]):
        flags |= AGAINST_ITSELF
    return ["".join(map(letter, row.strategies.values())), answer(result), flags]


def letter(result: StrategyResult) -> str:
    """`1` is right, `a` unreadable, `0` wrong, `p` a part of the credit."""
    return "1" if result.credit == 1 else "a" if result.abstain == 1 else "p" if result.credit else "0"


def answer(result: StrategyResult | None) -> str:
    """What a strategy answered: "B", "A, C" for a tie, "" for nothing readable."""
    if result is None:
        return ""
    read = (text.verdict.extracted for text in result.texts)
    return ", ".join(result.answers or [one for one in read if one is not None])


def vote_is_not_select(row: EvaluatedProblem) -> bool:
    """Whether a selection among some samples answers otherwise than the majority of as many."""
    votes: dict[tuple[int | None, int], tuple[str, ...]] = {}
    selections: list[tuple[tuple[int | None, int], tuple[str, ...]]] = []
    for name, result in row.strategies.items():
        if (v := variant(name)) is None:
            continue
        if v.strategy == "majority":
            votes[v.n, v.waits] = result.answers
        elif STRATEGIES[v.strategy].family == "select":
            selections.append(((v.n, v.waits), result.answers))
    return any(key in votes and {*votes[key]} != {*answers} for key, answers in selections)


@dataclass
class Checks:
    """Looks for contradictions in what strategies wrote, and not in the samples, until `left` texts were looked at."""

    left: int
    skipped: int = 0

    def of(self, row: EvaluatedProblem, problem: Problem | None) -> Check:
        about = problem or Problem(row.id, row.question, row.gold, row.choices)

        def check(name: str, text: JudgedText) -> list[str]:
            if name.startswith("sample "):
                return []
            if not self.left:
                self.skipped += 1
                return []
            self.left -= 1
            return contradictions(text.text, about, text.verdict)

        return check


def confidence(row: EvaluatedProblem) -> tuple[float, bool] | None:
    """The share of the samples that the leading answer has, and whether it is right; None for fewer than three."""
    verdicts = [sample.verdict for sample in row.samples]
    votes = equal_answers(verdicts)
    counts = Counter(answer for answer in votes if answer is not None)
    if len(verdicts) < LEAST_SAMPLES or not counts:
        return None
    [(leader, n)] = counts.most_common(1)  # of equals the one that was drawn first
    return n / len(votes), verdicts[votes.index(leader)].correct


def main_strategy(row: EvaluatedProblem) -> str:
    """The strategy that lists and filters go by: greedy, or else the first one."""
    return "greedy" if "greedy" in row.strategies else next(iter(row.strategies))
