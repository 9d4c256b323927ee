"""MiniGeo: generated geometry questions in GeoQA's form, for demos and tests with a tiny model.

Each problem is a rendered diagram, a question, four choices, a gold letter, a family, a difficulty (the number of
reasoning steps) and a reference rationale. The numbers needed stand in the image, never in the text.

* Splits are disjoint in (variant, parameters): every parameter tuple is dealt to one split only.
* Distractors are results of a typical mistake and of misread labels, yet the text alone does not give the answer away.
  The typical mistake of each variant is a mirror: it yields `mirror - answer` (forgetting the last subtraction, halving
  the wrong angle). The choices are {x, mirror - x, y, mirror - y} with y the answer for misread labels, and the answers
  of a variant are spread evenly over an interval that the mirror maps to itself, so all four are equally likely a
  priori. `text_only_accuracy` checks this with a classifier that sees everything but the image.
* Same seed, same bytes (for one version of Pillow).

`python -m data_process.sources.minigeo --out data/minigeo` writes `train.jsonl`, `dev.jsonl`, `test.jsonl`,
`images/` and `card.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from data_process.schema import Problem
from data_process.seeds import seed_for

if TYPE_CHECKING:
    from PIL import Image

VERSION = 3  # changes whenever the same seed would give other bytes
CELL = 28  # pixels; labels are centred on this grid, which is Qwen2-VL's token grid (14-pixel patches merged 2 x 2)
SIZES = ((112, 112), (140, 112))  # width, height in pixels; the second for one image in WIDE_EVERY
WIDE_EVERY = 8
NEAR = 12  # the answer for misread labels is at most this far from the right one, so that a rough sum does not do
FONT_SIZE = 15  # points; three digits still fit one cell
SPLIT_SHARES = {"base": 0.34, "train": 0.46, "dev": 0.06, "test": 0.14}  # of each variant's parameter tuples
DEFAULT_SIZES = {"train": 4000, "dev": 400, "test": 800}

Point = tuple[float, float]
Params = tuple[int, ...]
Step = str


@dataclass(frozen=True)
class Sketch:
    """A drawing in arbitrary units, y upwards, before it is turned, fitted and rendered."""

    lines: tuple[tuple[Point, Point], ...]
    labels: tuple[tuple[str, Point], ...]  # text and where its centre would ideally be
    circle: tuple[Point, float] | None = None
    corner: Point | None = None  # of a right angle, marked by a small square
    corner_arms: tuple[Point, Point] | None = None


@dataclass(frozen=True)
class Variant:
    """One kind of question: how it is asked, which parameters it has, and how it is solved."""

    name: str
    family: str
    difficulty: int  # number of reasoning steps
    question: str
    domain: Callable[[], Iterator[Params]]
    solve: Callable[[Params], tuple[list[Step], int]]  # steps such as "50+70=120", and the answer
    mirror: int | None  # the typical mistake yields mirror - answer; None: all distractors come from misread labels
    answers: tuple[int, int]  # inclusive; symmetric under the mirror
    sketch: Callable[[Params, int], Sketch]  # parameters, answer


# ---- arithmetic, one step each -----------------------------------------------------------------------------------


def _add(a: int, b: int) -> tuple[Step, int]:
    return f"{a}+{b}={a + b}", a + b


def _sub(a: int, b: int) -> tuple[Step, int]:
    return f"{a}-{b}={a - b}", a - b


def _half(a: int) -> tuple[Step, int]:
    return f"{a}/2={a // 2}", a // 2


def _chain(*steps: tuple[Step, int]) -> tuple[list[Step], int]:
    return [text for text, _ in steps], steps[-1][1]


def _sum_then(total: int, params: Params) -> tuple[list[Step], int]:
    """a + b (+ c), then `total` minus that."""
    steps: list[tuple[Step, int]] = []
    value = params[0]
    for other in params[1:]:
        steps.append(_add(value, other))
        value += other
    steps.append(_sub(total, value))
    return _chain(*steps)


# ---- plane geometry ----------------------------------------------------------------------------------------------


def _polar(degrees: float, radius: float = 1.0, centre: Point = (0.0, 0.0)) -> Point:
    angle = math.radians(degrees)
    return centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)


def _mix(p: Point, q: Point, t: float) -> Point:
    return p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])


def _triangle(a: float, b: float) -> tuple[Point, Point, Point]:
    """Vertices of a triangle with angle `a` at the first, `b` at the second (degrees), base of length 1."""
    c = 180 - a - b
    side = math.sin(math.radians(b)) / math.sin(math.radians(c))
    return (0.0, 0.0), (1.0, 0.0), _polar(a, side)


def _inside(vertex: Point, *others: Point, t: float = 0.42) -> Point:
    """A point for the label of the angle at `vertex`, towards the middle of the figure."""
    centre = tuple(sum(c) / len(others) for c in zip(*others, strict=True))
    return _mix(vertex, (centre[0], centre[1]), t)


def _closed(*points: Point) -> tuple[tuple[Point, Point], ...]:
    return tuple(zip(points, points[1:] + points[:1], strict=True))


def _fan(angles: Sequence[int], names: Sequence[str], span: int) -> Sketch:
    """Rays from one point that cut `span` degrees (180: a straight line, 360: all round) into `angles`."""
    edges = [0, *itertools.accumulate(angles)]
    lines = [((0.0, 0.0), _polar(e)) for e in edges[: -1 if span == 360 else None]]
    labels = [
        (name, _polar((low + high) / 2, 0.66))
        for name, (low, high) in zip(names, itertools.pairwise(edges), strict=True)
    ]
    return Sketch(tuple(lines), tuple(labels))


def _sketch_fan(span: int) -> Callable[[Params, int], Sketch]:
    return lambda p, x: _fan([*p, x], [*map(str, p), "x"], span)


def _sketch_triangle(p: Params, x: int) -> Sketch:
    a, b, c = _triangle(p[0], p[1])
    return Sketch(
        _closed(a, b, c), ((str(p[0]), _inside(a, b, c)), (str(p[1]), _inside(b, a, c)), ("x", _inside(c, a, b)))
    )


def _sketch_triangle_bisected(p: Params, x: int) -> Sketch:
    a, b, c = _triangle(p[0], p[1])
    ca, cb = math.dist(c, a), math.dist(c, b)
    foot = _mix(a, b, ca / (ca + cb))  # the bisector divides the opposite side in the ratio of the other two
    lines = (*_closed(a, b, c), (c, foot))
    return Sketch(lines, ((str(p[0]), _inside(a, b, c)), (str(p[1]), _inside(b, a, c)), ("x", _inside(c, a, foot))))


def _sketch_right(p: Params, x: int) -> Sketch:
    a, c, b = _triangle(p[0], 90)
    return Sketch(
        _closed(a, b, c), ((str(p[0]), _inside(a, b, c)), ("x", _inside(b, a, c))), corner=c, corner_arms=(a, b)
    )


def _sketch_right_exterior(p: Params, x: int) -> Sketch:
    a, c, b = _triangle(p[0], 90)
    beyond = _mix(c, b, 1.6)
    return Sketch(
        (*_closed(a, b, c), (b, beyond)),
        ((str(p[0]), _inside(a, b, c)), ("x", _mix(b, _mix(beyond, a, 0.5), 0.5))),
        corner=c,
        corner_arms=(a, b),
    )


def _sketch_right_bisected(p: Params, x: int) -> Sketch:
    a, c, b = _triangle(p[0], 90)
    ba, bc = math.dist(b, a), math.dist(b, c)
    foot = _mix(a, c, ba / (ba + bc))
    return Sketch(
        (*_closed(a, b, c), (b, foot)),
        ((str(p[0]), _inside(a, b, foot, t=0.35)), ("x", _inside(foot, b, c))),
        corner=c,
        corner_arms=(a, b),
    )


def _sketch_apex(p: Params, x: int) -> Sketch:
    base = (180 - p[0]) / 2
    a, b, c = _triangle(base, base)
    return Sketch(_closed(a, b, c), ((str(p[0]), _inside(c, a, b)), ("x", _inside(a, b, c))))


def _sketch_base(p: Params, x: int) -> Sketch:
    a, b, c = _triangle(p[0], p[0])
    return Sketch(_closed(a, b, c), ((str(p[0]), _inside(a, b, c)), ("x", _inside(c, a, b))))


def _sketch_apex_exterior(p: Params, x: int) -> Sketch:
    base = (180 - p[0]) / 2
    a, b, c = _triangle(base, base)
    beyond = _mix(a, b, 1.6)
    return Sketch(
        (*_closed(a, b, c), (b, beyond)), ((str(p[0]), _inside(c, a, b)), ("x", _mix(b, _mix(beyond, c, 0.4), 0.6)))
    )


def _exterior(angle_a: int, angle_b: int, at_a: str, at_b: str, outside: str) -> Sketch:
    """A triangle with angles at two vertices and the exterior angle at the third."""
    a, c, b = _triangle(angle_a, 180 - angle_a - angle_b)
    beyond = _mix(a, c, 1.6)
    labels = [(at_a, _inside(a, b, c)), (at_b, _inside(b, a, c)), (outside, _mix(c, _mix(beyond, b, 0.4), 0.55))]
    return Sketch((*_closed(a, b, c), (c, beyond)), tuple((t, q) for t, q in labels if t))


def _sketch_exterior(p: Params, x: int) -> Sketch:
    return _exterior(p[0], p[1], str(p[0]), str(p[1]), "x")


def _sketch_remote(p: Params, x: int) -> Sketch:
    return _exterior(p[1], p[0] - p[1], str(p[1]), "x", str(p[0]))


def _sketch_two_exteriors(p: Params, x: int) -> Sketch:
    a, c, b = _triangle(p[1], 180 - p[0])
    beyond_c, beyond_b = _mix(a, c, 1.6), _mix(a, b, 1.6)
    labels = (
        (str(p[1]), _inside(a, b, c)),
        (str(p[0]), _mix(c, _mix(beyond_c, b, 0.4), 0.55)),
        ("x", _mix(b, _mix(beyond_b, c, 0.4), 0.55)),
    )
    return Sketch((*_closed(a, b, c), (c, beyond_c), (b, beyond_b)), labels)


def _transversal(angle: int) -> tuple[Point, Point, tuple[tuple[Point, Point], ...]]:
    lean = 0.8 / math.tan(math.radians(angle)) if angle != 90 else 0.0
    lean = max(-0.7, min(0.7, lean))
    top, bottom = (lean / 2, 0.4), (-lean / 2, -0.4)
    lines = (((-1.0, 0.4), (1.0, 0.4)), ((-1.0, -0.4), (1.0, -0.4)), (_mix(bottom, top, -0.4), _mix(bottom, top, 1.4)))
    return top, bottom, lines


def _sketch_cointerior(p: Params, x: int) -> Sketch:
    top, bottom, lines = _transversal(p[0])
    return Sketch(lines, ((str(p[0]), (bottom[0] + 0.42, bottom[1] + 0.2)), ("x", (top[0] + 0.42, top[1] - 0.2))))


def _sketch_cointerior_bisected(p: Params, x: int) -> Sketch:
    top, bottom, lines = _transversal(p[0])
    foot = _polar(-x, 1.0, top)
    ray = (top, (top[0] + (foot[0] - top[0]) * 0.9, max(-0.4, foot[1])))
    return Sketch(
        (*lines, ray), ((str(p[0]), (bottom[0] + 0.42, bottom[1] + 0.2)), ("x", (top[0] + 0.6, top[1] - 0.2)))
    )


def _sketch_zigzag(p: Params, x: int) -> Sketch:
    knee = (0.55, 0.0)
    up, down = (-0.35, 0.5), (-0.35, -0.5)
    lines = ((up, (-1.0, 0.5)), (down, (-1.0, -0.5)), (up, (1.0, 0.5)), (down, (1.0, -0.5)), (up, knee), (down, knee))
    return Sketch(lines, ((str(p[0]), (0.2, 0.36)), (str(p[1]), (0.2, -0.36)), ("x", (0.0, 0.0))))


def _circle(central: int, at_centre: str, at_rim: str, *, minor: bool = False, triangle: str = "") -> Sketch:
    """Centre O, chord PQ seen from O under `central` degrees, and R on the rim (on the minor arc if asked)."""
    o, p, q = (0.0, 0.0), _polar(270 - central / 2), _polar(270 + central / 2)
    r = _polar(262) if minor else _polar(84)
    lines = [(o, p), (o, q), (p, r), (q, r)]
    labels = [(at_centre, (0.0, -0.34)), (at_rim, (0.0, -0.66) if minor else (0.04, 0.6))]
    if triangle:
        lines.append((p, q))
        labels.append((triangle, (-0.36, -0.55)))
    return Sketch(tuple(lines), tuple(label for label in labels if label[0]), circle=(o, 1.0))


def _sketch_quadrilateral(p: Params, x: int) -> Sketch:
    corners = [(0.0, 0.0), (1.0, 0.12), (0.92, 0.95), (0.1, 0.85)]
    names = [*map(str, p), "x"]
    labels = [(name, _mix(corner, (0.5, 0.48), 0.36)) for name, corner in zip(names, corners, strict=True)]
    return Sketch(_closed(*corners), tuple(labels))


def _sketch_parallelogram(p: Params, x: int) -> Sketch:
    lean = max(-0.45, min(0.45, 0.7 / math.tan(math.radians(p[0]))))
    a, b, c, d = (0.0, 0.0), (1.0, 0.0), (1.0 + lean, 0.7), (lean, 0.7)
    return Sketch(_closed(a, b, c, d), ((str(p[0]), _inside(a, b, c, d)), ("x", _inside(b, a, c, d))))


def _sketch_cyclic(p: Params, x: int) -> Sketch:
    corners = [_polar(t) for t in (20, 110, 200, 300)]
    labels = ((str(p[0]), _mix(corners[1], (0.0, 0.0), 0.45)), ("x", _mix(corners[3], (0.0, 0.0), 0.45)))
    return Sketch(_closed(*corners), labels, circle=((0.0, 0.0), 1.0))


def _rectangle(width: str, height: str, inside: str) -> Sketch:
    a, b, c, d = (0.0, 0.0), (1.0, 0.0), (1.0, 0.62), (0.0, 0.62)
    labels = [(width, (0.5, 0.62)), (height, (1.0, 0.31)), (inside, (0.5, 0.22))]
    return Sketch(_closed(a, b, c, d), tuple(label for label in labels if label[0]))


# ---- the variants ------------------------------------------------------------------------------------------------


def _single(low: int, high: int, step: int = 1) -> Callable[[], Iterator[Params]]:
    return lambda: ((a,) for a in range(low, high + 1, step))


def _tuples(
    n: int, low: int, high: int, modulus: int = 1, *, larger_first: bool = False
) -> Callable[[], Iterator[Params]]:
    """All n-tuples of labels in [low, high]; with a modulus one in so many: there are more than anyone needs."""
    weights = (1, 3, 5)[:n]
    return lambda: (
        p
        for p in itertools.product(range(low, high + 1), repeat=n)
        if sum(v * w for v, w in zip(p, weights, strict=True)) % modulus == 0 and (not larger_first or p[0] > p[1])
    )


VARIANTS: tuple[Variant, ...] = (
    # name, family, difficulty, question, domain, solve, mirror, answers, sketch
    Variant("linear1", "linear_pair", 1, "Two angles lie on a straight line. Find x.", _single(20, 160),
            lambda p: _chain(_sub(180, p[0])), 180, (20, 160), _sketch_fan(180)),
    Variant("linear2", "linear_pair", 2, "Three angles lie on a straight line. Find x.", _tuples(2, 20, 120),
            lambda p: _sum_then(180, p), 180, (40, 140), _sketch_fan(180)),
    Variant("linear3", "linear_pair", 3, "Four angles lie on a straight line. Find x.", _tuples(3, 20, 90, 7),
            lambda p: _sum_then(180, p), 180, (60, 120), _sketch_fan(180)),
    Variant("right1", "right_triangle", 1, "The triangle has a right angle. Find angle x.", _single(12, 78),
            lambda p: _chain(_sub(90, p[0])), 90, (12, 78), _sketch_right),
    Variant("right2", "right_triangle", 2, "The triangle has a right angle. Find the exterior angle x.",
            _single(12, 78), lambda p: _chain(_sub(90, p[0]), _sub(180, 90 - p[0])),
            270, (102, 168), _sketch_right_exterior),
    Variant("right3", "right_triangle", 3, "In the right triangle one angle is bisected. Find angle x.",
            _single(12, 78, 2), lambda p: _chain(_sub(90, p[0]), _half(90 - p[0]), _sub(90, (90 - p[0]) // 2)),
            135, (51, 84), _sketch_right_bisected),
    Variant("triangle2", "triangle_sum", 2, "Find the third angle x of the triangle.", _tuples(2, 20, 120),
            lambda p: _sum_then(180, p), 180, (40, 140), _sketch_triangle),
    Variant("triangle3", "triangle_sum", 3, "The third angle of the triangle is bisected. Find x.", _tuples(2, 20, 120),
            lambda p: _chain(_add(*p), _sub(180, sum(p)), _half(180 - sum(p))), 90, (20, 70),
            _sketch_triangle_bisected),
    Variant("isosceles_apex", "isosceles", 2, "The triangle is isosceles. Find the base angle x.", _single(40, 140, 2),
            lambda p: _chain(_sub(180, p[0]), _half(180 - p[0])), 90, (20, 70), _sketch_apex),
    Variant("isosceles_base", "isosceles", 2, "The triangle is isosceles. Find the top angle x.", _single(20, 70),
            lambda p: _chain(_add(p[0], p[0]), _sub(180, 2 * p[0])), 180, (40, 140), _sketch_base),
    Variant("isosceles_exterior", "isosceles", 3, "The triangle is isosceles. Find the exterior angle x.",
            _single(40, 140, 2), lambda p: _chain(_sub(180, p[0]), _half(180 - p[0]), _sub(180, (180 - p[0]) // 2)),
            270, (110, 160), _sketch_apex_exterior),
    Variant("exterior", "exterior_angle", 1, "Two inner angles are shown. Find the exterior angle x.",
            _tuples(2, 20, 110), lambda p: _chain(_add(*p)), 180, (40, 140), _sketch_exterior),
    Variant("remote", "exterior_angle", 1, "An exterior angle is shown. Find the inner angle x.",
            _tuples(2, 20, 160, larger_first=True), lambda p: _chain(_sub(*p)), 180, (40, 140), _sketch_remote),
    Variant("two_exteriors", "exterior_angle", 2, "One exterior angle is shown. Find the other one, x.",
            _tuples(2, 20, 160, larger_first=True), lambda p: _chain(_sub(*p), _sub(180, p[0] - p[1])),
            180, (40, 140), _sketch_two_exteriors),
    Variant("cointerior", "parallel_lines", 1, "The two lines are parallel. Find angle x.", _single(35, 145),
            lambda p: _chain(_sub(180, p[0])), 180, (35, 145), _sketch_cointerior),
    Variant("zigzag", "parallel_lines", 1, "A zigzag joins two parallel lines. Find angle x.", _tuples(2, 15, 80),
            lambda p: _chain(_add(*p)), 180, (40, 140), _sketch_zigzag),
    Variant("cointerior_bisected", "parallel_lines", 2, "The lines are parallel, one angle is bisected. Find x.",
            _single(40, 140, 2), lambda p: _chain(_sub(180, p[0]), _half(180 - p[0])),
            90, (20, 70), _sketch_cointerior_bisected),
    Variant("central", "inscribed_angle", 1, "The inscribed angle is shown. Find the central angle x.", _single(20, 70),
            lambda p: _chain(_add(p[0], p[0])), 180, (40, 140), lambda p, x: _circle(x, "x", str(p[0]))),
    Variant("inscribed", "inscribed_angle", 1, "The central angle is shown. Find the inscribed angle x.",
            _single(40, 140, 2), lambda p: _chain(_half(p[0])), 90, (20, 70),
            lambda p, x: _circle(p[0], str(p[0]), "x")),
    Variant("minor_arc", "inscribed_angle", 2, "The central angle is shown. Find x on the minor arc.",
            _single(40, 140, 2), lambda p: _chain(_half(p[0]), _sub(180, p[0] // 2)), 270, (110, 160),
            lambda p, x: _circle(p[0], str(p[0]), "x", minor=True)),
    Variant("radius_triangle", "inscribed_angle", 3, "The inscribed angle is shown. Find x between radius and chord.",
            _single(20, 70), lambda p: _chain(_add(p[0], p[0]), _sub(180, 2 * p[0]), _half(180 - 2 * p[0])),
            90, (20, 70), lambda p, x: _circle(2 * p[0], "", str(p[0]), triangle="x")),
    Variant("quadrilateral", "quadrilateral", 3, "Find the fourth angle x of the quadrilateral.",
            _tuples(3, 50, 130, 11), lambda p: _sum_then(360, p), 180, (40, 140), _sketch_quadrilateral),
    Variant("parallelogram", "quadrilateral", 1, "The figure is a parallelogram. Find angle x.", _single(40, 140),
            lambda p: _chain(_sub(180, p[0])), 180, (40, 140), _sketch_parallelogram),
    Variant("cyclic", "quadrilateral", 1, "The quadrilateral lies on a circle. Find the opposite angle x.",
            _single(40, 140), lambda p: _chain(_sub(180, p[0])), 180, (40, 140), _sketch_cyclic),
    Variant("perimeter", "rectangle", 2, "Find the perimeter x of the rectangle.",
            _tuples(2, 5, 60, larger_first=True), lambda p: _chain(_add(*p), _add(sum(p), sum(p))), None, (30, 200),
            lambda p, x: _rectangle(str(p[0]), str(p[1]), "x")),
    Variant("side", "rectangle", 2, "The perimeter is inside the rectangle. Find the side x.",
            lambda: ((perimeter, side) for perimeter in range(40, 201, 2) for side in range(10, 61)),
            lambda p: _chain(_half(p[0]), _sub(p[0] // 2, p[1])), None, (10, 60),
            lambda p, x: _rectangle(str(p[1]), "x", str(p[0]))),
    Variant("point2", "angles_at_point", 2, "Three angles meet at a point. Find x.", _tuples(2, 60, 170),
            lambda p: _sum_then(360, p), 180, (40, 140), _sketch_fan(360)),
    Variant("point3", "angles_at_point", 3, "Four angles meet at a point. Find x.", _tuples(3, 40, 150, 23),
            lambda p: _sum_then(360, p), 180, (40, 140), _sketch_fan(360)),
)  # fmt: skip
BY_NAME = {variant.name: variant for variant in VARIANTS}


# ---- rendering ---------------------------------------------------------------------------------------------------


def render(sketch: Sketch, size: tuple[int, int], rng: random.Random) -> tuple[Image.Image, list[tuple[int, int, str]]]:
    """Draw a sketch, turned and mirrored at random. Returns an RGB image and (row, column, label) in reading order.

    Labels are centred on the CELL grid, nearest free cell first, on white: a reader always finds a whole label.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = size
    turn, mirror = rng.uniform(-25, 25) + rng.choice((0, 90, 180, 270)), rng.choice((-1, 1))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))

    def turned(p: Point) -> Point:
        x, y = p[0] * mirror, p[1]
        return x * cos - y * sin, x * sin + y * cos

    extent = [turned(p) for line in sketch.lines for p in line]
    if sketch.circle:
        (cx, cy), radius = turned(sketch.circle[0]), sketch.circle[1]
        extent += [(cx - radius, cy - radius), (cx + radius, cy + radius)]
    left, right = min(x for x, _ in extent), max(x for x, _ in extent)
    low, high = min(y for _, y in extent), max(y for _, y in extent)
    margin = 10
    scale = min((width - 2 * margin) / max(right - left, 1e-6), (height - 2 * margin) / max(high - low, 1e-6))
    scale *= rng.uniform(0.9, 1.0)
    dx = (width - scale * (right - left)) / 2 - scale * left + rng.uniform(-3, 3)
    dy = (height - scale * (high - low)) / 2 + scale * high + rng.uniform(-3, 3)

    def place(p: Point) -> Point:
        x, y = turned(p)
        return x * scale + dx, dy - y * scale

    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    ink = (70, 70, 70)
    if sketch.circle:
        (cx, cy), radius = place(sketch.circle[0]), sketch.circle[1] * scale
        pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), outline=ink, width=1)
    for start, end in sketch.lines:
        pen.line((*place(start), *place(end)), fill=ink, width=2)
    if sketch.corner and sketch.corner_arms:
        corner = place(sketch.corner)
        ends = [place(arm) for arm in sketch.corner_arms]
        arms = [_mix(corner, end, 9 / max(math.dist(corner, end), 9.0)) for end in ends]
        tip = (arms[0][0] + arms[1][0] - corner[0], arms[0][1] + arms[1][1] - corner[1])
        pen.line((*arms[0], *tip, *arms[1]), fill=ink, width=1)

    font = ImageFont.load_default(FONT_SIZE)
    free = [(column, row) for row in range(height // CELL) for column in range(width // CELL)]
    read: list[tuple[int, int, str]] = []
    for text, anchor in sketch.labels:
        x, y = place(anchor)
        column, row = min(free, key=lambda c: math.dist((x, y), ((c[0] + 0.5) * CELL, (c[1] + 0.5) * CELL)))
        free.remove((column, row))
        read.append((row, column, text))
        cx, cy = (column + 0.5) * CELL, (row + 0.5) * CELL
        box = pen.textbbox((cx, cy), text, font=font, anchor="mm")
        pen.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), fill="white")
        pen.text((cx, cy), text, fill="black", font=font, anchor="mm")
    return image, sorted(read)


