"""How hot to sample: the temperature of a grid at which dev is solved most often, chosen every few iterations.

M-STaR (arXiv 2412.17451) chooses in this way, by Reward-Pass@2: samples that become too alike stop teaching, and a
higher temperature keeps them apart until their quality falls. Its roll-outs on validation data are not among its costs;
here the tokens of a choice are counted with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_process.seeds import seed_for
from selftrain import stats
from selftrain.files import Record
from selftrain.runs.run_dir import folder_of
from selftrain.test_time.results import (
    Amount,
    Count,
    Difference,
    EvaluatedProblem,
    Fraction,
    IterationNumber,
    SplitResult,
)


class Measured(Record):
    """One temperature of the grid, on dev."""

    temperature: Amount
    accuracy: Fraction  # of the strategy that is maximised
    low: Fraction  # 95% interval over problems
    high: Fraction
    tokens: Amount  # generated, in all; those of samples that the bank had are counted as well


class Change(Record):
    """The chosen temperature minus the one that was in use, paired by problem, with a 95% interval."""

    difference: Difference
    low: Difference
    high: Difference


class TemperatureChoice(Record):
    """`decision.json` of the stage `temperature`."""

    iteration: IterationNumber  # the first that samples with it
    weights: IterationNumber  # the iteration whose weights were measured, which are those that sample
    maximised: str  # name of the strategy: pass@8
    problems: Count
    used: Amount  # temperature until then
    chosen: Amount
    grid: tuple[Measured, ...]
    change: Change | None = None  # None where the temperature in use is not in the grid

    @property
    def tokens(self) -> float:
        return sum(one.tokens for one in self.grid)

    def __str__(self) -> str:
        best = next(one for one in self.grid if one.temperature == self.chosen)
        kept = "stays" if self.chosen == self.used else "becomes"
        return (
            f"temperature {kept} {self.chosen:g}: {self.maximised} on {self.problems} dev problems is "
            f"{100 * best.accuracy:.1f} [{100 * best.low:.1f}, {100 * best.high:.1f}]"
        )


def decision_iteration(iteration: int, every: int) -> int:
    """The iteration at whose start the temperature of `iteration` was chosen: 1, 1 + every, ..."""
    return iteration - (iteration - 1) % every


def choice_of(run: Path, iteration: int, every: int) -> TemperatureChoice:
    """The choice that an iteration of a run samples with."""
    return TemperatureChoice.read(run / folder_of(decision_iteration(iteration, every)) / "temperature/decision.json")


def choices_in(run: Path) -> tuple[TemperatureChoice, ...]:
    """All choices of a run, in order."""
    found = (TemperatureChoice.read(file) for file in run.glob("iter*/temperature/decision.json"))
    return tuple(sorted(found, key=lambda one: one.iteration))


def choose(
    measured: Mapping[float, tuple[SplitResult, Sequence[EvaluatedProblem]]],
    maximised: str,
    used: float,
    iteration: int,
    weights: int,
    seed: int,
) -> TemperatureChoice:
    """The temperature with the highest accuracy; of equals the nearest to the one in use, and of these the lower.

    `measured`: temperature -> what was measured with it, of the strategy `maximised`.
    """
    grid = []
    for temperature, (split, _) in sorted(measured.items()):
        score = split.strategies[maximised]
        tokens = (score.tokens_per_problem.generated or 0.0) * score.n
        grid.append(
            Measured(temperature=temperature, accuracy=score.accuracy, low=score.low, high=score.high, tokens=tokens)
        )
    best = min(grid, key=lambda one: (-one.accuracy, round(abs(one.temperature - used), 9), one.temperature))
    change = None
    if used in measured and best.temperature != used:
        before, after = (
            {row.id: row.strategies[maximised].credit for row in measured[t][1]} for t in (used, best.temperature)
        )
        difference, low, high, _ = stats.paired_bootstrap(before, after, seed_for(seed, "temperature", iteration))
        change = Change(difference=difference, low=low, high=high)
    return TemperatureChoice(
        iteration=iteration, weights=weights, maximised=maximised, problems=len(next(iter(measured.values()))[1]),
        used=used, chosen=best.temperature, grid=tuple(grid), change=change,
    )  # fmt: skip
