"""Whole images: changed copies are the same, and what differs in exactly what is asked is not."""

import random
from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from data_process.decontamination.full_image import same_image
from data_process.decontamination.guard import guard
from data_process.schema import Problem
from tests.data_process.decontamination.test_near_image import drawing, jpeg, photo

Draw = Callable[[ImageDraw.ImageDraw], object]


def canvas(draw: Draw, ground: str | tuple[int, int, int] = "white", size: tuple[int, int] = (300, 200)) -> Image.Image:
    image = Image.new("RGB", size, ground)
    draw(ImageDraw.Draw(image))
    return image


def disc(x: int, y: int, rx: int, ry: int, colour: str | tuple[int, int, int]) -> Draw:
    return lambda pen: pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)


def table(rows: list[tuple[int, int]], ground: str = "steelblue") -> Image.Image:
    image = Image.new("RGB", (200, 20 * len(rows) + 20), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, 200, 20), fill=ground)
    for number, cells in enumerate(rows, start=1):
        pen.line((0, 20 * number, 200, 20 * number), fill=(170, 170, 170))
        for column, value in enumerate(cells):
            pen.text((100 * column + 40, 20 * number + 2), str(value), fill="black", font=ImageFont.load_default(14))
    pen.line((100, 0, 100, image.height), fill=(170, 170, 170))
    return image


def chart(heights: list[int], colours: list[str]) -> Image.Image:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.line((20, 10, 20, 180, 290, 180), fill="black", width=2)
        for place, (height, colour) in enumerate(zip(heights, colours, strict=True)):
            pen.rectangle((40 + 60 * place, 178 - height, 75 + 60 * place, 178), fill=colour)

    return canvas(draw)


def graph(*points: tuple[int, int], width: int = 2) -> Image.Image:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for step in range(0, 300, 25):
            pen.line((step, 0, step, 300), fill=(220, 220, 220))
            pen.line((0, step, 300, step), fill=(220, 220, 220))
        pen.line((150, 0, 150, 300), fill="black", width=2)
        pen.line((0, 150, 300, 150), fill="black", width=2)
        pen.line(points, fill="blue", width=width)

    return canvas(draw, size=(300, 300))


def beads(colours: list[str], ground: tuple[int, int, int] = (120, 120, 130)) -> Image.Image:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for place, colour in enumerate(colours):
            disc(40 + 50 * place, 60 + 20 * (place % 3), 12, 12, colour)(pen)

    return canvas(draw, ground)


def clock(hour: float) -> Image.Image:
    from math import cos, pi, sin

    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.ellipse((60, 10, 240, 190), outline="black", width=3)
        for angle, length in ((2 * pi * hour / 12, 45), (2 * pi * hour, 75)):
            pen.line((150, 100, 150 + length * sin(angle), 100 - length * cos(angle)), fill="black", width=4)

    return canvas(draw)