# ---- choices and rationales --------------------------------------------------------------------------------------


def choose(variant: Variant, right: int, rng: random.Random) -> list[int]:
    """Four distinct values, the right one first: see the module's docstring for why none stands out."""
    values = attainable(variant)
    if variant.mirror is None:
        return [right, *rng.sample([v for v in values if v != right], 3)]
    mirrored = variant.mirror - right
    if mirrored == right:  # the middle of the interval has no mirror image; any other pair hides it as well
        return [right, *rng.sample([v for v in values if v != right], 3)]
    near = [v for v in values if v not in (right, mirrored) and 2 * v != variant.mirror and abs(v - right) <= NEAR]
    misread = rng.choice(near)
    return [right, mirrored, misread, variant.mirror - misread]


def rationale(labels: Sequence[str], steps: Sequence[Step], answer: int, letter: str) -> str:
    """The reference response: what is read, each step, the choice, the answer."""
    return (
        f"<think>I see {' and '.join(labels)}. {'. '.join(steps)}. {answer} is ({letter}).</think>\nAnswer: ({letter})"
    )


def make_problem(
    variant: Variant, params: Params, *, identifier: str, letter: str, seed: int
) -> tuple[Problem, Image.Image]:
    """One problem and its picture. Everything random comes from `seed`."""
    rng = random.Random(seed)
    steps, answer = variant.solve(params)
    size = SIZES[1] if rng.randrange(WIDE_EVERY) == 0 else SIZES[0]
    image, cells = render(variant.sketch(params, answer), size, rng)
    # Labels are named from the largest to the smallest: how the figure is turned then makes no difference.
    labels = sorted((label for _, _, label in cells if label != "x"), key=int, reverse=True)
    in_order = tuple(map(int, labels))
    if variant.solve(in_order)[1] == answer:  # sums are written in the order in which the labels are named
        steps, _ = variant.solve(in_order)
    right, *wrong = choose(variant, answer, rng)
    rng.shuffle(wrong)
    position = "ABCD".index(letter)
    values = [*wrong[:position], right, *wrong[position:]]
    problem = Problem(
        id=identifier,
        question=variant.question,
        answer=letter,
        choices=tuple(map(str, values)),
        image=f"images/{identifier}.png",
        meta={
            "family": variant.family,
            "variant": variant.name,
            "difficulty": variant.difficulty,
            "params": list(params),
            "labels": labels,
            "cells": [list(cell) for cell in cells],
            "steps": steps,
            "value": answer,
            "rationale": rationale(labels, steps, answer, letter),
        },
    )
    return problem, image


