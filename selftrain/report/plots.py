"""Accuracy by iteration as a figure: one panel for dev and, where it was read, one for test.

Drawn without pyplot and without the reader's matplotlibrc, so the same metrics give the same bytes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.files import write_whole
from selftrain.report.formatting import percent, printable, strategies, strategy_name
from selftrain.runs.metrics import Metrics
from selftrain.test_time.results import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's blue, vermilion and green, darkened until text in them reaches a contrast of 4.5 on white; the oracle,
# which no system can reach without the gold answers, is grey and dashed. The marker tells them apart without colour.
CURVES: dict[str, tuple[str, str]] = {  # strategy: colour, marker
    "greedy": ("#0067a6", "o"),
    "majority": ("#b54708", "s"),
    "select": ("#00795b", "D"),
    "pass": ("#667085", "^"),
}
UNDRAWN = ("mean",)  # one sample is no way to answer, and its curve would cover the greedy one
OTHER_CURVES = (("#8a3f7e", "P"), ("#a1760a", "X"), ("#0e7490", "v"))  # of all other strategies, in turn
INK, MUTED, GRID, PAPER = "#1d2433", "#5d6675", "#e3e6eb", "#ffffff"
# In the HTML page the same colours are variables, so that they follow a dark theme.
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    **{colour: f"var(--{strategy})" for strategy, (colour, _) in CURVES.items()},
    **{colour: f"var(--other{k})" for k, (colour, _) in enumerate(OTHER_CURVES)},
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same on every machine
    "font.size": 9.5,
    "text.parse_math": False,  # a run may be called "$x$"
    "text.color": INK,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    "axes.linewidth": 0.8,
    "svg.fonttype": "path",  # looks the same where the font is not installed
    "svg.hashsalt": "selftrain",  # otherwise element ids are random
    "pdf.fonttype": 42,
    "path.simplify": False,
}
# Inches. Fixed margins instead of a layout engine: the label column must not move the axes.
HEIGHT, TOP, BOTTOM, LEFT, PANEL, LABELS, GAP = 4.4, 0.75, 0.92, 0.55, 3.15, 1.72, 0.35
LINE = 13.5  # points between two labels
# Dates and version strings would make two equal figures differ.
FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "png": {"metadata": {"Software": None}, "dpi": 200},
}


def draw(m: Metrics, folder: Path) -> list[Path]:
    """Write curve.svg, curve.pdf and curve.png (200 dots per inch) into `folder` and return their paths."""
    drawn = render(lambda: _figure(m), FORMATS)
    return [write_whole(folder / f"curve.{kind}", content) for kind, content in drawn.items()]


def render(make: Callable[[], Figure], formats: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """A figure in several formats, drawn with this project's style alone, by format."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = make()
        drawn = {}
        for kind, options in formats.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, **options)
            drawn[kind] = buffer.getvalue()
    return drawn


def _figure(m: Metrics) -> Figure:
    from matplotlib.figure import Figure

    panels = {name: curves for name in ("dev", "test") if (curves := _curves(m, name))}
    width = LEFT + len(panels) * (PANEL + LABELS) + (len(panels) - 1) * GAP
    figure = Figure(figsize=(max(width, 4.0), HEIGHT), facecolor=PAPER)
    low, high = _limits(m, panels)
    for position, (name, curves) in enumerate(panels.items()):
        left = LEFT + position * (PANEL + LABELS + GAP)
        height = HEIGHT - TOP - BOTTOM
        axes = figure.add_axes((left / width, BOTTOM / HEIGHT, PANEL / width, height / HEIGHT))
        axes.set_ylim(low, high)
        _panel(axes, m, name, curves, points_per_percent=72 * height / (high - low))
    room = int(72 * (width - LEFT) / 4.8)  # characters of 8 point text on a line
    caption = "\n".join(textwrap.wrap(_caption(m), room, max_lines=2, placeholder=" …"))
    figure.text(LEFT / width, 0.1 / HEIGHT, caption, color=MUTED, fontsize=8, va="bottom", linespacing=1.35)
    return figure


def _curves(m: Metrics, name: str) -> dict[str, list[tuple[int, Score]]]:
    return {
        s: [(row.iteration, split.strategies[s]) for row, split in m.splits(name) if s in split.strategies]
        for s in strategies(m, name)
        if s not in UNDRAWN
    }


def look_of(m: Metrics, strategy: str) -> tuple[str, str]:
    """Colour and marker: a strategy's own, or the next free ones for a strategy that has none."""
    others = [s for s in strategies(m, "dev", "test") if s not in CURVES and s not in UNDRAWN]
    return CURVES[strategy] if strategy in CURVES else OTHER_CURVES[others.index(strategy) % len(OTHER_CURVES)]


