"""The stage that rates right candidates with the reward model, for `build.pool: reward@K`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_process.building.pool import by_reward, first_iteration
from data_process.io import each_record, write_jsonl
from data_process.schema import Candidate, stored_row
from selftrain.config import Config
from selftrain.engines.base import Completion
from selftrain.files import write_json
from selftrain.stages.context import RunContext
from selftrain.stages.sampling import pool, train_problems


def rates(config: Config, iteration: int) -> bool:
    """Whether an iteration's rows are chosen by reward."""
    return by_reward(config.build.pool) and not config.training.prefers(iteration)


def reward_stage(run: RunContext, iteration: int) -> None:
    """The reward of every right candidate in the pool of an iteration. Those of earlier iterations are in the bank."""
    rater = run.rater()
    if not rates(run.config, iteration) or rater is None:
        return
    first = first_iteration(run.config.build.pool, iteration)

    def make(folder: Path) -> None:
        problems = train_problems(run, iteration)
        right = [item.candidate for item in pool(run, iteration, first) if item.verdict.correct]
        with run.progress.stage(f"iteration {iteration}: rewards", "judgements") as rater.on_progress:
            ratings = rater([(problems[c.problem_id], _completion(c)) for c in right])
        rows = [
            {"id": c.id, "reward": rating.score, "steps": list(rating.steps)}
            for c, rating in zip(right, ratings, strict=True)
        ]
        write_jsonl(folder / "rewards.jsonl", rows)
        counts: dict[str, Any] = {
            "candidates": len(rows),
            "steps": sum(len(rating.steps) for rating in ratings),
            "generated_tokens": sum(int(rating.cost.generated) for rating in ratings),
            "prompt_tokens": sum(int(rating.cost.prompt) for rating in ratings),
            "mean": sum(rating.score for rating in ratings) / len(ratings) if ratings else None,
        }
        write_json(folder / "counts.json", counts)

    after = [f"iter{k}/judge" for k in range(first, iteration + 1)]
    run.folder.stage(f"iter{iteration}/reward", make, after=after)


def rewards_of(run: RunContext, iteration: int) -> dict[str, float] | None:
    """Candidate id -> reward, as `reward_stage` left them; None where no policy asks for rewards."""
    if not rates(run.config, iteration):
        return None
    reward = stored_row(lambda row: (str(row["id"]), float(row["reward"])))
    return dict(each_record(run.folder.path / f"iter{iteration}/reward/rewards.jsonl", reward))


def _completion(candidate: Candidate) -> Completion:
    return Completion(candidate.text, (), candidate.n_prompt_tokens, candidate.finish, candidate.mean_logprob)
