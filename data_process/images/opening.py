"""The one way in which image files are opened: no program is started, memory is bounded, every fault is an ImageError.

Pillow chooses a reader by a file's contents and not by its name. Only the formats listed here are tried: the reader of
EPS starts Ghostscript, and those of ICO and ICNS decode a second image whose size the file does not declare.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_process.schema import DataError

if TYPE_CHECKING:
    from PIL import Image

Reason = Literal["missing", "empty", "corrupt", "too_large", "outside", "too_extreme", "unsupported", "not_canonical"]

FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "PCX",
)  # fmt: skip
STARTS_PROGRAMS = ("EPS", "WMF")
# Of one image: its file, what the decoder needs, and copies in other modes. With Python, Pillow and the canonical image
# the process stays below 600 MB. A 120-megapixel photo passes; 48 megapixels of a progressive one.
MAX_MEMORY = 480_000_000  # bytes
_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # bytes in memory; 4 of other modes
# Bytes for each pixel that decoders need besides, measured with Pillow 11.3 as the growth of the process.
_DECODER = {"WEBP": 13, "AVIF": 16, "JPEG2000": 24, "TIFF": 4, "GIF": 4, "MPO": 6}
_STRIP = 1_000_000  # pixels that are converted at a time where a conversion needs several copies
ORIENTATION = 0x0112  # EXIF tag


class ImageError(DataError):
    """An image that cannot be used. `reason` is a code for counting; the message has the path and the next step."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def opened(source: Path | str, raw: bytes) -> Image.Image:
    """An image file whose header is read and nothing decoded. `source` names it in errors. Raises ImageError."""
    from PIL import Image, UnidentifiedImageError

    Image.init()  # registers every format; `open` with `formats` takes that for granted

    def open_() -> Image.Image:
        try:
            image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)
        except UnidentifiedImageError as error:
            expected = Image.registered_extensions().get(Path(source).suffix.lower())
            if expected in Image.OPEN and expected not in STARTS_PROGRAMS:
                message = f"{source} contains no readable image; fetch it again, or convert it to PNG"
                raise ImageError("corrupt", message) from error
            message = f"{source} has a format that is not read here; convert it to PNG"
            raise ImageError("unsupported", message) from error
        if min(image.size) < 1:
            raise ImageError("corrupt", f"{source} declares {image.width} x {image.height} pixels; fetch it again")
        return image

    return _guarded(source, open_)


def decoded(
    source: Path | str, raw: bytes, convert: Callable[[Image.Image], Image.Image] | None = None, *, draft: int = 0
) -> Image.Image:
    """An image file, decoded and turned as its EXIF says, after `convert`. An animation gives its first frame.

    `draft`: side in pixels that suffices, which lets a JPEG be decoded at a part of its size. Raises ImageError; one
    that would need more than MAX_MEMORY is refused before anything is decoded.
    """
    from PIL import ImageOps

    image = opened(source, raw)

    def decode() -> Image.Image:
        size = f"{image.width} x {image.height} pixels"
        if draft:
            image.draft("RGB", (draft, draft))
        _refuse_large(source, size, _memory(image, raw, turned=False))
        turned = False
        with contextlib.suppress(Exception):  # unreadable EXIF says nothing about the pixels
            turned = image.getexif().get(ORIENTATION, 1) != 1  # decodes a PNG
        _refuse_large(source, size, _memory(image, raw, turned))
        image.load()
        if turned:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, SyntaxError):
                ImageOps.exif_transpose(image, in_place=True)
        return convert(image) if convert else image

    return _guarded(source, decode)


def _guarded(source: Path | str, action: Callable[[], Image.Image]) -> Image.Image:
    """What an action of Pillow returns; whatever it raises on a hostile file becomes an ImageError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs and odd metadata; the limit here is stricter
            return action()
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError("too_large", f"{source} is too large to decode ({error}); scale it down") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        what = f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": ")
        raise ImageError("corrupt", f"{source} is damaged ({what}); fetch it again") from error


def _refuse_large(source: Path | str, size: str, need: int) -> None:
    if need > MAX_MEMORY:
        what = f"would take {need / 1e6:,.0f} MB to decode, more than {MAX_MEMORY / 1e6:.0f}"
        raise ImageError("too_large", f"{source} has {size} and {what}; scale it down before adding it")


def _memory(image: Image.Image, raw: bytes, turned: bool) -> int:
    """Bytes that decoding an opened image takes at most, with the conversion to RGB."""
    held = _PIXEL.get(image.mode, 4)
    decoder = _DECODER.get(image.format or "", 0)
    if image.format == "JPEG" and _several_scans(raw):  # all coefficients are kept until the last scan: 2 bytes each
        decoder = 2 * len(image.getbands())
    as_rgb = 0 if image.mode == "RGB" and "transparency" not in image.info else 4
    peak = held + max(decoder, held if turned else 0, as_rgb)
    return image.width * image.height * peak + len(raw)


def _several_scans(raw: bytes) -> bool:
    """Whether a JPEG is progressive or has its colours in separate scans. Thumbnails in its metadata do not count."""
    at = 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        kind = raw[at + 1]
        if kind == 0xDA:  # the first scan; inside one, every 0xFF is followed by 0 or a restart mark
            return raw.find(b"\xff\xda", at + 2) >= 0
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 if 0xD0 <= kind <= 0xD8 or kind == 0x01 else 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return True  # not as it should be: the worst is assumed


def by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An image as RGB by a conversion of single pixels, which holds several copies of a strip and not of the whole."""
    from PIL import Image

    if image.width * image.height <= _STRIP:
        return convert(image)
    whole = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        whole.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return whole


def resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """An RGB image resized by bicubic interpolation; a huge one in bands, to keep what lies between the passes small.

    Bands may differ by 1 of 255 here and there, because Pillow keeps their places as 32-bit floats.
    """
    from PIL import Image

    band = max(1, round(_STRIP / image.height * height / width))  # rows of the result from a strip of the image
    if 4 * (image.width + width) * image.height <= MAX_MEMORY:
        return image.resize((width, height), Image.Resampling.BICUBIC)
    whole = Image.new(image.mode, (width, height))
    for top in range(0, height, band):
        end = min(top + band, height)
        box = (0, top * image.height / height, image.width, end * image.height / height)
        whole.paste(image.resize((width, end - top), Image.Resampling.BICUBIC, box=box), (0, top))
    return whole


def canonical(path: Path) -> Image.Image:
    """An image of the store, or another image file, in RGB. ImageError, also if it cannot be read."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path} cannot be read ({error.strerror or error}); store it again") from error
    return decoded(path, raw, lambda image: image if image.mode == "RGB" else image.convert("RGB"))