def _limits(m: Metrics, panels: Mapping[str, Mapping[str, Sequence[tuple[int, Score]]]]) -> tuple[float, float]:
    """Percent, in tens, the same in every panel so that dev and test compare by eye."""
    scores = [score for curves in panels.values() for points in curves.values() for _, score in points]
    lows = [100 * score.low for score in scores] + ([100 * m.run.chance] if m.run.chance is not None else [])
    highs = [100 * score.high for score in scores]
    low = max(10 * ((min(lows, default=0) - 1) // 10), 0)
    high = min(10 * -((-max(highs, default=100) - 1) // 10), 100)
    return low, max(high, low + 10)


def _panel(
    axes: Axes, m: Metrics, name: str, curves: Mapping[str, list[tuple[int, Score]]], points_per_percent: float
) -> None:
    measured = sorted({iteration for points in curves.values() for iteration, _ in points})
    span = max(measured[-1] - measured[0], 1)
    # A band between two measurements would claim what lies between them, so a few points get whiskers, side by side.
    few = len(measured) < 3
    n = sorted({split.n for _, split in m.splits(name)})
    title = f"{name.capitalize()}, n = {'–'.join(str(x) for x in (n[0], n[-1])[: len(n)])}"
    pad = 32 if m.accepted == measured[0] and len(measured) > 1 else 22
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=pad)
    above: dict[str, Any] = {
        "xytext": (0, 5), "textcoords": "offset points", "va": "baseline", "fontsize": 8.5, "color": MUTED,
    }  # fmt: skip
    axes.annotate("Accuracy, %", (0, 1), xycoords="axes fraction", ha="left", **above)
    axes.set_xlim(measured[0] - 0.09 * span, measured[-1] + 0.09 * span)
    axes.set_xticks(measured if len(measured) <= 12 else measured[:: -(-len(measured) // 12)])
    if m.base < 0:
        axes.xaxis.set_major_formatter(lambda value, _: "base" if value < 0 else f"{value:.0f}")
    axes.set_xlabel(f"Iteration (0 is the {'base model' if m.base == 0 else 'warm-up'})", fontsize=8.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=6)

    if m.accepted in measured and len(measured) > 1:
        axes.axvline(m.accepted, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2.5)), zorder=1)
        side = "right" if m.accepted == measured[-1] else "left" if m.accepted == measured[0] else "center"
        # Over the first iteration the word would run into the name of the axis.
        lift = above | {"xytext": (0, 17)} if m.accepted == measured[0] else above
        axes.annotate("accepted", (m.accepted, 1), xycoords=("data", "axes fraction"), ha=side, **lift)
    if m.run.chance is not None:
        axes.axhline(100 * m.run.chance, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)

    for position, (strategy, points) in enumerate(curves.items()):
        colour, marker = look_of(m, strategy)
        shift = (position - (len(curves) - 1) / 2) * 0.036 * span if few else 0.0
        x = [iteration + shift for iteration, _ in points]
        y = [100 * score.accuracy for _, score in points]
        low, high = ([100 * getattr(score, end) for _, score in points] for end in ("low", "high"))
        if few:
            axes.vlines(x, low, high, color=colour, linewidth=1.4, alpha=0.55, zorder=2)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.11, linewidth=0, zorder=2)
        axes.plot(
            x, y, color=colour, marker=marker, markersize=5.2, markeredgecolor=PAPER, markeredgewidth=0.8,
            linewidth=1.3 if few else 2.0, linestyle=(0, (4, 2)) if strategy == "pass" else "-",
            zorder=4 if strategy == "greedy" else 3,
        )  # fmt: skip
    _label_ends(axes, m, curves, points_per_percent)


def _label_ends(
    axes: Axes, m: Metrics, curves: Mapping[str, list[tuple[int, Score]]], points_per_percent: float
) -> None:
    """Name and last value of each curve in a column right of the axes, moved apart where they would overlap."""
    labels = []
    for strategy, points in curves.items():
        last, name = points[-1][1].accuracy, printable(strategy_name(m, strategy))
        labels.append((100 * last, f"{name}  {percent(last)}", look_of(m, strategy)[0]))
    if m.run.chance is not None:
        labels.append((100 * m.run.chance, f"Chance  {percent(m.run.chance)}", MUTED))
    low, high = axes.get_ylim()
    places = spread([y for y, _, _ in labels], LINE / points_per_percent, low, high)
    right = axes.get_xlim()[1]
    for (y, words, colour), place in zip(labels, places, strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6}
        line |= {"relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 0}
        axes.annotate(
            words, (right, y), xytext=(16, (place - y) * points_per_percent), textcoords="offset points",
            color=colour, fontsize=9, va="center", annotation_clip=False, arrowprops=line,
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to `values` as they can be while `gap` apart and, if there is room, within [low, high].

    Neighbours that are too close form a group, centred on the mean of what its members want.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[tuple[list[int], float]] = []  # members from below, place of the lowest

    def lowest(members: list[int]) -> float:
        wanted = sum(values[i] - gap * rank for rank, i in enumerate(members)) / len(members)
        return max(min(wanted, high - gap * (len(members) - 1)), low)

    for i in order:
        members = [i]
        while groups and lowest(members) - (groups[-1][1] + gap * (len(groups[-1][0]) - 1)) < gap:
            members = groups.pop()[0] + members
        groups.append((members, lowest(members)))
    places = [0.0] * len(values)
    for members, start in groups:
        for rank, i in enumerate(members):
            places[i] = start + gap * rank
    return places


def _caption(m: Metrics) -> str:
    notes = ["Bands and whiskers: 95% intervals."]
    if "pass" in strategies(m, "dev", "test"):
        name = strategy_name(m, "pass").split(" ")[0]
        notes.append(
            f"{name} is an oracle: it picks a sample with the gold answer. A selection may write a better one."
        )
    return f"{' '.join(notes)} Run: {printable(m.run.name)}"