TABLE = [(14, 5), (13, 17), (12, 15)]
COLOURS = ["navy", "orange", "navy", "orange"]
# What is asked differs: a value, a colour, a place, a size, a shape, a count, a direction.
DIFFERENT = {
    "all the numbers of a table": (table(TABLE), table([(11, 6), (5, 13), (20, 15)])),
    "one number of a table": (table(TABLE), table([(14, 5), (13, 27), (12, 15)])),
    "two rows of a table swapped": (table(TABLE), table([TABLE[1], TABLE[0], TABLE[2]])),
    "a table's header colour": (table(TABLE), table(TABLE, "seagreen")),
    "one bar": (chart([90, 60, 120, 30], COLOURS), chart([90, 60, 112, 30], COLOURS)),
    "bars swapped": (chart([90, 60, 120, 30], COLOURS), chart([60, 90, 120, 30], COLOURS)),
    "colours of bars swapped": (
        chart([90, 60, 120, 30], COLOURS), chart([90, 60, 120, 30], ["orange", "navy", "navy", "orange"]),
    ),
    "slope": (graph((0, 225), (300, 75)), graph((0, 240), (300, 60), width=3)),
    "slope, a little": (graph((0, 225), (300, 75)), graph((0, 235), (300, 65))),
    "opposite slope": (graph((0, 225), (300, 75)), graph((0, 75), (300, 225))),
    "intercept": (graph((0, 225), (300, 75)), graph((0, 200), (300, 50))),
    "colour of equal grey": (canvas(disc(150, 100, 40, 40, "red")), canvas(disc(150, 100, 40, 40, (0, 130, 0)))),
    "shade": (canvas(disc(150, 100, 40, 40, "navy")), canvas(disc(150, 100, 40, 40, "blue"))),
    "left or right": (canvas(disc(60, 100, 40, 40, "black")), canvas(disc(240, 100, 40, 40, "black"))),
    "top or bottom": (canvas(disc(150, 50, 40, 40, "black")), canvas(disc(150, 150, 40, 40, "black"))),
    "large or small": (canvas(disc(150, 100, 40, 40, "black")), canvas(disc(150, 100, 60, 60, "black"))),
    "round or oval": (canvas(disc(150, 100, 50, 50, "black")), canvas(disc(150, 100, 80, 50, "black"))),
    "round or square": (
        canvas(disc(150, 100, 50, 50, "black")), canvas(lambda pen: pen.rectangle((100, 50, 200, 150), fill="black")),
    ),
    "beads on grey": (beads(["red", "gold", "teal"]), beads(["teal", "red", "gold"])),
    "one bead more": (beads(["red", "gold", "teal"]), beads(["red", "gold", "teal", "red"])),
    "faint bead": (
        beads([(140, 120, 130), (120, 140, 130)]), beads([(120, 140, 130), (140, 120, 130)]),
    ),
    "time": (clock(3.25), clock(3.5)),
    "hour": (clock(3.0), clock(4.0)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("change", [lambda i: i, lambda i: jpeg(i, 75)], ids=["plain", "jpeg"])
def test_what_is_asked_differs(name, change):
    first, second = DIFFERENT[name]
    assert same_image(first, change(first))
    assert same_image(second, change(second))
    assert not same_image(first, change(second))
    assert not same_image(change(second), first)


@pytest.mark.parametrize("name", DIFFERENT)
def test_near_images_do_not_block_though_question_and_answer_are_the_same(name, tmp_path):
    for side, image in zip("ab", DIFFERENT[name], strict=True):
        image.save(tmp_path / f"{side}.png")
    first, second = (
        Problem(side, "Which of the values that are shown is the largest?", "7", (), (f"{side}.png",), "number")
        for side in "ab"
    )
    assert not guard([first], {"test": [second]}, tmp_path).blocking


def framed(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    frame = Image.new("RGB", (image.width + left + right, image.height + top + bottom), image.getpixel((0, 0)))
    frame.paste(image, (left, top))
    return frame


def part(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    w, h = image.size
    return image.crop((round(w * left), round(h * top), round(w * right), round(h * bottom)))


def scaled(image: Image.Image, factor: float, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), how)


SAME = {
    "JPEG 50": lambda i: jpeg(i, 50),
    "half size": lambda i: scaled(i, 0.5),
    "two thirds, bilinear": lambda i: scaled(i, 0.667, Image.Resampling.BILINEAR),
    "one and a half": lambda i: scaled(i, 1.5, Image.Resampling.LANCZOS),
    "cropped all round": lambda i: part(i, 0.01, 0.01, 0.99, 0.99),
    "cropped at a corner": lambda i: part(i, 0.03, 0.02, 1, 1),
    "cropped and smaller": lambda i: scaled(part(i, 0.02, 0, 1, 0.98), 0.75),
    "cropped, smaller, darker, JPEG 75": lambda i: jpeg(
        scaled(part(ImageEnhance.Brightness(i).enhance(0.95), 0.01, 0.01, 0.99, 0.99), 0.8), 75
    ),
    "brighter": lambda i: ImageEnhance.Brightness(i).enhance(1.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", SAME)
@pytest.mark.parametrize(
    "make",
    [
        lambda n: table([(random.Random(n + k).randint(1, 20), k + n) for k in range(4)]),
        lambda n: chart([30 + 20 * n, 60, 150 - 10 * n, 90], COLOURS),
        drawing,
        photo,
    ],
    ids=["table", "chart", "drawing", "photo"],
)
def test_changed_copies_are_the_same(make, change):
    for number in range(3):
        image = make(number).convert("RGB")
        copy = SAME[change](image).convert("RGB")
        assert same_image(image, copy)
        assert same_image(copy, image)
        assert not same_image(make(number + 1).convert("RGB"), copy)


@pytest.mark.parametrize("margins", [(40, 20, 40, 20), (0, 0, 50, 0), (30, 10, 5, 40)])
def test_margins_do_not_matter(margins):
    for image in (drawing(1), chart([30, 60, 150, 90], COLOURS), graph((0, 225), (300, 75))):
        assert same_image(image, framed(image, *margins))
        assert same_image(framed(image, *margins), image)


def test_images_that_have_nothing_to_lay_over_each_other():
    odd = [
        Image.new("RGB", (1, 1)), Image.new("RGB", (1, 300), "red"), Image.new("RGB", (300, 6), "white"),
        canvas(disc(150, 100, 1, 1, "black")), canvas(disc(150, 100, 1, 1, "black"), size=(700, 101)),
        canvas(lambda pen: pen.line((0, 100, 300, 100), fill="black")), drawing(1),
    ]  # fmt: skip
    for place, first in enumerate(odd):
        for second in odd[place + 1 :]:
            assert not same_image(first, second)
            assert not same_image(second, first)
