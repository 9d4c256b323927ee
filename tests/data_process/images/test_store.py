from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from data_process.images.opening import ImageError
from data_process.images.store import INDEX, ImageStore, canonical_size, png_size, smart_resize
from data_process.schema import Problem

LIMITS = {"min_pixels": 56 * 56, "max_pixels": 224 * 224}


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path, data) -> ImageStore:
    return ImageStore(tmp_path / "store", data, **LIMITS)


def image(path: Path, size=(112, 112), mode="RGB", seed=0, **options) -> Path:
    noise = random.Random(seed).randbytes(size[0] * size[1])
    Image.frombytes("L", size, noise).convert(mode).save(path, **options)
    return path


def pixels(path: Path) -> Image.Image:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        return image.copy()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# --- the rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (112, 112, (112, 112)),
        (100, 120, (112, 112)),
        (42, 70, (56, 56)),  # 1.5 and 2.5 patches both round to the even 2
        (1000, 1000, (224, 224)),
        (28, 2800, (28, 2240)),
    ],
)
def test_smart_resize_cases(height, width, expected):
    assert smart_resize(height, width, 28, **LIMITS) == expected


@pytest.mark.slow
def test_smart_resize_is_transformers_rule():
    theirs = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    draw = random.Random(0)
    compared = refused = 0
    for _ in range(500):
        height, width = (int(10 ** draw.uniform(0, 4)) for _ in range(2))
        low = draw.choice([1, 28 * 28, 56 * 56, 256 * 28 * 28])
        high = draw.choice([224 * 224, 1280 * 28 * 28, 16384 * 28 * 28])
        arguments = (height, width, draw.choice([28, 32, 14]), min(low, high), high)
        try:
            expected = theirs(*arguments)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match="aspect ratio"):
                smart_resize(*arguments)
            continue
        assert smart_resize(*arguments) == expected, arguments
        compared += 1
    assert compared > 400
    assert refused > 5


@pytest.mark.slow
def test_smart_resize_is_qwen_vl_utils_rule():
    """The pipeline that Qwen publishes resizes as the store does, and leaves every image of the store as it is.

    The two differ only where a side would round to nothing: `qwen_vl_utils` raises the short side of a sliver to a
    patch before it looks at the limits, and may shrink it below one; transformers, which reads the images here, does
    neither. The store has no image of such a size.
    """
    theirs = pytest.importorskip("qwen_vl_utils").smart_resize
    sides = (28, 41, 42, 43, 70, 112, 333, 1000, 2048, 4032)
    limits = [(56 * 56, 224 * 224), (4 * 28 * 28, 1280 * 28 * 28), (256 * 28 * 28, 16384 * 28 * 28)]
    for low, high in limits:
        for height, width in itertools.product(sides, sides):
            expected = theirs(height, width, 28, low, high)
            if min(expected) >= 28:
                assert smart_resize(height, width, 28, low, high) == expected, (height, width, low, high)
            stored = canonical_size(height, width, 28, low, high)
            assert theirs(*stored, 28, low, high) == stored, (height, width, low, high)
    for height, width in ((1, 201), (201, 1), (28, 5629)):
        for rule in (theirs, smart_resize):
            with pytest.raises(ValueError, match="aspect ratio"):
                rule(height, width, 28, *limits[0])
    assert (theirs(10, 1000, 28, *limits[0]), smart_resize(10, 1000, 28, *limits[0])) == ((28, 1008), (28, 560))


def test_canonical_size_is_a_fixed_point_within_the_limits():
    draw = random.Random(1)
    for _ in range(5000):
        height = int(10 ** draw.uniform(0, 4))
        width = max(1, min(200 * height, int(height * 10 ** draw.uniform(-2.3, 2.3))))
        if height > 200 * width:
            continue
        size = canonical_size(height, width, 28, **LIMITS)
        assert smart_resize(*size, 28, **LIMITS) == size
        assert LIMITS["min_pixels"] <= size[0] * size[1] <= LIMITS["max_pixels"]


def test_canonical_size_says_when_there_is_none():
    with pytest.raises(ValueError, match="pixels"):
        canonical_size(100, 300, 28, 100 * 100, 100 * 100)  # no multiple of 28 squared is 10,000


# --- the store ----------------------------------------------------------------------------------------------------


def test_canonical_image_keeps_its_pixels(store, data):
    source = image(data / "a.png", (140, 112))
    stored = store.add("a.png")
    assert (stored.width, stored.height, stored.n_tokens) == (140, 112, 20)
    assert stored.path.name == f"{stored.id}.png"
    assert pixels(stored.path).tobytes() == Image.open(source).convert("RGB").tobytes()


@pytest.mark.parametrize("size", [(113, 97), (1, 1), (28, 5000), (3000, 20), (640, 480), (1, 199)])
def test_resized_once_to_a_fixed_point(store, data, size):
    image(data / "a.png", size)
    stored = store.add("a.png")
    assert png_size(stored.path) == (stored.width, stored.height)
    assert smart_resize(stored.height, stored.width, 28, **LIMITS) == (stored.height, stored.width)
    assert stored.n_tokens == stored.width * stored.height // 784


