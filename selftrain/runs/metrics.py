"""metrics.json: what the stages of a run left, in one record. It says nothing of the clock: see `timing`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from data_process.judging import JUDGE_VERSION
from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain.config import Config
from selftrain.files import Record, read_json
from selftrain.runs.run_dir import RunDir
from selftrain.test_time.results import (
    Comparison,
    Contrast,
    Count,
    EvaluatedProblem,
    Fraction,
    SplitResult,
    compare_both,
    contrast,
)
from selftrain.test_time.strategies import STRATEGIES
from selftrain.test_time.variants import Variant, strategy_of, variant

EVALUATED = ("dev", "test", "hard")  # splits that a run measures; all but dev are read once


class JudgeCounts(Record):
    """The candidates of one iteration: `judge/counts.json`."""

    sampled_problems: Count | None = None
    candidates: Count | None = None
    correct: Count | None = None
    wrong: Count | None = None
    abstain: Count | None = None
    truncated: Count | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> JudgeCounts:
        parts = [part for part in (self.correct, self.wrong, self.abstain) if part is not None]
        if self.candidates is not None and len(parts) == 3 and sum(parts) != self.candidates:
            raise ValueError(f"correct + wrong + abstain = {sum(parts)}, but there are {self.candidates} candidates")
        return self


class TrainCounts(JudgeCounts):
    """What one iteration was trained on."""

    pool: Mapping[str, Count] = {}  # problems: all_right, mixed, all_wrong, unreadable
    examples: Mapping[str, Count] = {}  # training rows by kind: qa, cot, refine, select
    dropped: Mapping[str, Count] = {}  # reason: how many
    steps: Count | None = None
    train_loss: float | None = None


class Iteration(Record):
    """One iteration; 0 is the base model."""

    iteration: Count
    evaluation: Mapping[str, SplitResult] = Field(alias="eval")  # by split: dev, test
    accepted: bool | None = None  # became the run's result
    train: TrainCounts | None = None  # None for the base model


class RunInfo(Record):
    """Which run it was."""

    name: str
    config_digest: str | None = None
    seed: int | None = None
    model: str | None = None
    recipe: str | None = None
    n_samples: Count | None = None
    chance: Fraction | None = None  # accuracy of guessing; None where some problem has no choices
    judge: str | None = None  # version


class Metrics(Record):
    """A whole run."""

    run: RunInfo
    iterations: tuple[Iteration, ...] = Field(min_length=1)
    accepted: Count | None  # the iteration that dev chose; None when none was chosen yet
    comparisons: tuple[Comparison, ...] = ()
    contrasts: tuple[Contrast, ...] = ()  # between strategies, of the iterations that were measured on test
    stopped: str | None = None  # why the loop ended early

    def to_json(self) -> dict[str, Any]:
        """Without `contrasts` where there are none, as it was before."""
        row = super().to_json()
        return row if self.contrasts else {key: value for key, value in row.items() if key != "contrasts"}

    @field_validator("iterations")
    @classmethod
    def _in_order(cls, iterations: tuple[Iteration, ...]) -> tuple[Iteration, ...]:
        return tuple(sorted(iterations, key=lambda row: row.iteration))

    @model_validator(mode="after")
    def _iterations_are_distinct(self) -> Metrics:
        numbers = [row.iteration for row in self.iterations]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"iterations are listed twice: {numbers}")
        if self.accepted is not None and self.accepted not in numbers:
            raise ValueError(f"accepted is {self.accepted}, but the iterations are {numbers}")
        return self

    def splits(self, name: str) -> Iterator[tuple[Iteration, SplitResult]]:
        """The iterations that were evaluated on "dev" or "test", in order, with what was measured there."""
        for row in self.iterations:
            if name in row.evaluation:
                yield row, row.evaluation[name]


def rows_of(path: Path, iteration: int, split: str) -> list[EvaluatedProblem]:
    """The evaluated problems of one iteration in a run folder; RunError names what is wrong with the file."""
    return EvaluatedProblem.read_rows(path / f"iter{iteration}/{split}/rows.jsonl")


def collect(
    config: Config, folder: RunDir, test: Sequence[Problem], finished: Sequence[int], accepted: int, stopped: str | None
) -> Metrics:
    """The metrics of the `finished` iterations: a pure function of the run folder, without clock readings."""
    recipe = "+".join(kind for kind, weight in config.build.parts.model_dump().items() if weight)
    run = RunInfo(
        name=config.name, config_digest=config.digest(), seed=config.seed, model=str(config.model.path), recipe=recipe,
        n_samples=config.evaluation.n, chance=_chance(test), judge=JUDGE_VERSION,
    )  # fmt: skip
    iterations = tuple(_iteration(folder, k, k == accepted) for k in finished)
    pairs = tuple(comparisons(config, folder, finished, accepted))
    tested = [k for k in finished if folder.done(f"iter{k}/test")] if config.evaluation.test_strategies else []
    return Metrics(
        run=run, iterations=iterations, accepted=accepted, comparisons=pairs, stopped=stopped,
        contrasts=tuple(c for k in tested for c in contrasts(config, rows_of(folder.path, k, "test"))),
    )  # fmt: skip


def _iteration(folder: RunDir, k: int, accepted: bool) -> Iteration:
    path = folder.path / f"iter{k}"
    train = None
    if k:
        judged = JudgeCounts.read(path / "judge/counts.json")
        built, trained = read_json(path / "build/counts.json"), read_json(path / "train/result.json")
        dropped = {**built["dropped"], **trained["dropped"]}
        train = TrainCounts.model_validate({**judged.to_json(), **built, **trained, "dropped": dropped})
    measured = {s: SplitResult.read(path / f"{s}/split.json") for s in EVALUATED if folder.done(f"iter{k}/{s}")}
    return Iteration.model_validate({"iteration": k, "accepted": accepted, "train": train, "eval": measured})


def _chance(problems: Sequence[Problem]) -> float | None:
    if not all(problem.choices for problem in problems):
        return None
    return sum(1 / len(problem.choices) for problem in problems) / len(problems)


def comparisons(config: Config, folder: RunDir, finished: Sequence[int], accepted: int) -> list[Comparison]:
    """On dev each iteration against the one before and the base, greedy; on test the accepted one against the base."""
    pairs = [("dev", a, b) for b in finished if b for a in sorted({0, b - 1})]
    pairs += [(s, 0, accepted) for s in EVALUATED[1:] if accepted and folder.done(f"iter{accepted}/{s}")]
    results = []
    for split, a, b in pairs:
        before, after = (rows_of(folder.path, k, split) for k in (a, b))
        seed = seed_for(config.seed, "bootstrap", split, a, b)
        names = compared(before, after) if split != "dev" else ["greedy"]
        results += [one for strategy in names for one in compare_both(before, after, split, strategy, seed)]
    return results


def contrasts(config: Config, rows: Sequence[EvaluatedProblem]) -> list[Contrast]:
    """What each use of tokens gains over a cheaper one, on test with one iteration's weights."""
    seed = seed_for(config.seed, "bootstrap", "contrasts", rows[0].iteration)
    return [contrast(rows, "test", a, b, seed) for a, b in contrasted([*rows[0].strategies], config.evaluation.n)]


