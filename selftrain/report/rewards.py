"""The table of rewards: how well a reward model agrees with the judge."""

from __future__ import annotations

from selftrain.report import formatting as fmt
from selftrain.report.formatting import NONE, SPLITS, Columns, number, percent
from selftrain.runs.metrics import Iteration, Metrics
from selftrain.test_time.results import Calibration

TITLE = "Rewards against verdicts"
IN_WORDS = ("Split", "Iteration", "Correct by reward")
NOTE = (
    "Rewards of the samples, in [0, 1], against the judge's verdicts. Brier: mean squared difference, 0.25 for a "
    "constant 0.5. AUC: chance that a correct sample has a higher reward than an incorrect one; within problems: than "
    "an incorrect one of the same problem, on which a choice among samples depends. Error: mean distance of reward "
    "and share of correct samples in ten classes of rewards. The last column has the share of correct samples, and "
    "their number, in each class."
)


def measured(m: Metrics) -> list[tuple[str, Calibration]]:
    """The calibrations of the accepted iteration, or of the last one, by a name for a legend."""
    last = m.accepted if m.accepted is not None else m.iterations[-1].iteration
    return [
        (f"{label}, {fmt.weights_name(m, row.iteration)}", split.calibration)
        for name, label in SPLITS.items()
        for row, split in m.splits(name)
        if split.calibration is not None and row.iteration == last
    ]


def rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    """Header and cells; no rows for a run without a reward model."""
    found = [
        (label, row, split.calibration)
        for name, label in SPLITS.items()
        for row, split in m.splits(name)
        if split.calibration is not None
    ]
    within: Columns[tuple[str, Iteration, Calibration]] = {
        "AUC within problems": lambda one: NONE if one[2].auc_within is None else f"{one[2].auc_within:.3f}",
    }
    if all(one[2].auc_within is None for one in found):  # of a run from before it was measured
        within = {}
    columns: Columns[tuple[str, Iteration, Calibration]] = {
        "Split": lambda one: one[0],
        "Iteration": lambda one: fmt.iteration_name(m, one[1].iteration),
        "Samples": lambda one: number(one[2].n),
        "Correct": lambda one: percent(one[2].right),
        "Mean reward": lambda one: percent(one[2].mean),
        "Brier": lambda one: f"{one[2].brier:.3f}",
        "AUC": lambda one: NONE if one[2].auc is None else f"{one[2].auc:.3f}",
        **within,
        "Error": lambda one: percent(one[2].ece),
        "Correct by reward": lambda one: ", ".join(
            f"{bin_.low:.1f}–{bin_.high:.1f}: {percent(bin_.right, 0)} of {number(bin_.n)}" for bin_ in one[2].bins
        ),
    }
    return fmt.tabulate(columns, found)