def test_id_is_of_content_and_limits(tmp_path, store, data):
    image(data / "a.png")
    image(data / "b.bmp")  # the same pixels in another format
    image(data / "c.png", seed=1)
    assert store.add("a.png") == store.add("b.bmp")
    assert store.add("a.png").id != store.add("c.png").id
    other = ImageStore(tmp_path / "other", data, min_pixels=56 * 56, max_pixels=448 * 448)
    assert other.add("a.png").id != store.add("a.png").id


def test_second_add_decodes_nothing(store, data, monkeypatch, tmp_path):
    image(data / "a.png")
    first = store.add("a.png")
    monkeypatch.setattr("data_process.images.store.decode", None)
    assert store.add("a.png") == first
    assert ImageStore(tmp_path / "store", data, **LIMITS).add("a.png") == first  # from the index on disk
    os.utime(data / "a.png", ns=(1, 1))  # touched, same bytes
    assert store.add("a.png") == first


def test_changed_source_is_noticed(store, data):
    image(data / "a.bmp")
    first = store.add("a.bmp")
    os.utime(image(data / "a.bmp", seed=1), ns=(1, 1))  # as many bytes as before
    assert store.add("a.bmp").id != first.id


def test_lost_file_and_cut_index_are_made_good(store, data, tmp_path):
    image(data / "a.png")
    image(data / "b.png", seed=1)
    first, second = store.add("a.png"), store.add("b.png")
    first.path.unlink()
    index = tmp_path / "store" / INDEX
    index.write_bytes(index.read_bytes()[:-40])  # killed while the last line was written
    again = ImageStore(tmp_path / "store", data, **LIMITS)
    assert again.add("a.png") == first
    assert first.path.is_file()
    assert again.add("b.png") == second
    assert ImageStore(tmp_path / "store", data, **LIMITS).add("b.png") == second


@pytest.mark.parametrize(
    "line", ["null", "[]", '{"key": 1}', "\x00\xff", '{"key":["a"],"id":1,"width":"x","height":2}']
)
def test_strange_index_lines_are_passed_over(data, tmp_path, line):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / INDEX).write_text(line)
    image(data / "a.png")
    assert ImageStore(tmp_path / "store", data, **LIMITS).add("a.png").n_tokens == 16


def test_two_limits_share_a_folder(tmp_path, data):
    image(data / "a.png", (400, 400))
    small = ImageStore(tmp_path / "store", data, **LIMITS)
    large = ImageStore(tmp_path / "store", data, min_pixels=56 * 56, max_pixels=448 * 448)
    assert small.add("a.png").n_tokens == 64
    assert large.add("a.png").n_tokens == 196
    assert small.add("a.png").n_tokens == 64


@pytest.mark.parametrize(
    "limits",
    [{"min_pixels": 9, "max_pixels": 5}, {"min_pixels": 1, "max_pixels": 100}, {"min_pixels": 0, "max_pixels": 9999}],
)
def test_senseless_limits(tmp_path, limits):
    with pytest.raises(ValueError, match="pixels"):
        ImageStore(tmp_path, tmp_path, **limits)


# --- what images come as ----------------------------------------------------------------------------------------


def colour_of(store: ImageStore, data: Path, image: Image.Image, name: str = "a.png", **options) -> tuple[int, ...]:
    """The colour at (30, 50) of a one-coloured 112 x 112 image after the store."""
    image.save(data / name, **options)
    return pixels(store.add(name).path).getpixel((30, 50))


def test_alpha_lies_on_white(store, data):
    assert colour_of(store, data, Image.new("RGBA", (112, 112), (0, 0, 0, 0))) == (255, 255, 255)
    assert colour_of(store, data, Image.new("RGBA", (112, 112), (0, 0, 0, 127)), "b.png") == (128, 128, 128)
    assert colour_of(store, data, Image.new("LA", (112, 112), (10, 0)), "c.png") == (255, 255, 255)


def test_palette_with_and_without_transparency(store, data):
    image = Image.new("P", (112, 112), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    assert colour_of(store, data, image) == (200, 100, 50)
    assert colour_of(store, data, image, "b.png", transparency=1) == (255, 255, 255)
    assert colour_of(store, data, image, "c.gif") == (200, 100, 50)


def test_transparent_colour_of_rgb(store, data):
    image = Image.new("RGB", (112, 112), (1, 2, 3))
    assert colour_of(store, data, image, transparency=(1, 2, 3)) == (255, 255, 255)


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (65535, 255), (32896, 128), (257, 1)])
def test_deep_grey_is_scaled_not_clipped(store, data, value, grey):
    assert colour_of(store, data, Image.new("I;16", (112, 112), value)) == (grey,) * 3


def test_one_bit_and_cmyk(store, data):
    assert colour_of(store, data, Image.new("1", (112, 112), 1)) == (255, 255, 255)
    red = colour_of(store, data, Image.new("CMYK", (112, 112), (0, 255, 255, 0)), "b.jpg", quality=95)
    assert red[0] > 240
    assert max(red[1:]) < 15


