"""Test-time strategies over one bank: greedy, mean@N, majority@N, self-select@N, pass@N (oracle), on the same samples.

Every strategy's verdict on every problem is returned beside the totals, so each number can be traced to its samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_process import prompts as wording
from data_process.judging import judge
from data_process.prompts import PromptSet
from data_process.schema import Candidate, Problem, Verdict
from selftrain import stats
from selftrain.config import EvaluationConfig
from selftrain.engines.base import Completion
from selftrain.sampling.engine_factory import sampling_params
from selftrain.sampling.sampler import Ask, Sampler

STRATEGIES = ("greedy", "mean", "majority", "select", "pass")


@dataclass(frozen=True)
class Evaluation:
    """`split` is the totals in the form of metrics.json; `rows` has one JSON-able record per problem."""

    split: dict[str, Any]
    rows: list[dict[str, Any]]


def candidate(problem_id: str, iteration: int, sample: int, completion: Completion) -> Candidate:
    return Candidate(
        problem_id=problem_id,
        iteration=iteration,
        sample=sample,
        text=completion.text,
        n_tokens=len(completion.token_ids),
        n_prompt_tokens=completion.n_prompt_tokens,
        finish=completion.finish,
        mean_logprob=completion.mean_logprob,
    )


def judge_completion(completion: Completion, problem: Problem) -> Verdict:
    return judge(completion.text, problem, truncated=completion.finish == "length")


def evaluate(
    problems: Sequence[Problem], sampler: Sampler, config: EvaluationConfig, prompts: PromptSet, iteration: int
) -> Evaluation:
    """Run every strategy on `problems` with the sampler's weights. Raises ValueError if there is no problem."""
    if not problems:
        raise ValueError("there is no problem to evaluate on")
    n = config.n
    stochastic = sampling_params(config)
    greedy_params = replace(stochastic, temperature=0.0, top_p=1.0, top_k=0)
    asks = [Ask(p.id, wording.cot(p, prompts), p.image) for p in problems]
    greedy = sampler.draw(asks, greedy_params, 1)
    sampled = sampler.draw(asks, stochastic, n)
    select_asks = [Ask(p.id, wording.select(p, [c.text for c in sampled[p.id]], prompts), p.image) for p in problems]
    selected = sampler.draw(select_asks, replace(greedy_params, max_tokens=config.select_max_tokens), 1)

    rows = []
    for problem in problems:
        (first,), samples, (choice,) = greedy[problem.id], sampled[problem.id], selected[problem.id]
        verdicts = [judge_completion(c, problem) for c in samples]
        vote = stats.majority([v.extracted for v in verdicts])
        # The judge says which of the leading answers are right: for numbers it allows a tolerance, a comparison of
        # texts would not.
        right = {v.extracted for v in verdicts if v.correct}
        rows.append(
            {
                "id": problem.id,
                "gold": problem.answer,
                "iteration": iteration,
                "greedy": _record(first, judge_completion(first, problem)),
                "samples": [_record(c, v) for c, v in zip(samples, verdicts, strict=True)],
                "majority": {
                    "answers": list(vote.answers),
                    "votes": vote.votes,
                    "credit": len(right & set(vote.answers)) / len(vote.answers) if vote.answers else 0.0,
                },
                "select": _record(choice, judge_completion(choice, problem)),
            }
        )
    return Evaluation(_totals(rows, n), rows)


def _record(completion: Completion, verdict: Verdict) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tokens": len(completion.token_ids),
        "prompt_tokens": completion.n_prompt_tokens,
        "finish": completion.finish,
        "verdict": asdict(verdict),
    }


def credits(row: Mapping[str, Any]) -> dict[str, float]:
    """Credit in [0, 1] of one problem under each strategy."""
    right = [s["verdict"]["status"] == "correct" for s in row["samples"]]
    return {
        "greedy": float(row["greedy"]["verdict"]["status"] == "correct"),
        "mean": sum(right) / len(right),
        "majority": float(row["majority"]["credit"]),
        "select": float(row["select"]["verdict"]["status"] == "correct"),
        "pass": float(any(right)),
    }


