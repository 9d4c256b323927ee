"""How long the problems of a data set are, as figures: the pool, and what was chosen of it, on the same axes."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean, median
from typing import TYPE_CHECKING

from selftrain.report.formatting import printable
from selftrain.report.plots import CURVES, FORMATS, GRID, INK, MUTED, PAPER, VARIABLES, render

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 3.5, 2.7  # inches; small, so that the letters stay readable on a telephone
BINS = 32
WIDE = 20  # times the median: from here on the axis is logarithmic
COLORS = (CURVES["pass"][0], CURVES["greedy"][0])


def length_figures(lengths: Mapping[str, Sequence[float]], what: str) -> dict[str, bytes]:
    """An SVG file for each data set that has lengths, by its name. `what`: the label of the axis, with the unit."""
    known = {name: sorted(values) for name, values in lengths.items() if values}
    if not known:
        return {}
    bins, log = _bins([value for values in known.values() for value in values])
    top = max(_shares(values, bins).max() for values in known.values())
    return {
        name: render(
            partial(_figure, name, values, what, bins, log, 100 * top, COLORS[k % len(COLORS)]),
            {"svg": {**FORMATS["svg"], "transparent": True}},
        )["svg"]
        for k, (name, values) in enumerate(known.items())
    }


def inline(name: str, svg: bytes, values: Sequence[float], what: str) -> str:
    """A figure as an element of a page whose colours follow its theme, described for those who cannot see it."""
    content = svg.decode()
    content = content[content.index("<svg") :]
    for colour, variable in VARIABLES.items():
        content = content.replace(colour, variable)
    said = f"{what} of {name}: {len(values):,} problems, mean {mean(values):.0f}, median {median(values):.0f}, "
    label = html.escape(printable(f"{said}longest {max(values):.0f}"))
    return content.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _bins(values: Sequence[float]) -> tuple[np.ndarray, bool]:
    """The edges of the bars, and whether they grow by a factor."""
    import numpy as np

    low, high = min(values), max(values)
    if low > 0 and high > WIDE * median(values):
        return np.geomspace(low, high * 1.001, BINS + 1), True
    whole = all(float(value).is_integer() for value in values)
    step = max((high - low + 1) / BINS, 1.0 if whole else 1e-9)
    step = float(np.ceil(step)) if whole else step  # otherwise bars would hold different numbers of whole lengths
    count = int((high - low) // step) + 1
    return low - (0.5 if whole else 0) + step * np.arange(count + 1), False


def _shares(values: Sequence[float], bins: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.asarray(np.histogram(values, bins)[0] / len(values))


def _figure(
    name: str, values: Sequence[float], what: str, bins: np.ndarray, log: bool, top: float, colour: str
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=PAPER, layout="constrained")
    axes = figure.subplots()
    axes.bar(bins[:-1], 100 * _shares(values, bins), bins[1:] - bins[:-1], align="edge", color=colour, linewidth=0)
    axes.set_ylim(0, top * 1.3)
    axes.set_xlim(bins[0], bins[-1])
    if log:
        axes.set_xscale("log", base=2)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    digits = 0 if max(values) >= 1000 else 1
    places = {"mean": (mean(values), "--"), "median": (median(values), "-")}
    for label, (value, style) in places.items():
        axes.axvline(value, color=INK, linewidth=1, linestyle=style, label=f"{label} {value:,.{digits}f}")
    axes.set_title(f"{name}, n = {len(values):,}", loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(what + (" (log scale)" if log else ""), fontsize=8.5)
    axes.set_ylabel("Problems, %", fontsize=8.5)
    axes.legend(loc="upper right", frameon=False, fontsize=8, labelcolor=INK, borderaxespad=0.1)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=4, labelcolor=MUTED)
    return figure
