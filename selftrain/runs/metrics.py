"""metrics.json: what the stages of a run left, in one record. It says nothing of the clock: see `timing`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from data_process.io import read_examples
from data_process.judging import JUDGE_VERSION
from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain.config import Config
from selftrain.files import Record, RunError, SparseRecord, read_json
from selftrain.runs.acceptance import Decision, decide
from selftrain.runs.dynamics import Dynamics
from selftrain.runs.readings import Reading, readings_of
from selftrain.runs.run_dir import RunDir, folder_of
from selftrain.runs.temperature import TemperatureChoice, choices_in
from selftrain.test_time.results import (
    Comparison,
    Contrast,
    Count,
    EvaluatedProblem,
    Fraction,
    IterationNumber,
    SplitResult,
    compare_both,
    contrast,
)
from selftrain.test_time.strategies import STRATEGIES
from selftrain.test_time.variants import Variant, strategy_of, variant

EVALUATED = ("dev", "test", "hard")  # splits that a run measures; all but dev at the end alone


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


class Rationalised(Record):
    """Samples that were shown the gold answer: `rationalise/counts.json`. None of them is a candidate."""

    unsolved: Count  # problems without a correct sample by then
    samples: Count
    kept: Count
    dropped: Mapping[str, Count] = {}


class TrainCounts(JudgeCounts, SparseRecord):
    """What one iteration was trained on; a warm-up has no candidates."""

    optional: ClassVar[frozenset[str]] = frozenset({"rationalised"})

    rationalised: Rationalised | None = None  # None: off
    pool: Mapping[str, Count] = {}  # problems: all_right, mixed, all_wrong, unreadable
    examples: Mapping[str, Count] = {}  # training rows by kind: qa, cot, refine, select, outside, rationalised
    dropped: Mapping[str, Count] = {}  # reason: how many
    steps: Count | None = None
    train_loss: float | None = None


class Iteration(SparseRecord):
    """One iteration. The base model is the first: 0, or BASE where a warm-up makes iteration 0."""

    optional: ClassVar[frozenset[str]] = frozenset({"dynamics"})

    iteration: IterationNumber
    evaluation: Mapping[str, SplitResult] = Field(alias="eval")  # by split: dev, test
    accepted: bool | None = None  # became the run's result
    train: TrainCounts | None = None  # None for the base model
    dynamics: Dynamics | None = None  # of the candidates that it was trained on


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
    accepted: IterationNumber | None  # the iteration that dev chose; None when none was chosen yet
    comparisons: tuple[Comparison, ...] = ()
    contrasts: tuple[Contrast, ...] = ()  # between strategies, of the iterations that were measured on test
    decisions: tuple[Decision, ...] = ()  # about each iteration, where an interval on dev makes them
    temperatures: tuple[TemperatureChoice, ...] = ()  # of `sampling.adaptive`
    stopped: str | None = None  # why the loop ended early
    readings: tuple[Reading, ...] = ()  # of the test splits, until the report was written
    untrained: tuple[str, ...] = ()  # ignore strings that a strategy forces, but that no training row holds

    def to_json(self) -> dict[str, Any]:
        """Without fields that are younger than most runs, where there is nothing in them."""
        row = super().to_json()
        younger = ("contrasts", "decisions", "readings", "temperatures", "untrained")
        empty = {key for key in younger if not row[key]}
        return {key: value for key, value in row.items() if key not in empty}

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

    @property
    def base(self) -> int:
        """The number of the base model."""
        return min(0, self.iterations[0].iteration)

    def splits(self, name: str) -> Iterator[tuple[Iteration, SplitResult]]:
        """The iterations that were evaluated on "dev" or "test", in order, with what was measured there."""
        for row in self.iterations:
            if name in row.evaluation:
                yield row, row.evaluation[name]


def rows_of(path: Path, iteration: int, split: str) -> list[EvaluatedProblem]:
    """The evaluated problems of one iteration in a run folder; RunError names what is wrong with the file."""
    folder = path / folder_of(iteration) / split
    rows = EvaluatedProblem.read_rows(folder / "rows.jsonl")
    for row in rows:
        if row.strategies.keys() != rows[0].strategies.keys():
            one, first = (
                f"{problem.id} was answered with {', '.join(problem.strategies)}" for problem in (row, rows[0])
            )
            advice = f"restore the file, or delete {folder} and run the same command again"
            raise RunError(f"{folder / 'rows.jsonl'}: {one}, and {first}; {advice}")
    return rows


def collect(
    config: Config, folder: RunDir, test: Sequence[Problem], finished: Sequence[int], accepted: int, stopped: str | None
) -> Metrics:
    """The metrics of the `finished` iterations: a pure function of the run folder, without clock readings."""
    recipe = "+".join(kind for kind, weight in config.build.parts.model_dump().items() if weight)
    if config.training.method == "dpo":
        dpo = "DPO " + "+".join(kind for kind, n in config.build.pairs.model_dump().items() if n)
        recipe = f"{recipe}, then {dpo}" if config.training.dpo.sft_iterations else dpo
    run = RunInfo(
        name=config.name, config_digest=config.digest(), seed=config.seed, model=str(config.model.path), recipe=recipe,
        n_samples=config.evaluation.n, chance=_chance(test), judge=JUDGE_VERSION,
    )  # fmt: skip
    iterations = tuple(iteration_of(folder, k, k == accepted) for k in finished)
    decisions: list[Decision] = []
    if config.acceptance.rule == "interval":
        decisions = decide({k: rows_of(folder.path, k, "dev") for k in finished}, config.acceptance, config.seed)
    pairs = tuple(comparisons(config, folder, finished, accepted, decisions))
    tested = [k for k in finished if folder.done(f"{folder_of(k)}/test")] if config.evaluation.test_strategies else []
    rows = folder.path / "traces/examples.jsonl"
    outside = "\n".join(row.target for row in read_examples(rows)) if folder.done("traces") else ""
    return Metrics(
        run=run, iterations=iterations, accepted=accepted, comparisons=pairs, stopped=stopped,
        decisions=tuple(decisions), temperatures=choices_in(folder.path),
        contrasts=tuple(c for k in tested for c in contrasts(config, rows_of(folder.path, k, "test"))),
        readings=readings_of(folder.path),
        untrained=tuple(ignore for ignore in untrained_ignores(config) if ignore not in outside),
    )  # fmt: skip


def untrained_ignores(config: Config) -> tuple[str, ...]:
    """Ignore strings that the strategies of a run force, but that none of its own training rows holds."""
    both = (*config.evaluation.strategies, *config.evaluation.test_strategies)
    waits = max((v.waits for name in both if (v := variant(name)) is not None), default=0)
    forced = config.evaluation.budget.budget().ignore[:waits]
    trained = config.rethink.budget.budget().ignore[: config.rethink.max_ignores]
    return tuple(sorted(set(forced) - set(trained if config.build.parts.reflect else ())))


def iteration_of(folder: RunDir, k: int, accepted: bool | None = None) -> Iteration:
    """What the finished stages of one iteration left. `accepted`: None before it is decided."""
    path = folder.path / folder_of(k)
    train = None
    if folder.done(f"{folder_of(k)}/train"):
        judged = JudgeCounts.read(path / "judge/counts.json") if k else JudgeCounts()
        built, trained = read_json(path / "build/counts.json"), read_json(path / "train/result.json")
        dropped = {**built["dropped"], **trained["dropped"]}
        found = {**judged.to_json(), **built, **trained, "dropped": dropped}
        if folder.done(f"{folder_of(k)}/rationalise"):
            found["rationalised"] = read_json(path / "rationalise/counts.json")
        train = TrainCounts.model_validate(found)
    measured = {s: SplitResult.read(path / f"{s}/split.json") for s in EVALUATED if folder.done(f"{folder_of(k)}/{s}")}
    # A folder that was begun before there was this stage may lack it.
    tally = Dynamics.read(path / "dynamics/dynamics.json") if folder.done(f"{folder_of(k)}/dynamics") else None
    values = {"iteration": k, "accepted": accepted, "train": train, "eval": measured, "dynamics": tally}
    return Iteration.model_validate(values)


def _chance(problems: Sequence[Problem]) -> float | None:
    if not all(problem.choices for problem in problems):
        return None
    return sum(1 / len(problem.choices) for problem in problems) / len(problems)


def comparisons(
    config: Config, folder: RunDir, finished: Sequence[int], accepted: int, decisions: Sequence[Decision] = ()
) -> list[Comparison]:
    """Greedy on dev each iteration against the one that it went on from and the base; on test the accepted one against
    the base.
    """
    base = min(finished)
    start = {one.iteration + 1: one.goes_on_from for one in decisions}
    pairs = [("dev", a, b) for b in finished if b > base for a in sorted({base, start.get(b, b - 1)})]
    for split in EVALUATED[1:]:
        # Beside the accepted iteration a warm-up, since what it brought is no self-improvement.
        later = {k for k in {0, accepted} if k > base and folder.done(f"{folder_of(k)}/{split}")}
        pairs += [(split, base, k) for k in sorted(later)]
        pairs += [(split, 0, accepted)] if base < 0 < accepted and {0, accepted} <= later else []
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
    greedy answer, and votes and selections among forced candidates against greedy answers that are forced or refined.
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
            cheaper += [f"greedy+{b.waits}", "greedy+2", "refine@1"]  # one answer, with as many tokens or fewer
        if b.waits and family == "single":
            cheaper.append("greedy")
        pairs += [(a, name) for a in dict.fromkeys(cheaper) if a in found]
    return pairs


def compared(*evaluations: Sequence[EvaluatedProblem]) -> list[str]:
    """The strategies that all evaluations have and that give an answer: no averages over samples, no oracle."""
    first, *others = ([*rows[0].strategies] for rows in evaluations)
    measured = [name for name in first if all(name in other for other in others)]
    return [name for name in measured if (strategy := strategy_of(name)) is None or strategy.answers]
