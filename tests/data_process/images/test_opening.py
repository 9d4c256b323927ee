"""Hostile image files: no program is started, no more memory than promised, and nothing but ImageError."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from data_process.decontamination.near_image import fingerprint
from data_process.images.opening import MAX_MEMORY, ImageError, _memory, by_strips, canonical, decoded, opened, resized
from data_process.images.store import ImageStore, decode, to_rgb
from data_process.prepare.images import ImagePlacer
from data_process.sources.base import SourceImage

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 9 9 rectfill\nshowpage\n"


def saved(form: str, mode: str = "RGB", size=(64, 48), **options) -> bytes:
    noise = Image.frombytes("L", size, random.Random(1).randbytes(size[0] * size[1]))
    out = io.BytesIO()
    noise.convert(mode).save(out, form, **options)
    return out.getvalue()


def png(width: int, height: int, depth: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one colour, whatever its size: a few kilobytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    bands = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    row = bytes(1 + (width * bands * depth + 7) // 8)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# Formats as they are saved, and the readers that are not used: some start programs, others decode a second image.
WHOLE = {
    "png": saved("PNG"), "grey16": saved("PNG", "I;16"), "interlaced": saved("PNG", "RGBA"), "jpeg": saved("JPEG"),
    "progressive": saved("JPEG", progressive=True), "cmyk": saved("JPEG", "CMYK"), "webp": saved("WEBP"),
    "gif": saved("GIF", "P"), "bmp": saved("BMP"), "tiff": saved("TIFF", compression="tiff_lzw"),
    "ppm": saved("PPM"), "avif": saved("AVIF", speed=10), "jp2": saved("JPEG2000"), "tga": saved("TGA"),
    "pcx": saved("PCX"),
}  # fmt: skip
NOT_READ = {
    "eps": EPS, "ico": saved("ICO"), "icns": saved("ICNS", size=(64, 64)), "dds": saved("DDS"), "sgi": saved("SGI"),
    "im": saved("IM"), "spider": saved("SPIDER", "F"), "msp": saved("MSP", "1"), "pdf": saved("PDF"),
}  # fmt: skip


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE)
def test_whole_files(raw):
    assert opened("a", raw).size == (64, 48)
    assert (found := decode(Path("a"), raw)).mode == "RGB"
    assert found.size == (64, 48)


@pytest.mark.parametrize("suffix", ["png", "eps", "dds", ""])
@pytest.mark.parametrize("raw", NOT_READ.values(), ids=NOT_READ)
def test_formats_that_are_not_read(raw, suffix, tmp_path, monkeypatch):
    """By every way in, and whatever the file is called; nothing is started."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(raw)
    store = ImageStore(tmp_path / "store", tmp_path, min_pixels=100, max_pixels=10**6)
    for way in (
        lambda: opened(path, raw),
        lambda: decode(path, raw),
        lambda: store.add(path.name),
        lambda: canonical(path),
    ):
        with pytest.raises(ImageError) as caught:
            way()
        assert caught.value.reason in ("corrupt", "unsupported")
    assert fingerprint(path) == "torn"
    assert ImagePlacer(tmp_path / "out").place(SourceImage("a.png", data=raw)) == "unreadable"


@pytest.mark.parametrize("raw", [*WHOLE.values(), *NOT_READ.values()], ids=[*WHOLE, *NOT_READ])
def test_damaged_files(raw):
    """Bytes changed, removed, added and repeated: an image or an ImageError."""
    random_ = random.Random(len(raw))
    for _ in range(30):
        bytes_ = bytearray(raw)
        for _ in range(random_.randint(1, 8)):
            at = random_.randrange(min(len(bytes_), random_.choice((40, 400, 40_000))) or 1)
            what = random_.randrange(4)
            if what == 0:
                bytes_[at] = random_.randrange(256)
            elif what == 1:
                bytes_[at : at + 4] = struct.pack(">I", random_.choice((0, 1, 2**31 - 1, 2**32 - 1, 70_000)))
            elif what == 2:
                del bytes_[at : at + random_.randint(1, 50)]
            else:
                bytes_[at:at] = bytes_[at : at + random_.randint(1, 50)]
            bytes_ = bytes_ or bytearray(b"x")
        with contextlib.suppress(ImageError):
            assert decode(Path("a.png"), bytes(bytes_)).mode == "RGB"


