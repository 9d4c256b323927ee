"""Accuracy against tokens at the end of a run: one panel each for the base and the accepted model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from selftrain.files import write_whole
from selftrain.report import formatting as fmt
from selftrain.report.plots import CURVES, FORMATS, GRID, INK, MUTED, OTHER_CURVES, PAPER, render
from selftrain.runs.metrics import Metrics
from selftrain.test_time.results import Score
from selftrain.test_time.strategies import STRATEGIES
from selftrain.test_time.variants import Variant, variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.6, 3.9  # inches of one panel
AXES, LETTER = (285.0, 190.0), 4.5  # about the size of its axes and the width of a letter of a label, in points
# Colour and marker of each way to spend tokens, in the order of the legend; the colours of the other figures.
WAYS: dict[str, tuple[str, str]] = {
    "Greedy, with Waits": CURVES["greedy"],
    "Vote": CURVES["majority"],
    "Other votes": (CURVES["majority"][0], "v"),
    "Selection": CURVES["select"],
    "Tournament": (CURVES["select"][0], "P"),
    "Refinement": (OTHER_CURVES[0][0], "X"),
    "Combination": (OTHER_CURVES[1][0], "*"),
}
JOINED = ("Greedy, with Waits", "Vote", "Selection")  # drawn as curves


@dataclass(frozen=True)
class Point:
    """One way to answer, measured."""

    way: str  # a key of WAYS
    label: str  # beside the point: "+1", "@5"
    score: Score

    @property
    def tokens(self) -> float:
        return self.score.tokens_per_problem.total


def points(m: Metrics, scores: Mapping[str, Score]) -> list[Point]:
    """The strategies that answer, cheapest first; averages, oracles and strategies from outside are left out."""
    n = m.run.n_samples
    found = []
    for name, score in scores.items():
        v = variant(name)
        if v is not None and STRATEGIES[v.strategy].answers and (way := _way(v)):
            found.append(Point(way, _label(v, n), score))
    return sorted(found, key=lambda point: point.tokens)


def _way(v: Variant) -> str | None:
    family = STRATEGIES[v.strategy].family
    if family == "single":
        return "Greedy, with Waits"
    if v.waits and family in ("vote", "select"):
        return "Combination"
    if family == "vote":
        return "Vote" if v.strategy == "majority" else "Other votes"
    if family == "select":
        return "Selection" if v.strategy == "select" else "Tournament"
    return "Refinement" if family == "refine" else None


def _label(v: Variant, n: int | None) -> str:
    family = STRATEGIES[v.strategy].family
    waits = f"+{v.waits}" if v.waits else ""
    if family == "single":
        return waits or "greedy"
    if family == "refine":
        return f"×{v.n}" if v.n else "refine"
    kind = {"vote": "vote", "select": "select"}[family] if v.waits else ""
    return f"{kind}@{v.n or n or 'N'}{waits}"


def draw(m: Metrics, folder: Path) -> list[Path]:
    """Write tokens.svg, tokens.pdf and tokens.png into `folder`; nothing where no `extras` were measured."""
    if not fmt.extras(m):
        return []
    drawn = render(partial(_figure, m, shown(m)), FORMATS)
    return [write_whole(folder / f"tokens.{kind}", content) for kind, content in drawn.items()]


def shown(m: Metrics) -> dict[str, Mapping[str, Score]]:
    """The strategies on test of the base and of the accepted model, by the title of their panel."""
    found: dict[str, Mapping[str, Score]] = {}
    for row, split in m.splits("test"):
        if row.iteration in (m.base, m.accepted):
            name = "Base model" if row.iteration == m.base else f"Iteration {row.iteration}, accepted"
            found[f"{name}, test, n = {split.n}"] = split.strategies
    return found


def _figure(m: Metrics, panels: Mapping[str, Mapping[str, Score]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * len(panels), HEIGHT), facecolor=PAPER, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    everything = [points(m, scores) for scores in shown(m).values()]  # both models on the same axes, also when apart
    low, high, least, most = limits_of([point for several in everything for point in several])
    for one, (title, scores) in zip(axes, panels.items(), strict=True):
        one.set_ylim(low, high)
        one.set_xlim(least, most)
        one.set_title(title, loc="left", fontsize=10, fontweight="bold")
        _panel(one, points(m, scores))
    axes[0].set_ylabel("Accuracy, %", fontsize=8.5)
    used = [way for way in WAYS if any(point.way == way for several in everything for point in several)]
    handles = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    order = [way for way in used if way in handles]
    figure.legend(
        [handles[way] for way in order], order, loc="outside lower center", ncols=4 if len(panels) > 1 else 3,
        frameon=False, fontsize=8, labelcolor=INK,
    )  # fmt: skip
    return figure


def limits_of(everything: list[Point]) -> tuple[float, float, float, float]:
    """Percent and tokens: room for whiskers and labels."""
    low = min((100 * point.score.low for point in everything), default=0.0)
    high = max((100 * point.score.high for point in everything), default=100.0)
    tokens = [point.tokens for point in everything] or [1.0]
    return max(low - 2, 0), min(high + 5, 104), min(tokens) / 1.25, max(tokens) * 1.35


def beside(
    several: Sequence[Point], limits: tuple[float, float, float, float], axes: tuple[float, float] = AXES,
    letter: float = LETTER,
) -> list[tuple[float, float]]:  # fmt: skip
    """Where each label stands beside its point: the first place that is free of others.

    `limits`: percent at the bottom and the top of the axes, tokens at the left and the right end. `axes`: their width
    and height, in the unit of the result and of the width of a `letter`.
    """
    bottom, top, left, right = limits
    x = [axes[0] * math.log(point.tokens / left) / math.log(right / left) for point in several]
    y = [axes[1] * (100 * point.score.accuracy - bottom) / (top - bottom) for point in several]
    taken = [(a - 3, b - 3, a + 3, b + 3) for a, b in zip(x, y, strict=True)]
    found = []
    for point, a, b in zip(several, x, y, strict=True):
        width = letter * len(point.label)
        boxes = {}
        for side, lift in product((1, -1), (6, -6, 14, -14, 22, -22)):
            start = a + 5 if side > 0 else a - 5 - width
            boxes[5.0 * side, float(lift)] = (start, b + lift - 4, start + width, b + lift + 4)
        overlaps = {
            place: sum(_overlap(box, other) for other in taken) + 2 * (box[0] < 0 or box[2] > axes[0])
            for place, box in boxes.items()
        }
        place = min(overlaps, key=overlaps.__getitem__)  # the first of equals
        taken.append(boxes[place])
        found.append(place)
    return found


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _panel(axes: Axes, several: list[Point]) -> None:
    from matplotlib.patheffects import withStroke

    for way, (colour, marker) in WAYS.items():
        some = [point for point in several if point.way == way]
        if not some:
            continue
        x, y = [point.tokens for point in some], [100 * point.score.accuracy for point in some]
        low = [value - 100 * point.score.low for value, point in zip(y, some, strict=True)]
        high = [100 * point.score.high - value for value, point in zip(y, some, strict=True)]
        axes.errorbar(
            x, y, yerr=[low, high], color=colour, marker=marker, markersize=8 if marker == "*" else 5.2,
            markeredgecolor=PAPER, markeredgewidth=0.6, linewidth=1.5, elinewidth=0.7, label=way,
            linestyle="-" if way in JOINED else "none",
        )  # fmt: skip
    limits = (*axes.get_ylim(), *axes.get_xlim())
    for point, (x_shift, y_shift) in zip(several, beside(several, limits), strict=True):
        axes.annotate(
            point.label, (point.tokens, 100 * point.score.accuracy), xytext=(x_shift, y_shift), va="center",
            ha="left" if x_shift > 0 else "right", textcoords="offset points", fontsize=7, color=WAYS[point.way][0],
            path_effects=[withStroke(linewidth=2, foreground=PAPER)],  # a curve may run below it
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("Tokens per problem, generated and prompt (log scale)", fontsize=8.5)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=5, labelcolor=MUTED)
