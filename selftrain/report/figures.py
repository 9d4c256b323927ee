"""The charts of the page, from the records of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from selftrain.report import formatting as fmt
from selftrain.report import tokens_figure
from selftrain.report.charts import AREA, LETTER, Axis, Curve, Point, bars, chart
from selftrain.report.formatting import SPLITS, percent, strategies, strategy_name
from selftrain.report.plots import CURVES, OTHER_CURVES, UNDRAWN, VARIABLES, look_of
from selftrain.runs.losses import Losses
from selftrain.runs.metrics import Metrics
from selftrain.test_time.results import Calibration, Score

ITERATION = "Iteration (0 is the {})"


def accuracy(m: Metrics) -> list[Markup]:
    """Accuracy by iteration, a chart for each split that was measured."""
    found = []
    for name in SPLITS:
        drawn = [s for s in strategies(m, name) if s not in UNDRAWN]
        curves = []
        for k, strategy in enumerate(drawn):
            scores = [(r.iteration, s.strategies[strategy]) for r, s in m.splits(name) if strategy in s.strategies]
            colour, marker = look_of(m, strategy)
            few = len(scores) < 3  # a band would claim what lies between them
            curves.append(
                Curve(
                    strategy_name(m, strategy), [_percent(*one) for one in scores], _variable(colour), marker,
                    dashed=strategy == "pass", band=not few, shift=5 * (k - (len(drawn) - 1) / 2) if few else 0.0,
                    last=percent(scores[-1][1].accuracy),
                )
            )  # fmt: skip
        if curves:
            title = f"{SPLITS[name]}, n = {'–'.join(map(str, _ends(split.n for _, split in m.splits(name))))}"
            rules = [("chance", 100 * m.run.chance)] if m.run.chance is not None else []
            measured = {p.x for c in curves for p in c.points}
            mark = m.accepted if m.accepted in measured and len(measured) > 1 else None
            found.append(chart(title, curves, _iterations(m), Axis("Accuracy, %"), rules=rules, mark=mark))
    return found


def accuracy_note(m: Metrics) -> str:
    """How the charts of accuracy are to be read."""
    notes = ["Bands and whiskers: 95% intervals. Dotted line: the accepted iteration."]
    if "pass" in strategies(m, *SPLITS):
        notes.append("Pass is an oracle: it picks a sample with the gold answer. A selection may write a better one.")
    return " ".join(notes)


def tokens(m: Metrics) -> list[Markup]:
    """Accuracy against tokens on test, a chart each for the base and the accepted model, on the same axes."""
    panels = tokens_figure.shown(m) if fmt.extras(m) else {}
    everything = [point for scores in panels.values() for point in tokens_figure.points(m, scores)]
    limits = tokens_figure.limits_of(everything)
    low, high, least, most = limits
    x = Axis("Tokens per problem (log scale)", least, most, log=True)
    found = []
    for title, scores in panels.items():
        several = tokens_figure.points(m, scores)
        places = tokens_figure.beside(several, limits, AREA, LETTER)
        ways: dict[str, list[Point]] = {}
        for point, (dx, dy) in zip(several, places, strict=True):
            label = Point(point.tokens, 0, label=point.label, place=(dx, -dy))
            ways.setdefault(point.way, []).append(_percent(point.tokens, point.score, label))
        curves = [
            Curve(way, ways[way], _variable(colour), marker, joined=way in tokens_figure.JOINED)
            for way, (colour, marker) in tokens_figure.WAYS.items()
            if way in ways
        ]
        found.append(chart(title, curves, x, Axis("Accuracy, %", low, high)))
    return found


def dynamics(m: Metrics) -> list[Markup]:
    """Training problems by iteration: solved, newly solved, forgotten, never solved."""
    rows = [(row.iteration, row.dynamics) for row in m.iterations if row.dynamics is not None]
    if not rows:
        return []
    counts = {
        "solved": ("select", "o", [d.solved for _, d in rows]),
        "newly solved": ("greedy", "s", [d.newly_solved for _, d in rows]),
        "forgotten": ("majority", "D", [d.forgotten for _, d in rows]),
        "never solved": ("pass", "^", [d.never_solved for _, d in rows]),
    }
    curves = [
        Curve(name, [Point(k, n) for (k, _), n in zip(rows, values, strict=True)], colour, marker,
              last=f"{values[-1]:,}")
        for name, (colour, marker, values) in counts.items()
    ]  # fmt: skip
    return [chart("Training problems", curves, Axis("Iteration", whole=True), Axis("Problems", low=0, whole=True))]


def calibration(found: Sequence[tuple[str, Calibration]], what: str) -> list[Markup]:
    """Share of correct samples by reward or confidence, beside the line on which both are equal."""
    looks = [("greedy", "o"), ("majority", "s"), ("select", "D"), *((f"other{k}", "v") for k in range(3))]
    curves = [
        Curve(name, [Point(100 * one.mean, 100 * one.right) for one in c.bins], *looks[k % len(looks)])
        for k, (name, c) in enumerate(found)
    ]
    if not curves:
        return []
    equal = Curve("equal", [Point(0, 0), Point(100, 100)], "pass", "", dashed=True)
    axes = (Axis(f"{what}, %", low=0, high=100), Axis("Correct, %", low=0, high=100))
    return [chart(f"{what} against correctness", [equal, *curves], *axes)]


def loss(losses: Losses) -> list[Markup]:
    """Training loss by step, a curve for each iteration."""
    names = [*CURVES, *(f"other{k}" for k in range(len(OTHER_CURVES)))]
    curves = [
        Curve(f"iteration {k}", [Point(step, value) for step, value in points], names[i % len(names)],
              "" if len(points) > 12 else "o", last=f"{points[-1][1]:.3f}")
        for i, (k, points) in enumerate(losses.items()) if points
    ]  # fmt: skip
    return [chart("Training loss", curves, Axis("Step", low=0, whole=True), Axis("Loss", low=0))] if curves else []


def cost(prices: Sequence[tuple[str, float]]) -> list[Markup]:
    """What strategies pay for a point above the greedy answer."""
    values = [(name, tokens, f"{tokens:,.1f}") for name, tokens in prices]
    return [bars("Tokens per point above greedy", values, "majority", "accepted model, test")] if values else []


def _percent(x: float, score: Score, beside: Point | None = None) -> Point:
    label, place = (beside.label, beside.place) if beside else ("", (5.0, -6.0))
    return Point(x, 100 * score.accuracy, 100 * score.low, 100 * score.high, label, place)


def _variable(colour: str) -> str:
    """The name of a colour of the figures in the style sheet."""
    return VARIABLES[colour].removeprefix("var(--").removesuffix(")")


def _ends(values: Iterable[int]) -> list[int]:
    several = sorted(set(values))
    return several if len(several) < 2 else [several[0], several[-1]]


def _iterations(m: Metrics) -> Axis:
    label = ITERATION.format("base model" if m.base == 0 else "warm-up")
    return Axis(label, whole=True, form=lambda k: "base" if k < 0 else f"{k:.0f}")
