"""Fingerprints of images: changed copies stay the same, other images do not become it."""

import io
import random
import struct
import zlib
from itertools import combinations, count

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from data_process.decontamination.near_image import Fingerprint, fingerprint, match_images
from data_process.schema import DataError

pytestmark = pytest.mark.slow
NUMBERS = count()


def drawing(seed: int) -> Image.Image:
    rng = random.Random(seed)
    image = Image.new("RGB", (180, 140), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        pen.line([(rng.randrange(15, 165), rng.randrange(15, 125)) for _ in range(2)], fill="black", width=2)
    for _ in range(3):
        pen.text((rng.randrange(15, 150), rng.randrange(15, 115)), str(rng.randrange(10, 180)), fill="black")
    return image


def photo(seed: int) -> Image.Image:
    rng = random.Random(seed)
    image = Image.new("RGB", (240, 180), tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        x, y, r = rng.randrange(240), rng.randrange(180), rng.randrange(15, 60)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(256) for _ in range(3)))
    return image.filter(ImageFilter.GaussianBlur(2))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).copy()


CHANGES = {
    "re-encoded at quality 75": lambda i: jpeg(i, 75),
    "three quarters of the size": lambda i: i.resize((i.width * 3 // 4, i.height * 3 // 4), Image.Resampling.BICUBIC),
    "double size": lambda i: i.resize((i.width * 2, i.height * 2), Image.Resampling.BICUBIC),
    "2% cropped": lambda i: i.crop((i.width // 50, i.height // 50, i.width, i.height)),
    "5% darker": lambda i: ImageEnhance.Brightness(i).enhance(0.95),
    "5% lighter": lambda i: ImageEnhance.Brightness(i).enhance(1.05),
    "wide white margin": lambda i: _framed(i),
}


def _framed(image: Image.Image) -> Image.Image:
    frame = Image.new("RGB", (image.width + 60, image.height + 20), "white")
    frame.paste(image, (40, 5))
    return frame


def print_of(image: Image.Image, path) -> Fingerprint:
    path = path.with_name(f"{next(NUMBERS)}-{path.name}")  # matches are confirmed from the files
    image.save(path, "PNG")
    found = fingerprint(path)
    assert isinstance(found, Fingerprint)
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [drawing, photo])
def test_changed_copies_are_found(make, change, tmp_path):
    if (make, change) == (photo, "wide white margin"):
        make = drawing  # a frame round a photo is a dark box with a border: cut off as any margin, tested once
    images = [make(seed) for seed in range(20)]
    originals = [print_of(image, tmp_path / "a.png") for image in images]
    copies = [print_of(CHANGES[change](image), tmp_path / "b.png") for image in images]
    found = {(match.train, match.test) for match in match_images(originals, copies)}
    assert {(position, position) for position in range(20)} <= found
    assert len(found) == 20  # and nothing else


@pytest.mark.parametrize("make", [drawing, photo])
def test_other_images_are_other_images(make, tmp_path):
    prints = [print_of(make(seed), tmp_path / "a.png") for seed in range(100, 200)]
    assert [m for m in match_images(prints, prints) if m.train < m.test] == []
    assert sum(m.how == "bytes" for m in match_images(prints, prints)) == 100


def test_one_line_more_is_another_image(tmp_path):
    """Nearly everything agrees on average; the worst block decides."""
    image = drawing(3)
    more = image.copy()
    ImageDraw.Draw(more).line((20, 120, 90, 20), fill="black", width=2)
    assert match_images([print_of(image, tmp_path / "a.png")], [print_of(more, tmp_path / "b.png")]) == []


def test_bytes_pixels_and_near_are_told_apart(tmp_path):
    image = drawing(5)
    first = print_of(image, tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    second = fingerprint(tmp_path / "b.bmp")
    third = print_of(jpeg(image, 70), tmp_path / "c.png")
    assert [m.how for m in match_images([first], [first, second, third])] == ["bytes", "pixels", "near"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_every_mode_of_one_drawing_is_the_same_image(mode, tmp_path):
    grey = drawing(7).convert("L").point(lambda level: 255 if level > 127 else 0)
    if mode == "I;16":
        image = Image.frombytes("I;16", grey.size, b"".join(struct.pack("<H", 257 * level) for level in grey.tobytes()))
    elif mode in ("RGBA", "LA"):  # black on nothing, whose hidden colour is black as well
        image = Image.merge("LA", (Image.new("L", grey.size, 0), grey.point(lambda level: 255 - level))).convert(mode)
    else:
        image = grey.convert(mode)
    image.save(tmp_path / "b.tif")
    found = fingerprint(tmp_path / "b.tif")
    assert isinstance(found, Fingerprint), found
    assert len(match_images([print_of(grey, tmp_path / "a.png")], [found])) == 1


def bomb() -> bytes:
    """The header of a PNG of 60,000 x 60,000 pixels and nothing after it."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    body = b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, data)
    )
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "missing"),
        (b"", "torn"),
        (b"not an image", "torn"),
        (encoded(drawing(1))[:300], "torn"),
        (encoded(drawing(1), "JPEG")[:900], "torn"),
        (encoded(drawing(1), "GIF")[:100], "torn"),
        (bomb(), "too_large"),
        (encoded(Image.new("RGB", (200, 200), "white")), "blank"),
        (encoded(Image.new("L", (1, 1))), "blank"),
        (encoded(Image.effect_noise((200, 200), 1)), "blank"),
    ],
)
def test_images_that_cannot_be_compared_say_why(data, reason, tmp_path):
    if data is not None:
        (tmp_path / "a.png").write_bytes(data)
    assert fingerprint(tmp_path / "a.png") == reason


def test_a_folder_is_no_image(tmp_path):
    assert fingerprint(tmp_path) == "missing"


def test_every_cut_of_a_file_is_read_or_refused(tmp_path):
    whole = encoded(drawing(2))
    for end in range(0, len(whole), 97):
        (tmp_path / "a.png").write_bytes(whole[:end])
        assert fingerprint(tmp_path / "a.png") in ("torn", "blank")


@pytest.mark.slow
def test_a_large_scan_is_compared_with_its_small_copy(tmp_path):
    image = drawing(4).convert("L")
    large = image.resize((7200, 5600))
    assert len(match_images([print_of(image, tmp_path / "a.png")], [print_of(large, tmp_path / "b.png")])) == 1


def test_a_file_that_changes_while_images_are_compared(tmp_path):
    first, second = print_of(drawing(1), tmp_path / "a.png"), print_of(jpeg(drawing(1), 75), tmp_path / "b.png")
    drawing(2).save(second.path)
    with pytest.raises(DataError, match="changed while the images were compared"):
        match_images([first], [second])


def test_empty_sides_match_nothing(tmp_path):
    one = [print_of(drawing(1), tmp_path / "a.png")]
    assert match_images([], one) == match_images(one, []) == match_images([], []) == []


def test_seeds_give_different_drawings():
    assert all(drawing(a).tobytes() != drawing(b).tobytes() for a, b in combinations(range(5), 2))