def _totals(rows: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any]:
    total = len(rows)
    per_row = [credits(row) for row in rows]

    def unread(record: Mapping[str, Any]) -> bool:
        return record["verdict"]["status"] == "abstain"

    def cut(record: Mapping[str, Any]) -> bool:
        return record["finish"] == "length"

    def tokens(key: str, records: Sequence[Mapping[str, Any]]) -> int:
        return sum(r[key] for r in records)

    # Prompt tokens of N samples count once: the prompt is prefilled once. The selector's own prompt counts in full.
    sampled = {
        "generated": sum(tokens("tokens", r["samples"]) for r in rows) / total,
        "prompt": sum(r["samples"][0]["prompt_tokens"] for r in rows) / total,
    }
    spent = {
        "greedy": {
            "generated": sum(r["greedy"]["tokens"] for r in rows) / total,
            "prompt": sum(r["greedy"]["prompt_tokens"] for r in rows) / total,
        },
        "mean": {"generated": sampled["generated"] / n, "prompt": sampled["prompt"]},
        "majority": sampled,
        "select": {
            "generated": sampled["generated"] + sum(r["select"]["tokens"] for r in rows) / total,
            "prompt": sampled["prompt"] + sum(r["select"]["prompt_tokens"] for r in rows) / total,
        },
        "pass": sampled,
    }
    abstain = {
        "greedy": sum(unread(r["greedy"]) for r in rows),
        "mean": sum(unread(s) for r in rows for s in r["samples"]),
        "majority": sum(not r["majority"]["answers"] for r in rows),
        "select": sum(unread(r["select"]) for r in rows),
        "pass": sum(all(unread(s) for s in r["samples"]) for r in rows),
    }
    truncated = {
        "greedy": sum(cut(r["greedy"]) for r in rows),
        "mean": sum(cut(s) for r in rows for s in r["samples"]),
        "majority": sum(all(cut(s) for s in r["samples"]) for r in rows),
        "select": sum(cut(r["select"]) for r in rows),
        "pass": sum(all(cut(s) for s in r["samples"]) for r in rows),
    }
    strategies = {}
    for name in STRATEGIES:
        correct = sum(row[name] for row in per_row)
        low, high = stats.wilson(correct, total)
        strategies[name] = {
            "accuracy": correct / total,
            "low": low,
            "high": high,
            "correct": correct,
            "n": total,
            "abstain": abstain[name],
            "truncated": truncated[name],
            "tokens_per_problem": spent[name],
        }
    return {"n": total, "n_samples": n, "strategies": strategies}


def compare(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], split: str, strategy: str, seed: int
) -> dict[str, Any]:
    """Paired comparison of two evaluations of the same problems, joined by id, in the form of metrics.json.

    Whole credits get the exact McNemar test; majority, whose ties give fractions, the paired bootstrap.
    """
    a = {row["id"]: credits(row)[strategy] for row in before}
    b = {row["id"]: credits(row)[strategy] for row in after}
    result: dict[str, Any] = {
        "split": split,
        "strategy": strategy,
        "a": before[0]["iteration"],
        "b": after[0]["iteration"],
        "n": len(a),
    }
    if {*a.values(), *b.values()} <= {0.0, 1.0}:
        test = stats.paired_test({k: v == 1 for k, v in a.items()}, {k: v == 1 for k, v in b.items()})
        return {
            **result,
            "difference": test.difference,
            "low": test.low,
            "high": test.high,
            "p": test.p,
            "gained": test.gained,
            "lost": test.lost,
        }
    difference, low, high, p = stats.paired_bootstrap(a, b, seed)
    return {**result, "difference": difference, "low": low, "high": high, "p": p, "gained": None, "lost": None}
