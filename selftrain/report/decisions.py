"""The tables of what dev decided: about each iteration, where an interval does, and about the temperature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from selftrain.report import formatting as fmt
from selftrain.report.formatting import NONE, Columns, number, percent, points
from selftrain.runs.acceptance import Decision
from selftrain.runs.metrics import Metrics
from selftrain.runs.temperature import TemperatureChoice

TITLE = "Decisions on dev"
NOTE = (
    "Greedy accuracy on dev against the iteration that was accepted until then, in points with the paired 95% "
    "interval. Accepted: the interval is above 0. Worse: it is below 0. Equal: it contains 0."
)


def rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    """Header and cells; no rows for a run that accepts the best."""

    def interval(one: Decision) -> str:
        c = one.evidence
        value = points(c.difference)
        return value if c.low is None or c.high is None else fmt.estimate(value, points(c.low), points(c.high))

    last = max(row.iteration for row in m.iterations)
    columns: Columns[Decision] = {
        "Iteration": lambda one: str(one.iteration),
        "Decision": lambda one: "worse, rolled back" if one.rolled_back else one.status,
        "Against": lambda one: fmt.iteration_name(m, one.evidence.a),
        "Difference (points)": interval,
        "The next one goes on from": lambda one: (
            NONE if one.iteration == last else fmt.iteration_name(m, one.goes_on_from)
        ),
    }
    return fmt.tabulate(columns, m.decisions)


TEMPERATURE = "Temperature of samples"
TEMPERATURE_NOTE = (
    "Chosen on dev before the iteration: the temperature at which the strategy is highest, in percent with 95% "
    "intervals. Change: against the temperature in use, paired. Tokens: generated for the choice, those of samples in "
    "the bank included."
)


def temperature_rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    """Header and cells, a column for each temperature; no rows for a run with a fixed one."""
    temperatures = sorted({one.temperature for choice in m.temperatures for one in choice.grid})

    def cell(choice: TemperatureChoice, temperature: float) -> str:
        found = next((one for one in choice.grid if one.temperature == temperature), None)
        return NONE if found is None else fmt.estimate(*map(percent, (found.accuracy, found.low, found.high)))

    def change(choice: TemperatureChoice) -> str:
        if (c := choice.change) is None:
            return NONE
        return fmt.estimate(points(c.difference), points(c.low), points(c.high))

    columns: dict[str, Callable[[TemperatureChoice], str]] = {
        "Iteration": lambda choice: str(choice.iteration),
        "Strategy": lambda choice: fmt.strategy_name(m, choice.maximised),
        "Before": lambda choice: f"{choice.used:g}",
        "Chosen": lambda choice: f"{choice.chosen:g}",
    }
    columns |= {f"At {t:g}": partial(cell, temperature=t) for t in temperatures}
    columns |= {"Change (points)": change, "Tokens": lambda choice: number(round(choice.tokens))}
    return fmt.tabulate(columns, m.temperatures)
