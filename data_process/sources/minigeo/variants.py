"""MiniGeo's kinds of problems: how each is asked, which parameters it has, and how it is solved.

`VARIANTS` make train, dev and test. `HARD` are kinds that none of these contains, most of them with more steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import mul

from data_process.sources.minigeo import figures
from data_process.sources.minigeo.figures import Params, Sketch

Step = str


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


def _then_half(solved: tuple[list[Step], int]) -> tuple[list[Step], int]:
    steps, value = solved
    text, half = _half(value)
    return [*steps, text], half


def _single(low: int, high: int, step: int = 1) -> Callable[[], Iterator[Params]]:
    return lambda: ((a,) for a in range(low, high + 1, step))


def _tuples(
    n: int, low: int, high: int, modulus: int = 1, *, larger_first: bool = False
) -> Callable[[], Iterator[Params]]:
    """All n-tuples of labels in [low, high]; with a modulus one in so many: there are more than anyone needs."""
    weights = (1, 3, 5, 7)[:n]
    return lambda: (
        p
        for p in itertools.product(range(low, high + 1), repeat=n)
        if sum(map(mul, p, weights)) % modulus == 0 and (not larger_first or p[0] > p[1])
    )


VARIANTS: tuple[Variant, ...] = (
    # name, family, difficulty, question, domain, solve, mirror, answers, sketch
    Variant("linear1", "linear_pair", 1, "Two angles lie on a straight line. Find x.", _single(20, 160),
            lambda p: _chain(_sub(180, p[0])), 180, (20, 160), figures.fan(180)),
    Variant("linear2", "linear_pair", 2, "Three angles lie on a straight line. Find x.", _tuples(2, 20, 120),
            lambda p: _sum_then(180, p), 180, (40, 140), figures.fan(180)),
    Variant("linear3", "linear_pair", 3, "Four angles lie on a straight line. Find x.", _tuples(3, 20, 90, 7),
            lambda p: _sum_then(180, p), 180, (60, 120), figures.fan(180)),
    Variant("right1", "right_triangle", 1, "The triangle has a right angle. Find angle x.", _single(12, 78),
            lambda p: _chain(_sub(90, p[0])), 90, (12, 78), figures.right),
    Variant("right2", "right_triangle", 2, "The triangle has a right angle. Find the exterior angle x.",
            _single(12, 78), lambda p: _chain(_sub(90, p[0]), _sub(180, 90 - p[0])),
            270, (102, 168), figures.right_exterior),
    Variant("right3", "right_triangle", 3, "In the right triangle one angle is bisected. Find angle x.",
            _single(12, 78, 2), lambda p: _chain(_sub(90, p[0]), _half(90 - p[0]), _sub(90, (90 - p[0]) // 2)),
            135, (51, 84), figures.right_bisected),
    Variant("triangle2", "triangle_sum", 2, "Find the third angle x of the triangle.", _tuples(2, 20, 120),
            lambda p: _sum_then(180, p), 180, (40, 140), figures.triangle),
    Variant("triangle3", "triangle_sum", 3, "The third angle of the triangle is bisected. Find x.", _tuples(2, 20, 120),
            lambda p: _chain(_add(*p), _sub(180, sum(p)), _half(180 - sum(p))), 90, (20, 70),
            figures.triangle_bisected),
    Variant("isosceles_apex", "isosceles", 2, "The triangle is isosceles. Find the base angle x.", _single(40, 140, 2),
            lambda p: _chain(_sub(180, p[0]), _half(180 - p[0])), 90, (20, 70), figures.apex),
    Variant("isosceles_base", "isosceles", 2, "The triangle is isosceles. Find the top angle x.", _single(20, 70),
            lambda p: _chain(_add(p[0], p[0]), _sub(180, 2 * p[0])), 180, (40, 140), figures.base),
    Variant("isosceles_exterior", "isosceles", 3, "The triangle is isosceles. Find the exterior angle x.",
            _single(40, 140, 2), lambda p: _chain(_sub(180, p[0]), _half(180 - p[0]), _sub(180, (180 - p[0]) // 2)),
            270, (110, 160), figures.apex_exterior),
    Variant("exterior", "exterior_angle", 1, "Two inner angles are shown. Find the exterior angle x.",
            _tuples(2, 20, 110), lambda p: _chain(_add(*p)), 180, (40, 140), figures.exterior),
    Variant("remote", "exterior_angle", 1, "An exterior angle is shown. Find the inner angle x.",
            _tuples(2, 20, 160, larger_first=True), lambda p: _chain(_sub(*p)), 180, (40, 140), figures.remote),
    Variant("two_exteriors", "exterior_angle", 2, "One exterior angle is shown. Find the other one, x.",
            _tuples(2, 20, 160, larger_first=True), lambda p: _chain(_sub(*p), _sub(180, p[0] - p[1])),
            180, (40, 140), figures.two_exteriors),
    Variant("cointerior", "parallel_lines", 1, "The two lines are parallel. Find angle x.", _single(35, 145),
            lambda p: _chain(_sub(180, p[0])), 180, (35, 145), figures.cointerior),
    Variant("zigzag", "parallel_lines", 1, "A zigzag joins two parallel lines. Find angle x.", _tuples(2, 15, 80),
            lambda p: _chain(_add(*p)), 180, (40, 140), figures.zigzag),
    Variant("cointerior_bisected", "parallel_lines", 2, "The lines are parallel, one angle is bisected. Find x.",
            _single(40, 140, 2), lambda p: _chain(_sub(180, p[0]), _half(180 - p[0])),
            90, (20, 70), figures.cointerior_bisected),
    Variant("central", "inscribed_angle", 1, "The inscribed angle is shown. Find the central angle x.", _single(20, 70),
            lambda p: _chain(_add(p[0], p[0])), 180, (40, 140), lambda p, x: figures.circle(x, "x", p[0])),
    Variant("inscribed", "inscribed_angle", 1, "The central angle is shown. Find the inscribed angle x.",
            _single(40, 140, 2), lambda p: _chain(_half(p[0])), 90, (20, 70),
            lambda p, x: figures.circle(p[0], p[0], "x")),
    Variant("minor_arc", "inscribed_angle", 2, "The central angle is shown. Find x on the minor arc.",
            _single(40, 140, 2), lambda p: _chain(_half(p[0]), _sub(180, p[0] // 2)), 270, (110, 160),
            lambda p, x: figures.circle(p[0], p[0], "x", minor=True)),
    Variant("radius_triangle", "inscribed_angle", 3, "The inscribed angle is shown. Find x between radius and chord.",
            _single(20, 70), lambda p: _chain(_add(p[0], p[0]), _sub(180, 2 * p[0]), _half(180 - 2 * p[0])),
            90, (20, 70), lambda p, x: figures.circle(2 * p[0], "", p[0], triangle="x")),
    Variant("quadrilateral", "quadrilateral", 3, "Find the fourth angle x of the quadrilateral.",
            _tuples(3, 50, 130, 11), lambda p: _sum_then(360, p), 180, (40, 140), figures.quadrilateral),
    Variant("parallelogram", "quadrilateral", 1, "The figure is a parallelogram. Find angle x.", _single(40, 140),
            lambda p: _chain(_sub(180, p[0])), 180, (40, 140), figures.parallelogram),
    Variant("cyclic", "quadrilateral", 1, "The quadrilateral lies on a circle. Find the opposite angle x.",
            _single(40, 140), lambda p: _chain(_sub(180, p[0])), 180, (40, 140), figures.cyclic),
    Variant("perimeter", "rectangle", 2, "Find the perimeter x of the rectangle.",
            _tuples(2, 5, 60, larger_first=True), lambda p: _chain(_add(*p), _add(sum(p), sum(p))), None, (30, 200),
            lambda p, x: figures.rectangle(p[0], p[1], "x")),
    Variant("side", "rectangle", 2, "The perimeter is inside the rectangle. Find the side x.",
            lambda: ((perimeter, side) for perimeter in range(40, 201, 2) for side in range(10, 61)),
            lambda p: _chain(_half(p[0]), _sub(p[0] // 2, p[1])), None, (10, 60),
            lambda p, x: figures.rectangle(p[1], "x", p[0])),
    Variant("point2", "angles_at_point", 2, "Three angles meet at a point. Find x.", _tuples(2, 60, 170),
            lambda p: _sum_then(360, p), 180, (40, 140), figures.fan(360)),
    Variant("point3", "angles_at_point", 3, "Four angles meet at a point. Find x.", _tuples(3, 40, 150, 23),
            lambda p: _sum_then(360, p), 180, (40, 140), figures.fan(360)),
)  # fmt: skip

HARD: tuple[Variant, ...] = (
    Variant("linear4", "linear_pair", 4, "Five angles lie on a straight line. Find x.", _tuples(4, 15, 35, 29),
            lambda p: _sum_then(180, p), 180, (60, 120), figures.fan(180)),
    Variant("point4", "angles_at_point", 4, "Five angles meet at a point. Find x.", _tuples(4, 45, 75, 211),
            lambda p: _sum_then(360, p), 180, (60, 120), figures.fan(360)),
    Variant("quadrilateral_bisected", "quadrilateral", 4, "The fourth angle of the quadrilateral is bisected. Find x.",
            _tuples(3, 50, 130, 61), lambda p: _then_half(_sum_then(360, p)), 90, (20, 70),
            figures.quadrilateral_bisected),
    Variant("linear_bisected", "linear_pair", 3, "Three angles lie on a straight line, one is bisected. Find x.",
            _tuples(2, 20, 120, 7), lambda p: _then_half(_sum_then(180, p)), 90, (20, 70), figures.fan_bisected),
    Variant("right_exterior_bisected", "right_triangle", 3,
            "In the right triangle the exterior angle is bisected. Find x.", _single(12, 78, 2),
            lambda p: _chain(_sub(90, p[0]), _sub(180, 90 - p[0]), _half(90 + p[0])), 135, (51, 84),
            figures.right_exterior_bisected),
    Variant("isosceles_bisected", "isosceles", 3, "The triangle is isosceles, a base angle is bisected. Find x.",
            _single(40, 140, 4), lambda p: _chain(_sub(180, p[0]), _half(180 - p[0]), _half((180 - p[0]) // 2)),
            45, (10, 35), figures.base_bisected),
)  # fmt: skip
BY_NAME = {variant.name: variant for variant in (*VARIANTS, *HARD)}
