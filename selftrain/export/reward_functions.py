"""selftrain's judge as a reward for GRPO trainers.

    TRL      GRPOTrainer(reward_funcs=judge_reward, ...)
    EasyR1   worker.reward.reward_function=reward.py
    verl     reward.custom_reward_function.path=reward.py
             (for the batch reward manager also reward.custom_reward_function.name=compute_scores)

Each row of the data set has a column with the problem as JSON: `ground_truth` for TRL, `answer` for EasyR1, and
`reward_model.ground_truth` for verl. `selftrain export RUN --reward --prompts DIR --trainer NAME` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from data_process.judging import JUDGE_VERSION, judge
from data_process.schema import Problem, Status

REWARD_NAME, REWARD_TYPE = f"selftrain-{JUDGE_VERSION}", "batch"  # for EasyR1
# What each verdict earns. An answer that cannot be read earns nothing, so that no reward is to be had by noise.
REWARDS: dict[Status, float] = {"correct": 1.0, "wrong": 0.0, "abstain": 0.0}
# The trainer's limit of tokens for a completion. A completion that reaches it was truncated, and only an answer that
# was complete before counts. None: unknown. verl does not tell a reward function how long a completion is.
MAX_TOKENS: int | None = None


def judge_reward(
    completions: Sequence[Any],
    ground_truth: Sequence[str],
    completion_ids: Sequence[Sequence[int]] | None = None,
    **columns: Any,
) -> list[float]:
    """A reward for each completion, as TRL's GRPOTrainer asks for them: text, or a list of chat messages."""
    lengths = [None] * len(completions) if completion_ids is None else [len(ids) for ids in completion_ids]
    triples = zip(completions, ground_truth, lengths, strict=True)
    return [REWARDS[verdict_on(_said(text), truth, length)] for text, truth, length in triples]


def main(reward_inputs: Sequence[dict[str, Any]], **kwargs: Any) -> list[dict[str, float]]:
    """EasyR1's batch reward function: a score for each response, and metrics."""
    scores = []
    for given in reward_inputs:
        verdict = verdict_on(given["response"], given["ground_truth"], given.get("response_length"))
        scores.append({"overall": REWARDS[verdict], "accuracy": float(verdict == "correct"), **_abstains(verdict)})
    return scores


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, float]:
    """verl's reward function: the score of one response, and metrics."""
    verdict = verdict_on(solution_str, ground_truth)
    return {"score": REWARDS[verdict], "acc": float(verdict == "correct"), **_abstains(verdict)}


def compute_scores(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[str],
    extra_infos: Sequence[dict[str, Any]] | None = None,
    **kwargs: Any,
) -> list[dict[str, float]]:
    """The same for verl's batch reward manager."""
    rows = zip(data_sources, solution_strs, ground_truths, strict=True)
    return [compute_score(source, text, truth) for source, text, truth in rows]


def verdict_on(text: str, ground_truth: str, n_tokens: int | None = None) -> Status:
    """The judge's verdict on a completion of `n_tokens` tokens to the problem that `ground_truth` holds as JSON."""
    truncated = MAX_TOKENS is not None and n_tokens is not None and n_tokens >= MAX_TOKENS
    return judge(text, _problem(ground_truth), truncated=truncated).status


def _abstains(verdict: Status) -> dict[str, float]:
    return {"abstain": float(verdict == "abstain")}


def _said(completion: Any) -> str:
    """The text of a completion, which is a list of messages where prompts are."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


@lru_cache(maxsize=4096)
def _problem(ground_truth: str) -> Problem:
    try:
        fields = json.loads(ground_truth)
        lists = {name: tuple(fields.get(name, ())) for name in ("choices", "alternatives")}
        return Problem(**{**fields, **lists})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"a ground truth must be a problem as JSON, as `selftrain export --prompts` writes it, not "
            f"{ground_truth!r:.80} ({error})"
        ) from error