# ---- splits ------------------------------------------------------------------------------------------------------


@cache
def _domain(name: str) -> tuple[tuple[Params, int], ...]:
    """The variant's parameter tuples whose answers lie in its interval, with the answers."""
    variant = BY_NAME[name]
    low, high = variant.answers
    solved = ((params, variant.solve(params)[1]) for params in sorted(set(variant.domain())))
    return tuple((params, answer) for params, answer in solved if low <= answer <= high)


@cache
def attainable(variant: Variant) -> tuple[int, ...]:
    """The answers this variant can have, in order; where it has a mirror, those whose mirror image is one too.

    Otherwise a choice that can never be right would give its mirror image away.
    """
    values = {answer for _, answer in _domain(variant.name)}
    return tuple(sorted(v for v in values if variant.mirror is None or variant.mirror - v in values))


def _whole(variant: Variant, params: Params) -> bool:
    """Does every halving come out even? `55/2=27` would teach a falsehood."""
    halvings = (step.split("/2=") for step in variant.solve(params)[0] if "/2=" in step)
    return all(int(whole) == 2 * int(half) for whole, half in halvings)


@cache
def deal(seed: int) -> dict[str, dict[str, list[Params]]]:
    """Every variant's parameter tuples, shuffled and dealt to the splits: split -> variant -> tuples.

    Within a split the tuples are ordered so that any first few have their answers spread evenly over the interval.
    """
    dealt: dict[str, dict[str, list[Params]]] = {split: {} for split in SPLIT_SHARES}
    for variant in VARIANTS:
        tuples = list(_domain(variant.name))
        random.Random(seed_for(seed, "deal", variant.name)).shuffle(tuples)
        start = 0.0
        for split, share in SPLIT_SHARES.items():
            part = tuples[round(start * len(tuples)) : round((start + share) * len(tuples))]
            start += share
            seen: Counter[int] = Counter()
            turns = []
            for params, answer in part:
                # Left out after the dealing, so that every other tuple stays in its split.
                if answer not in attainable(variant) or not _whole(variant, params):
                    continue
                turns.append((seen[answer], seed_for(seed, "turn", variant.name, params), params))
                seen[answer] += 1
            dealt[split][variant.name] = [params for _, _, params in sorted(turns)]
    return dealt


