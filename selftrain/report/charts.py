"""Small charts as SVG inside a page: drawn for a phone, in the page's colours, with text that stays text.

A chart is 300 units wide and its letters are 12 units high, so that on a page of 360 pixels they have 12 pixels.
Files for print come from `plots`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from selftrain.report.formatting import printable

WIDTH, HEIGHT = 300.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 36.0, 8.0, 20.0, 38.0
LETTER = 7.6  # of a wide letter
AREA = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)  # of the axes
# Shapes around the origin: a curve is told from others without its colour.
MARKERS = {
    "o": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z", "s": "M-2.7-2.7h5.4v5.4h-5.4z", "D": "M0-3.6L3.6 0L0 3.6L-3.6 0z",
    "^": "M0-3.4L3.4 2.8H-3.4z", "v": "M0 3.4L3.4-2.8H-3.4z",
    "P": "M-1.2-3.4h2.4v2.2h2.2v2.4h-2.2v2.2h-2.4v-2.2h-2.2v-2.4h2.2z",
    "X": "M-3-1.6L-1.6-3L0-1.4L1.6-3L3-1.6L1.4 0L3 1.6L1.6 3L0 1.4L-1.6 3L-3 1.6L-1.4 0z",
    "*": "M0-4.6L1.3-1.5L4.6-1.4L2-.1L2.9 3.8L0 1.6L-2.9 3.8L-2 .6L-4.6-1.4L-1.3-1.5z",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A value with its 95% interval, and words beside it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    place: tuple[float, float] = (5.0, -6.0)  # of the label, from the point


@dataclass(frozen=True)
class Curve:
    """Points in one colour: a variable of the page's style sheet, without its dashes."""

    name: str
    points: Sequence[Point]
    colour: str
    marker: str = "o"
    joined: bool = True
    dashed: bool = False
    band: bool = False  # intervals as a band: values between the points are meant
    shift: float = 0.0  # to the right, so that whiskers at one place stand beside each other
    last: str = ""  # beside the name in the legend


