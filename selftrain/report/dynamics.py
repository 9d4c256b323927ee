"""The table of learning dynamics: one row for the candidates of each iteration."""

from __future__ import annotations

from selftrain.report import formatting as fmt
from selftrain.report.formatting import NONE, Columns, number, percent
from selftrain.runs.dynamics import CLASSES, Dynamics
from selftrain.runs.metrics import Metrics

TITLE = "Learning dynamics"
IN_WORDS = ("Iteration", "Problems by pass rate", "Behaviours", "Rows by iteration of their candidates")
NOTE = (
    "Candidates on training problems, written by the weights of the iteration before. Solved: some candidate is "
    "correct. Newly solved: for the first time. Forgotten: solved the last time it was sampled, not now. Distinct: "
    "different rationales per candidate of a problem. Behaviours are found by wordings, in percent of the candidates. "
    "Lucky: share of the correct candidates with a fault in the derivation."
)


def rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    """Header and cells; no rows for a run without dynamics."""
    found = [(row.iteration, row.dynamics) for row in m.iterations if row.dynamics is not None]
    columns: Columns[tuple[int, Dynamics]] = {
        "Iteration": lambda row: str(row[0]),
        "Problems": lambda row: number(row[1].problems),
        "Solved": lambda row: number(row[1].solved),
        "Newly solved": lambda row: number(row[1].newly_solved),
        "Forgotten": lambda row: number(row[1].forgotten),
        "Never solved": lambda row: number(row[1].never_solved),
        "Problems by pass rate": lambda row: ", ".join(
            f"{number(count)} at {name}" for name, count in zip(CLASSES, row[1].pass_rates, strict=True) if count
        ),
        "Distinct": lambda row: percent(row[1].distinct),
        "Tokens": lambda row: f"{row[1].tokens:.0f}",
        "Behaviours": lambda row: ", ".join(f"{name} {percent(share)}" for name, share in row[1].behaviours.items()),
        "Rows by iteration of their candidates": lambda row: (
            ", ".join(f"{number(count)} of {name}" for name, count in row[1].rows_by_iteration.items()) or NONE
        ),
    }
    if any(dynamics.lucky is not None for _, dynamics in found):
        columns = {**columns, "Lucky": lambda row: percent(row[1].lucky)}
    return fmt.tabulate(columns, found)