def generate(split: str, n: int, seed: int = 0) -> Iterator[tuple[Problem, Image.Image]]:
    """`n` problems of a split, variants taking turns until their parameters are used up; no tuple twice.

    Raises ValueError if the split's parameters do not suffice.
    """
    tuples = deal(seed)[split]
    available = sum(map(len, tuples.values()))
    if n > available:
        raise ValueError(f"MiniGeo has {available} parameter tuples for split {split!r}, not {n}")
    plan: list[tuple[Variant, Params]] = []
    for turn in itertools.count():
        for variant in VARIANTS:
            if turn < len(tuples[variant.name]) and len(plan) < n:
                plan.append((variant, tuples[variant.name][turn]))
        if len(plan) >= n:
            break
    rng = random.Random(seed_for(seed, "order", split))
    rng.shuffle(plan)
    letters = ["ABCD"[i % 4] for i in range(n)]
    rng.shuffle(letters)
    for index, ((variant, params), letter) in enumerate(zip(plan, letters, strict=True)):
        yield make_problem(
            variant,
            params,
            identifier=f"minigeo-{split}-{index:05d}",
            letter=letter,
            seed=seed_for(seed, "problem", split, variant.name, params),
        )


# ---- the check that the text gives nothing away ------------------------------------------------------------------