@dataclass(frozen=True)
class Axis:
    """What an axis shows. Without limits it shows the values and a little more."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False  # ticks at whole numbers alone
    form: Callable[[float], str] = field(default=lambda value: f"{value:,.10g}".replace("-", "−"))


def chart(
    title: str,
    curves: Sequence[Curve],
    x: Axis,
    y: Axis,
    *,
    rules: Sequence[tuple[str, float]] = (),
    mark: float | None = None,
) -> Markup:
    """A <figure> of curves. `rules`: horizontal lines with a name; `mark`: x of a dotted vertical line."""
    values = [point.x for curve in curves for point in curve.points]
    heights = [v for c in curves for p in c.points for v in (p.y, p.low, p.high) if v is not None] + [
        v for _, v in rules
    ]
    x_low, x_high = _limits(x, values, 0.05)
    y_low, y_high = _limits(y, heights, 0.03)

    def across(value: float) -> float:
        low, high, at = (map(math.log2, (x_low, x_high, value))) if x.log else (x_low, x_high, value)
        return LEFT + AREA[0] * (at - low) / (high - low)

    def down(value: float) -> float:
        return TOP + AREA[1] * (y_high - value) / (y_high - y_low)

    parts = [Markup('<text class="axis" x="0" y="12">{}</text>').format(y.label)]
    for tick in _ticks(y_low, y_high, y.whole):
        at = down(tick)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "grid"))
        parts.append(_text(LEFT - 5, at + 4, y.form(tick), "end"))
    right = -math.inf
    for tick in _powers(x_low, x_high) if x.log else _ticks(x_low, x_high, x.whole):
        words, at = x.form(tick), across(tick)
        half = LETTER * len(words) / 2
        if at - half > right:  # where letters do not run into those before
            right = at + half + 4
            parts.append(_text(min(at, WIDTH - half), HEIGHT - BOTTOM + 16, words, "middle"))
    parts.append(_text(LEFT + AREA[0] / 2, HEIGHT - 4, x.label, "middle"))
    if mark is not None:
        parts.append(_line(across(mark), TOP, across(mark), TOP + AREA[1], "mark"))
    for name, value in rules:
        parts += [_line(LEFT, down(value), WIDTH - RIGHT, down(value), "mark"), _text(LEFT + 2, down(value) - 3, name)]
    parts += [_curve(curve, across, down) for curve in curves]
    return _figure(title, f"{title}. {y.label} by {x.label}. {_said(curves, x, y)}", parts, _legend(curves), HEIGHT)


def bars(title: str, values: Sequence[tuple[str, float, str]], colour: str, about: str = "") -> Markup:
    """A <figure> of horizontal bars: name, length, words behind it."""
    step, most = 34.0, max((abs(value) for _, value, _ in values), default=0.0) or 1.0
    parts = []
    for k, (name, value, words) in enumerate(values):
        room = WIDTH - LETTER * len(words) - 6
        width = max(room * max(value, 0.0) / most, 1.0)
        bar = Markup('<path d="M0 {:.1f}h{:.1f}v12h-{:.1f}z" fill="var(--{})"/>')
        parts += [_text(0, k * step + 12, name), bar.format(k * step + 17, width, width, colour)]
        parts.append(_text(width + 5, k * step + 28, words))
    said = "; ".join(f"{name}: {words}" for name, _, words in values)
    return _figure(title, f"{title}. {said}", parts, Markup(), step * len(values), about)


def _figure(title: str, said: str, parts: Sequence[Markup], legend: Markup, height: float, about: str = "") -> Markup:
    note = Markup(" <span>{}</span>").format(about) if about else Markup()
    caption = Markup("<figcaption>{}{}</figcaption>").format(printable(title), note)
    svg = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}">{}</svg>')
    drawn = svg.format(printable(said), WIDTH, height, Markup().join(parts))
    return Markup('<figure class="chart">{}{}{}</figure>').format(caption, drawn, legend)


def _curve(curve: Curve, to_x: Callable[[float], float], down: Callable[[float], float]) -> Markup:
    def across(value: float) -> float:
        return to_x(value) + curve.shift

    points = sorted(curve.points, key=lambda p: p.x)
    colour, parts = Markup("var(--{})").format(curve.colour), list[Markup]()
    known = [(p, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if curve.band:
        edge = [(p.x, high) for p, _, high in known] + [(p.x, low) for p, low, _ in reversed(known)]
        parts.append(Markup('<path d="{}z" fill="{}" opacity=".12"/>').format(_path(edge, across, down), colour))
    else:
        for p, low, high in known:
            ends = f"M{across(p.x):.1f} {down(low):.1f}V{down(high):.1f}"
            parts.append(Markup('<path d="{}" stroke="{}" opacity=".5"/>').format(ends, colour))
    if curve.joined and len(points) > 1:
        dashes = Markup(' stroke-dasharray="5 3"') if curve.dashed else Markup()
        line = _path([(p.x, p.y) for p in points], across, down)
        parts.append(Markup('<path class="curve" d="{}" stroke="{}"{}/>').format(line, colour, dashes))
    for p in points if curve.marker else ():
        at = Markup("translate({:.1f} {:.1f})").format(across(p.x), down(p.y))
        parts.append(Markup('<path d="{}" transform="{}" fill="{}"/>').format(MARKERS[curve.marker], at, colour))
    for p in points:
        if p.label:
            dx, dy = p.place
            parts.append(
                Markup('<text class="beside" x="{:.1f}" y="{:.1f}" text-anchor="{}" style="fill:{}">{}</text>').format(
                    across(p.x) + dx, down(p.y) + dy + 4, "start" if dx > 0 else "end", colour, printable(p.label)
                )
            )
    return Markup().join(parts)


def _legend(curves: Sequence[Curve]) -> Markup:
    mark = Markup('<svg viewBox="-5 -5 10 10" aria-hidden="true"><path d="{}" fill="var(--{})"/></svg>')
    marks = [mark.format(MARKERS[c.marker] if c.marker else "M-5-1h10v2h-10z", c.colour) for c in curves]
    keys = [
        Markup("<span>{}{} <b>{}</b></span>").format(m, printable(c.name), c.last)
        for m, c in zip(marks, curves, strict=True)
    ]
    return Markup('<div class="key">{}</div>').format(Markup(" ").join(keys)) if keys else Markup()


def _said(curves: Sequence[Curve], x: Axis, y: Axis) -> str:
    """The values in words, for those who cannot see them; of long curves the first and the last."""
    parts = []
    for c in curves:
        shown = c.points if len(c.points) <= 24 else (c.points[0], c.points[-1])
        values = ", ".join(f"{y.form(round(p.y, 4))} at {p.label or x.form(round(p.x, 1))}" for p in shown)
        parts.append(f"{c.name}: {values}")
    return "; ".join(parts)


def _path(
    points: Sequence[tuple[float, float]], across: Callable[[float], float], down: Callable[[float], float]
) -> str:
    return "M" + "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in points)


def _line(x: float, y: float, to_x: float, to_y: float, css: str) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(css, x, y, to_x, to_y)


def _text(x: float, y: float, words: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, escape(printable(words))
    )


def _limits(axis: Axis, values: Sequence[float], more: float) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if axis.log:
        low, high = max(low, 1e-9) / 1.2, max(high, 1e-9) * 1.3
    else:
        span = (high - low) or 1.0
        low, high = low - more * span, high + more * span
    low, high = (low if axis.low is None else axis.low), (high if axis.high is None else axis.high)
    return low, max(high, low + 1e-9)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About four round values."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.999)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of two, every second or third where there are many; round values where there is at most one."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    if last - first < 1:
        return _ticks(low, high)
    return [2.0**k for k in range(first, last + 1, -(-(last - first + 1) // 5))]