def test_exif_orientation_is_applied(store, data):
    image = Image.new("RGB", (140, 112), "black")
    image.paste((255, 255, 255), (0, 0, 140, 56))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: show it rotated clockwise by 90 degrees
    image.save(data / "a.png", exif=exif)
    stored = store.add("a.png")
    assert (stored.width, stored.height) == (112, 140)
    shown = pixels(stored.path)
    assert shown.getpixel((100, 70)) == (255, 255, 255)
    assert shown.getpixel((10, 70)) == (0, 0, 0)


def test_first_frame_of_an_animation(store, data):
    first, second = Image.new("RGB", (112, 112), "red"), Image.new("RGB", (112, 112), "blue")
    first.save(data / "a.gif", save_all=True, append_images=[second])
    assert pixels(store.add("a.gif").path).getpixel((5, 5)) == (255, 0, 0)


# --- what cannot be used ------------------------------------------------------------------------------------------


def whole_png() -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("L", (112, 112), random.Random(0).randbytes(112 * 112)).save(buffer, format="PNG")
    return buffer.getvalue()


def whole_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("L", (112, 112), random.Random(0).randbytes(112 * 112)).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"", "empty"),
        ("a.png", b"not an image", "corrupt"),
        ("a.png", whole_png()[:3000], "corrupt"),
        ("a.png", whole_png()[:20], "corrupt"),
        ("a.png", whole_png().replace(b"IDAT", b"IDAX"), "corrupt"),
        ("a.jpg", whole_jpeg()[:1500], "corrupt"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        ("a.pdf", b"%PDF-1.4", "unsupported"),
        ("a.png", png_header(50_000, 50_000), "too_large"),
        ("a.png", png_header(13_000, 13_000), "too_large"),
        ("a.png", png_header(2**31 - 1, 2**31 - 1), "too_large"),
        ("a.png", png_header(0, 10), "corrupt"),
    ],
)
def test_unusable_content(store, data, name, content, reason):
    (data / name).write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.\w+") as caught:
        store.add(name)
    assert caught.value.reason == reason
    assert "; " in str(caught.value)  # the next step
    assert [path.name for path in store.root.iterdir()] == []


def test_too_extreme(store, data):
    image(data / "a.png", (1, 201))
    with pytest.raises(ImageError) as caught:
        store.add("a.png")
    assert caught.value.reason == "too_extreme"
    image(data / "b.png", (200, 1))
    assert store.add("b.png").n_tokens > 0


@pytest.mark.parametrize(
    ("relative", "reason"),
    [
        ("missing.png", "missing"),
        ("folder", "unsupported"),
        ("", "unsupported"),
        ("../outside.png", "outside"),
        ("folder/../a.png", "outside"),
        ("link.png", "outside"),
        ("linked/outside.png", "outside"),
        ("loop.png", "missing"),
        ("nul\0.png", "missing"),
        pytest.param("x" * 5000, "missing", id="long"),
    ],
)
def test_unusable_paths(store, data, tmp_path, relative, reason):
    image(tmp_path / "outside.png")
    image(data / "a.png")
    (data / "folder").mkdir()
    (data / "link.png").symlink_to(tmp_path / "outside.png")
    (data / "linked").symlink_to(tmp_path)
    (data / "loop.png").symlink_to(data / "loop.png")
    with pytest.raises(ImageError) as caught:
        store.add(relative)
    assert caught.value.reason == reason


def test_absolute_paths_are_outside_even_when_inside(store, data):
    with pytest.raises(ImageError) as caught:
        store.add(str(image(data / "a.png")))
    assert caught.value.reason == "outside"


def test_a_link_within_the_data_folder_is_fine(store, data):
    image(data / "a.png")
    (data / "b.png").symlink_to(data / "a.png")
    assert store.add("a.png") == store.add("b.png")


def test_check_counts_add_up(store, data):
    image(data / "a.png")
    (data / "empty.png").touch()

    def problem(name: str, image: str | None) -> Problem:
        return Problem(id=name, question="?", answer="A", choices=("1", "2"), images=(image,) if image else ())

    problems = [
        problem("fine", "a.png"),
        problem("text", None),
        problem("empty", "empty.png"),
        problem("gone", "gone.png"),
        problem("gone too", "gone.png"),
    ]
    usable, reasons, failed = store.check(problems)
    assert [p.id for p in usable] == ["fine", "text"]
    assert reasons == {"empty": 1, "missing": 2}
    assert failed == [("empty", "empty"), ("gone", "missing"), ("gone too", "missing")]
    assert len(usable) + reasons.total() == len(problems)


def test_png_size_refuses_other_files(data):
    (data / "a.png").write_bytes(b"short")
    with pytest.raises(OSError, match="not a PNG"):
        png_size(data / "a.png")


def test_ids_do_not_depend_on_the_process(store, data):
    image = Image.new("RGB", (112, 112), (1, 2, 3))
    image.save(data / "a.png")
    expected = hashlib.sha256(image.tobytes() + b"[112, 112, 3136, 50176, 28]").hexdigest()
    assert store.add("a.png").id == expected