def _text_features(problem: Problem) -> list[list[float]]:
    """Per choice, what a guesser without the picture could use: value, rank, and relations to the other choices."""
    values = [int(c) for c in problem.choices]
    ordered = sorted(values)
    rows = []
    for position, value in enumerate(values):
        others = [v for v in values if v != value]
        row = [1.0 if ordered.index(value) == r else 0.0 for r in range(4)]
        row += [1.0 if position == p else 0.0 for p in range(4)]
        row += [value / 180, abs(value - 90) / 90, float(value % 10 == 0), float(value % 2)]
        row += [float(any(abs(total - value) == o for o in others)) for total in (90, 180, 360)]
        row += [float(any(2 * value == o for o in others)), float(any(value == 2 * o for o in others))]
        row += [min(abs(value - o) for o in others) / 50, max(abs(value - o) for o in others) / 180]
        row += [float(value > 180), float(value < 20)]
        rows.append(row)
    return rows


def text_only_accuracy(train: Sequence[Problem], test: Sequence[Problem], epochs: int = 300) -> float:
    """Accuracy in [0, 1] on `test` of a conditional logit fitted on `train`, one weight vector per variant.

    It sees the question (hence the variant) and the choices but no image; chance is 1/4.
    """
    import numpy as np

    names = sorted({str(p.meta["variant"]) for p in (*train, *test)})

    def arrays(problems: Sequence[Problem]):
        features = np.array([_text_features(p) for p in problems])
        variant = np.array([names.index(str(p.meta["variant"])) for p in problems])
        return features, variant, np.array(["ABCD".index(p.answer) for p in problems])

    x, v, y = arrays(train)
    centre, spread = x.mean((0, 1)), x.std((0, 1)) + 1e-9
    x = (x - centre) / spread
    shared, own = np.zeros(x.shape[2]), np.zeros((len(names), x.shape[2]))
    for _ in range(epochs):
        logits = (x * (shared + own[v])[:, None]).sum(2)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        gradient = (p[:, :, None] * x).sum(1)
        shared -= 0.5 * gradient.mean(0)
        per_variant = np.zeros_like(own)
        np.add.at(per_variant, v, gradient)
        own -= 0.5 * (per_variant / np.maximum(np.bincount(v, minlength=len(names)), 1)[:, None] + 0.02 * own)
    x, v, y = arrays(test)
    x = (x - centre) / spread
    return float(((x * (shared + own[v])[:, None]).sum(2).argmax(1) == y).mean())


