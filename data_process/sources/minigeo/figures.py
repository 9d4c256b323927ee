"""MiniGeo's figures: plane geometry that places lines and labels, and the drawing of a figure as an image."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

CELL = 28  # pixels; labels are centred on this grid, which is Qwen2-VL's token grid (14-pixel patches merged 2 x 2)
FONT_SIZE = 15  # points; three digits still fit one cell

Point = tuple[float, float]
Label = tuple[int | str, Point]  # "x" or degrees, and where its centre would ideally be
Params = tuple[int, ...]


@dataclass(frozen=True)
class Sketch:
    """A figure in arbitrary units, y upwards, before it is turned, scaled to the image and drawn."""

    lines: tuple[tuple[Point, Point], ...]
    labels: tuple[Label, ...]
    circle: tuple[Point, float] | None = None
    right_angle: tuple[Point, Point, Point] | None = None  # arm, corner, arm; a small square marks it


def _polar(degrees: float, radius: float = 1.0, centre: Point = (0.0, 0.0)) -> Point:
    angle = math.radians(degrees)
    return centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)


def _mix(p: Point, q: Point, t: float) -> Point:
    return p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])


def _triangle_corners(a: float, b: float) -> tuple[Point, Point, Point]:
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


def fan(span: int) -> Callable[[Params, int], Sketch]:
    """Rays from one point that cut `span` degrees (180: a straight line, 360: all round) into the angles."""

    def sketch(p: Params, x: int) -> Sketch:
        edges = [0, *itertools.accumulate((*p, x))]
        lines = [((0.0, 0.0), _polar(e)) for e in edges[: -1 if span == 360 else None]]
        middles = [_polar((low + high) / 2, 0.66) for low, high in itertools.pairwise(edges)]
        return Sketch(tuple(lines), tuple(zip((*p, "x"), middles, strict=True)))

    return sketch


def fan_bisected(p: Params, x: int) -> Sketch:
    """Rays that cut a straight line into the angles and twice x, which is labelled once."""
    whole = fan(180)((*p, x), x)
    return Sketch(whole.lines, (*whole.labels[:-2], ("x", whole.labels[-2][1])))


def triangle(p: Params, x: int) -> Sketch:
    a, b, c = _triangle_corners(p[0], p[1])
    return Sketch(_closed(a, b, c), ((p[0], _inside(a, b, c)), (p[1], _inside(b, a, c)), ("x", _inside(c, a, b))))


def triangle_bisected(p: Params, x: int) -> Sketch:
    a, b, c = _triangle_corners(p[0], p[1])
    ca, cb = math.dist(c, a), math.dist(c, b)
    foot = _mix(a, b, ca / (ca + cb))  # the bisector divides the opposite side in the ratio of the other two
    lines = (*_closed(a, b, c), (c, foot))
    return Sketch(lines, ((p[0], _inside(a, b, c)), (p[1], _inside(b, a, c)), ("x", _inside(c, a, foot))))


def right(p: Params, x: int) -> Sketch:
    a, c, b = _triangle_corners(p[0], 90)
    return Sketch(_closed(a, b, c), ((p[0], _inside(a, b, c)), ("x", _inside(b, a, c))), right_angle=(a, c, b))


def right_exterior(p: Params, x: int) -> Sketch:
    a, c, b = _triangle_corners(p[0], 90)
    beyond = _mix(c, b, 1.6)
    return Sketch(
        (*_closed(a, b, c), (b, beyond)),
        ((p[0], _inside(a, b, c)), ("x", _mix(b, _mix(beyond, a, 0.5), 0.5))),
        right_angle=(a, c, b),
    )


def right_exterior_bisected(p: Params, x: int) -> Sketch:
    a, c, b = _triangle_corners(p[0], 90)
    beyond = _mix(c, b, 1.6)
    # The bisector of the angle between `beyond` and `a`, seen from b.
    reach = math.dist(b, beyond) / math.dist(b, a)
    middle = _mix(beyond, _mix(b, a, reach), 0.5)
    return Sketch(
        (*_closed(a, b, c), (b, beyond), (b, middle)),
        ((p[0], _inside(a, b, c)), ("x", _mix(b, _mix(beyond, middle, 0.5), 0.7))),
        right_angle=(a, c, b),
    )


def right_bisected(p: Params, x: int) -> Sketch:
    a, c, b = _triangle_corners(p[0], 90)
    ba, bc = math.dist(b, a), math.dist(b, c)
    foot = _mix(a, c, ba / (ba + bc))
    return Sketch(
        (*_closed(a, b, c), (b, foot)),
        ((p[0], _inside(a, b, foot, t=0.35)), ("x", _inside(foot, b, c))),
        right_angle=(a, c, b),
    )


def apex(p: Params, x: int) -> Sketch:
    base = (180 - p[0]) / 2
    a, b, c = _triangle_corners(base, base)
    return Sketch(_closed(a, b, c), ((p[0], _inside(c, a, b)), ("x", _inside(a, b, c))))


def base_bisected(p: Params, x: int) -> Sketch:
    base = (180 - p[0]) / 2
    a, b, c = _triangle_corners(base, base)
    ab, ac = math.dist(a, b), math.dist(a, c)
    foot = _mix(b, c, ab / (ab + ac))
    return Sketch((*_closed(a, b, c), (a, foot)), ((p[0], _inside(c, a, b)), ("x", _inside(a, b, foot))))


def base(p: Params, x: int) -> Sketch:
    a, b, c = _triangle_corners(p[0], p[0])
    return Sketch(_closed(a, b, c), ((p[0], _inside(a, b, c)), ("x", _inside(c, a, b))))


def apex_exterior(p: Params, x: int) -> Sketch:
    base = (180 - p[0]) / 2
    a, b, c = _triangle_corners(base, base)
    beyond = _mix(a, b, 1.6)
    return Sketch(
        (*_closed(a, b, c), (b, beyond)), ((p[0], _inside(c, a, b)), ("x", _mix(b, _mix(beyond, c, 0.4), 0.6)))
    )


def _exterior(angle_a: int, angle_b: int, at_b: int | str, outside: int | str) -> Sketch:
    """A triangle with angles at two vertices, of which the first is labelled, and the exterior angle at the third."""
    a, c, b = _triangle_corners(angle_a, 180 - angle_a - angle_b)
    beyond = _mix(a, c, 1.6)
    labels = (angle_a, _inside(a, b, c)), (at_b, _inside(b, a, c)), (outside, _mix(c, _mix(beyond, b, 0.4), 0.55))
    return Sketch((*_closed(a, b, c), (c, beyond)), labels)


def exterior(p: Params, x: int) -> Sketch:
    return _exterior(p[0], p[1], p[1], "x")


def remote(p: Params, x: int) -> Sketch:
    return _exterior(p[1], p[0] - p[1], "x", p[0])


def two_exteriors(p: Params, x: int) -> Sketch:
    a, c, b = _triangle_corners(p[1], 180 - p[0])
    beyond_c, beyond_b = _mix(a, c, 1.6), _mix(a, b, 1.6)
    labels = (
        (p[1], _inside(a, b, c)),
        (p[0], _mix(c, _mix(beyond_c, b, 0.4), 0.55)),
        ("x", _mix(b, _mix(beyond_b, c, 0.4), 0.55)),
    )
    return Sketch((*_closed(a, b, c), (c, beyond_c), (b, beyond_b)), labels)


def _transversal(angle: int) -> tuple[Point, Point, tuple[tuple[Point, Point], ...]]:
    lean = 0.8 / math.tan(math.radians(angle)) if angle != 90 else 0.0
    lean = max(-0.7, min(0.7, lean))
    top, bottom = (lean / 2, 0.4), (-lean / 2, -0.4)
    lines = (((-1.0, 0.4), (1.0, 0.4)), ((-1.0, -0.4), (1.0, -0.4)), (_mix(bottom, top, -0.4), _mix(bottom, top, 1.4)))
    return top, bottom, lines


def cointerior(p: Params, x: int) -> Sketch:
    top, bottom, lines = _transversal(p[0])
    return Sketch(lines, ((p[0], (bottom[0] + 0.42, bottom[1] + 0.2)), ("x", (top[0] + 0.42, top[1] - 0.2))))


def cointerior_bisected(p: Params, x: int) -> Sketch:
    top, bottom, lines = _transversal(p[0])
    foot = _polar(-x, 1.0, top)
    ray = (top, (top[0] + (foot[0] - top[0]) * 0.9, max(-0.4, foot[1])))
    return Sketch((*lines, ray), ((p[0], (bottom[0] + 0.42, bottom[1] + 0.2)), ("x", (top[0] + 0.6, top[1] - 0.2))))


def zigzag(p: Params, x: int) -> Sketch:
    knee = (0.55, 0.0)
    up, down = (-0.35, 0.5), (-0.35, -0.5)
    lines = ((up, (-1.0, 0.5)), (down, (-1.0, -0.5)), (up, (1.0, 0.5)), (down, (1.0, -0.5)), (up, knee), (down, knee))
    return Sketch(lines, ((p[0], (0.2, 0.36)), (p[1], (0.2, -0.36)), ("x", (0.0, 0.0))))


def circle(central: int, at_centre: int | str, at_rim: int | str, *, minor: bool = False, triangle: str = "") -> Sketch:
    """Centre O, chord PQ seen from O under `central` degrees, and R on the rim (on the minor arc if asked)."""
    o, p, q = (0.0, 0.0), _polar(270 - central / 2), _polar(270 + central / 2)
    r = _polar(262) if minor else _polar(84)
    lines = [(o, p), (o, q), (p, r), (q, r)]
    labels: list[Label] = [(at_centre, (0.0, -0.34)), (at_rim, (0.0, -0.66) if minor else (0.04, 0.6))]
    if triangle:
        lines.append((p, q))
        labels.append((triangle, (-0.36, -0.55)))
    return Sketch(tuple(lines), tuple(label for label in labels if label[0]), circle=(o, 1.0))


def quadrilateral(p: Params, x: int) -> Sketch:
    corners = [(0.0, 0.0), (1.0, 0.12), (0.92, 0.95), (0.1, 0.85)]
    centres = [_mix(corner, (0.5, 0.48), 0.36) for corner in corners]
    return Sketch(_closed(*corners), tuple(zip((*p, "x"), centres, strict=True)))


def quadrilateral_bisected(p: Params, x: int) -> Sketch:
    whole = quadrilateral(p, x)
    last, middle = whole.lines[3][0], _mix(whole.lines[0][0], whole.lines[1][0], 0.8)
    return Sketch((*whole.lines, (last, middle)), whole.labels)


def parallelogram(p: Params, x: int) -> Sketch:
    lean = max(-0.45, min(0.45, 0.7 / math.tan(math.radians(p[0]))))
    a, b, c, d = (0.0, 0.0), (1.0, 0.0), (1.0 + lean, 0.7), (lean, 0.7)
    return Sketch(_closed(a, b, c, d), ((p[0], _inside(a, b, c, d)), ("x", _inside(b, a, c, d))))


def cyclic(p: Params, x: int) -> Sketch:
    corners = [_polar(t) for t in (20, 110, 200, 300)]
    labels = ((p[0], _mix(corners[1], (0.0, 0.0), 0.45)), ("x", _mix(corners[3], (0.0, 0.0), 0.45)))
    return Sketch(_closed(*corners), labels, circle=((0.0, 0.0), 1.0))


def rectangle(width: int | str, height: int | str, inside: int | str) -> Sketch:
    a, b, c, d = (0.0, 0.0), (1.0, 0.0), (1.0, 0.62), (0.0, 0.62)
    return Sketch(_closed(a, b, c, d), ((width, (0.5, 0.62)), (height, (1.0, 0.31)), (inside, (0.5, 0.22))))


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
    if sketch.right_angle:
        end, corner, other = map(place, sketch.right_angle)
        a, b = (_mix(corner, arm, 9 / max(math.dist(corner, arm), 9.0)) for arm in (end, other))
        pen.line((*a, a[0] + b[0] - corner[0], a[1] + b[1] - corner[1], *b), fill=ink, width=1)

    font = ImageFont.load_default(FONT_SIZE)
    free = [(column, row) for row in range(height // CELL) for column in range(width // CELL)]
    read: list[tuple[int, int, str]] = []
    for label, anchor in sketch.labels:
        text, (x, y) = str(label), place(anchor)
        column, row = min(free, key=lambda c: math.dist((x, y), ((c[0] + 0.5) * CELL, (c[1] + 0.5) * CELL)))
        free.remove((column, row))
        read.append((row, column, text))
        cx, cy = (column + 0.5) * CELL, (row + 0.5) * CELL
        box = pen.textbbox((cx, cy), text, font=font, anchor="mm")
        pen.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), fill="white")
        pen.text((cx, cy), text, fill="black", font=font, anchor="mm")
    return image, sorted(read)