def bomb(side: int, name: str) -> bytes:
    made = {
        "one bit": lambda: png(side, side, 1, 0, (b"tRNS", b"\0\0")),
        "palette": lambda: png(side, side, 8, 3, (b"PLTE", bytes(768)), (b"tRNS", bytes(256))),
        "rgba": lambda: png(side, side, 8, 6),
        "grey16": lambda: png(side, side, 16, 0),
        "rgb": lambda: png(side, side, 8, 2),
        "grey alpha": lambda: png(side, side, 8, 4),
    }
    return made[name]()


MEASURE = """
import sys, pathlib
from data_process.images.store import ImageStore
from data_process.decontamination.near_image import fingerprint
from data_process.images.opening import ImageError
path = pathlib.Path(sys.argv[1])
try:
    store = ImageStore(path.parent / "store", path.parent, min_pixels=3136, max_pixels=16384 * 28 * 28)
    print(store.add(path.name))
except ImageError as error:
    print(error.reason, error)
print(fingerprint(path))
# Not ru_maxrss, which begins with the size of the process that started this one.
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("palette", 9700), ("rgba", 7700), ("rgb", 10_900), ("grey16", 8900)])
def test_memory_of_one_image(name, side, tmp_path):
    """In a process of its own: its largest size, Python included."""
    (tmp_path / "a.png").write_bytes(bomb(side, name))
    run = [sys.executable, "-c", MEASURE, str(tmp_path / "a.png")]
    *_, most = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert int(most) < 600e6


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (png(12_000, 1, 8, 6).replace(struct.pack(">II", 12_000, 1), struct.pack(">II", 12_000, 12_000)), None),
        (saved("JPEG", size=(64, 64), progressive=True), (9000, 9000)),
        (saved("JPEG", size=(64, 64)), (16_000, 16_000)),
        (saved("GIF", "P"), (20_000, 20_000)),
    ],
    ids=["png", "progressive", "baseline", "gif"],
)
def test_bombs_are_refused_by_their_header(raw, said, monkeypatch):
    if said is not None:  # the same header with another size
        at = raw.index(b"\xff\xc2" if b"\xff\xc2" in raw else b"\xff\xc0") + 5 if raw[:2] == b"\xff\xd8" else 6
        order = ">HH" if raw[:2] == b"\xff\xd8" else "<HH"
        raw = raw[:at] + struct.pack(order, *said) + raw[at + 4 :]
    else:
        head = raw[12:29]
        raw = raw[:29] + struct.pack(">I", zlib.crc32(head)) + raw[33:]
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(ImageError) as caught:
        decoded("a", raw)
    assert caught.value.reason == "too_large"


def test_a_large_photo_is_not_refused():
    """The header of a 100-megapixel photo, as phones take them, and of a 36-megapixel drawing with transparency."""
    raw = saved("JPEG", size=(64, 64))
    at = raw.index(b"\xff\xc0") + 5
    photo = raw[:at] + struct.pack(">HH", 10_000, 10_000) + raw[at + 4 :]
    assert _memory(opened("a.jpg", photo), photo, turned=False) < MAX_MEMORY
    drawing = png(6000, 1, 8, 6)
    assert 6000 * _memory(opened("a.png", drawing), b"", turned=False) < MAX_MEMORY


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F", "RGB"])
def test_strips_give_the_same_pixels(mode, monkeypatch):
    noise = Image.frombytes("L", (300, 200), random.Random(3).randbytes(60_000))
    image = noise.convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    if mode == "RGBA":
        image.putalpha(noise.rotate(90, expand=False))
    whole = to_rgb(image.copy())
    monkeypatch.setattr("data_process.images.opening._STRIP", 1000)
    assert to_rgb(image).tobytes() == whole.tobytes()
    assert by_strips(noise, lambda part: part.convert("RGB")).tobytes() == noise.convert("RGB").tobytes()


@pytest.mark.parametrize(("size", "wanted"), [((301, 200), (84, 56)), ((300, 203), (280, 196)), ((90, 700), (28, 224))])
def test_bands_give_the_same_pixels_within_rounding(size, wanted, monkeypatch):
    image = Image.frombytes("RGB", size, random.Random(5).randbytes(3 * size[0] * size[1]))
    whole = image.resize(wanted, Image.Resampling.BICUBIC)
    assert resized(image, *wanted).tobytes() == whole.tobytes()
    monkeypatch.setattr("data_process.images.opening._STRIP", 300)
    monkeypatch.setattr("data_process.images.opening.MAX_MEMORY", 0)
    differs = ImageChops.difference(resized(image, *wanted), whole)
    assert max(high for _, high in differs.getextrema()) <= 1