# ---- writing -----------------------------------------------------------------------------------------------------


def write(
    out: Path,
    sizes: dict[str, int] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Write the splits, the pictures and `card.json` (last) under `out`; returns the card.

    `on_progress` is told the pictures done and in all.
    """
    from data_process.io import write_jsonl

    sizes = dict(DEFAULT_SIZES) if sizes is None else sizes
    (out / "images").mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    splits: dict[str, list[Problem]] = {}
    for split, n in sizes.items():
        splits[split] = []
        for problem, image in generate(split, n, seed):
            path = out / str(problem.image)
            image.save(path, optimize=False)
            digest.update(path.read_bytes())
            splits[split].append(problem)
            on_progress(sum(map(len, splits.values())), sum(sizes.values()))
        rows = [asdict(p) for p in splits[split]]
        digest.update(json.dumps(rows, sort_keys=True).encode())
        write_jsonl(out / f"{split}.jsonl", rows)
    card = {
        "source": "minigeo",
        "version": VERSION,
        "seed": seed,
        "digest": digest.hexdigest()[:16],
        "splits": {
            split: {
                "items": len(problems),
                "letters": dict(sorted(Counter(p.answer for p in problems).items())),
                "families": dict(sorted(Counter(str(p.meta["family"]) for p in problems).items())),
                "difficulty": dict(sorted(Counter(str(p.meta["difficulty"]) for p in problems).items())),
            }
            for split, problems in splits.items()
        },
        "chance": 0.25,
    }
    if len(splits.get("train", ())) >= 400 and len(splits.get("test", ())) >= 100:
        card["text_only_accuracy"] = round(text_only_accuracy(splits["train"], splits["test"]), 4)
    partial = out / "card.json.partial"
    partial.write_text(json.dumps(card, indent=1) + "\n")
    partial.replace(out / "card.json")
    return card


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Generate the MiniGeo splits.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    for split, n in DEFAULT_SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=n, help=f"problems in {split} (default {n})")
    args = parser.parse_args(argv)
    card = write(args.out, {split: getattr(args, split) for split in DEFAULT_SIZES}, args.seed)
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