def contrasted(names: Sequence[str], n: int) -> list[tuple[str, str]]:
    """Pairs (cheaper, dearer) of strategies to compare; `n` is the number of samples of a name without one.

    A selection stands against the votes among the same candidates, and against what a second derivation of one answer
    gives without candidates: a greedy answer with one ignore string, or refined once. Ignore strings stand against the
    greedy answer, and votes and selections among forced candidates against the forced greedy answer.
    """
    found = {name: v for name in names if (v := variant(name)) is not None}

    def like(b: Variant, *strategies: str) -> list[str]:
        same = [a for a, v in found.items() if (v.n or n, v.waits) == (b.n or n, b.waits)]
        return [a for a in same if found[a].strategy in strategies]

    pairs = []
    for name, b in found.items():
        family, cheaper = STRATEGIES[b.strategy].family, list[str]()
        if family == "select":
            cheaper += like(b, "majority", "vote_consistent")
            cheaper += [a for a in ("greedy+1", "refine@1") if a in found]
        if b.waits and family in ("vote", "select"):
            cheaper.append(f"greedy+{b.waits}")
        if b.waits and family == "single":
            cheaper.append("greedy")
        pairs += [(a, name) for a in dict.fromkeys(cheaper) if a in found]
    return pairs


def compared(*evaluations: Sequence[EvaluatedProblem]) -> list[str]:
    """The strategies that all evaluations have and that give an answer: no averages over samples, no oracle."""
    first, *others = ([*rows[0].strategies] for rows in evaluations)
    measured = [name for name in first if all(name in other for other in others)]
    return [name for name in measured if (strategy := strategy_of(name)) is None or strategy.answers]
