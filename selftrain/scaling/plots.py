"""The curves: accuracy against tokens, choice against vote against oracle, and accuracy against ignores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from selftrain.files import write_whole
from selftrain.report.plots import FORMATS, GRID, INK, MUTED, PAPER, render
from selftrain.scaling.records import ModelResult, ScaleResult, SettingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, darkened for text on white; a marker for each, so that colour is not needed.
LOOK: dict[str, tuple[str, str]] = {
    "single": (INK, "*"),
    "think": ("#b54708", "s"),
    "vote": ("#0067a6", "o"),
    "select": ("#00795b", "D"),
    "refine": ("#8a3f7e", "P"),
    "combined": ("#a1760a", "X"),
    "control": ("#667085", "v"),
    "oracle": ("#98a2b3", "^"),
}
WIDTH, HEIGHT = 5.2, 3.9  # inches of one panel; models stand side by side

Panel = Callable[["Axes", Mapping[str, SettingResult], ModelResult], None]


def draw(result: ScaleResult, folder: Path) -> list[Path]:
    """tokens, candidates and ignores, each as SVG, PDF and PNG, one panel for every model; returns the paths."""
    files = []
    for name, panel in (("tokens", _tokens), ("candidates", _candidates), ("ignores", _ignores)):
        for kind, content in render(partial(_figure, result.subjects, panel), FORMATS).items():
            files.append(write_whole(folder / f"{name}.{kind}", content))
    return files


def _figure(subjects: Sequence[ModelResult], panel: Panel) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * len(subjects), HEIGHT), facecolor=PAPER, layout="constrained")
    grid = figure.subplots(1, len(subjects), sharey=True, squeeze=False)[0]
    for k, (axes, subject) in enumerate(zip(grid, subjects, strict=True)):
        panel(axes, {s.name: s for s in subject.settings["test"]}, subject)
        axes.set_title(subject.name, loc="left", fontsize=10, color=INK)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if k == 0:
            axes.set_ylabel("accuracy on test, percent")
    handles, labels = grid[0].get_legend_handles_labels()
    for axes in grid[1:]:
        more = zip(*axes.get_legend_handles_labels(), strict=True)
        for handle, label in more:
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=8.5)
    return figure


def _points(axes: Axes, settings: Sequence[SettingResult], x: Sequence[float], family: str, label: str) -> None:
    """A curve with 95% intervals."""
    colour, marker = LOOK[family]
    y = [100 * s.totals.accuracy for s in settings]
    low = [value - 100 * s.totals.low for value, s in zip(y, settings, strict=True)]
    high = [100 * s.totals.high - value for value, s in zip(y, settings, strict=True)]
    axes.errorbar(
        x, y, yerr=[low, high], color=colour, marker=marker, markersize=5, linewidth=1.4, elinewidth=0.6,
        capsize=0, label=label, linestyle="--" if family == "oracle" else "-",
    )  # fmt: skip


def _tokens(axes: Axes, settings: Mapping[str, SettingResult], subject: ModelResult) -> None:
    """Every setting as a point; the frontier as a line."""
    for family, (colour, marker) in LOOK.items():
        some = [s for s in settings.values() if s.family == family]
        if some and family != "oracle":
            axes.scatter(
                [s.cost for s in some], [100 * s.totals.accuracy for s in some], color=colour, marker=marker,
                s=60 if marker == "*" else 26, linewidths=0, label=family, alpha=0.85,
            )  # fmt: skip
    best = sorted((settings[name] for name in subject.findings.frontier), key=lambda s: s.cost)
    axes.step(
        [s.cost for s in best], [100 * s.totals.accuracy for s in best], where="post", color=MUTED,
        linewidth=1, label="frontier",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("tokens per problem, generated and prompt (log scale)")


def plain_settings(settings: Mapping[str, SettingResult], strategy: str) -> list[SettingResult]:
    found = [s for s in settings.values() if s.strategy == strategy and not s.forced and s.plain]
    return sorted(found, key=lambda s: s.n)


def _greedy_line(axes: Axes, settings: Mapping[str, SettingResult]) -> None:
    accuracy = 100 * settings["greedy"].totals.accuracy
    axes.axhline(accuracy, color=INK, linewidth=0.9, linestyle=":", label="greedy")


def _candidates(axes: Axes, settings: Mapping[str, SettingResult], subject: ModelResult) -> None:
    """Selection against vote against oracle."""
    one = settings["mean@1"]
    curves = {"pass": ("oracle", "pass@N (oracle)"), "majority": ("vote", "vote@N"), "select": ("select", "select@N")}
    for strategy, (family, label) in curves.items():
        some = [one, *plain_settings(settings, strategy)]
        _points(axes, some, [s.n for s in some], family, label)
    _greedy_line(axes, settings)
    axes.set_xlabel("N, candidates per problem")
    _whole_numbers(axes)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def _ignores(axes: Axes, settings: Mapping[str, SettingResult], subject: ModelResult) -> None:
    """Budget forcing against the number of ignores, with the mean thinking tokens at each point."""
    by_ignores = {
        s.num_ignore: s
        for s in settings.values()
        if s.family == "think"
        and s.strategy == "greedy"
        and (s.limit, s.least) == (None, None)
        and s.num_ignore is not None
    }
    if by_ignores:
        _points(axes, [by_ignores[k] for k in sorted(by_ignores)], sorted(by_ignores), "think", "greedy, forced")
        for k, s in by_ignores.items():
            axes.annotate(
                f"{s.thinking.mean:.0f}", (k, 100 * s.totals.high), xytext=(0, 3),
                textcoords="offset points", ha="center", fontsize=7.5, color=MUTED,
            )  # fmt: skip
    _greedy_line(axes, settings)
    axes.set_xlabel("ends of thinking replaced (above: mean thinking tokens)")
    _whole_numbers(axes)
