"""The page of `selftrain compare`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from selftrain.report.charts import Axis, Curve, Point, chart
from selftrain.report.formatting import SPLITS, number, p_value
from selftrain.report.html_page import Table
from selftrain.report.panels import Section, write_page
from selftrain.report.tables import change
from selftrain.scoring.compare import RunComparison

LOOKS = ((False, "right answer", "greedy", "o"), (True, "every step right", "select", "s"))  # of a curve: honest or not
LISTED = 500  # ids of a cell


def write(comparisons: Sequence[RunComparison], file: Path) -> Path:
    """Write the differences with their intervals, and the problems behind them; returns the path."""
    sections = []
    for (a, b), several in groupby(comparisons, key=lambda c: (c.run_a, c.run_b)):
        found = list(several)
        places = {strategy: k for k, strategy in enumerate(dict.fromkeys(c.strategy for c in found))}
        curves = []
        for honest, name, colour, marker in LOOKS:
            some = [
                Point(places[c.strategy], 100 * c.difference, _points(c.low), _points(c.high))
                for c in found
                if c.honest == honest
            ]
            if some:
                curves.append(Curve(name, some, colour, marker, joined=False, shift=5.0 * honest))
        axis = Axis("Strategies, in the order of the table", low=-0.5, high=len(places) - 0.5, form=lambda k: "")
        drawn = chart("Differences", curves, axis, Axis("Points"), rules=[("equal", 0.0)])
        rows = [
            [_name(c), change(c), p_value(c.p), number(c.n), number(len(c.gained_ids)), number(len(c.lost_ids))]
            for c in found
        ]
        header = ["Strategy", "Difference (points)", "p", "n", "Gained", "Lost"]
        ids = [[_name(c), _ids(c.gained_ids), _ids(c.lost_ids)] for c in found]
        about = Table("Paired on the same problems, with 95% intervals; p is two-sided", header, rows, {0})
        moved = Table("Problems", ["Strategy", "Gained", "Lost"], ids, range(3))
        sections.append(Section(f"{b} minus {a}", [drawn], [about, moved]))
    first = comparisons[0] if comparisons else None
    split = SPLITS[first.split].lower() if first else "the same problems"
    return write_page(file, "Comparison of runs", f"Accepted iterations on {split}", sections)


def _name(c: RunComparison) -> str:
    return f"{c.strategy}, honest" if c.honest else c.strategy


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _ids(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:LISTED]) or "–"
    return shown if len(ids) <= LISTED else f"{shown} and {len(ids) - LISTED:,} more; --json lists all"
